"""The pass `activation-sensitivity`: how much the outputs move when one activation tensor alone is rounded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir
import torch

from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import ActivationLossAtBits, ActivationRange, ActivationSensitivity
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.pass_manager.calibration_samples import live_elements_at_once, own_samples
from codesign.pass_manager.sample_values import SampleValues
from codesign.progress import track
from codesign.quantization.divergence import Estimate, divergence, reference_log_probabilities
from codesign.quantization.quantizer import activation_scale
from codesign.quantization.simulation import activation_ranges, fake_quantize

WIDTHS = (2, 3, 4, 5, 6, 8)
Quantity = Literal["kl", "squared-error"]
Key = tuple[str, int, Quantity]


@dataclass(frozen=True)
class ActivationSensitivityPass(AnalysisPass):
    """Measures KL(p || p with one activation tensor rounded), weights in floating point.

    The tensors are those that enter nodes with a weight. A tensor is rounded for all its readers, to the unsigned
    affine grid of 2^bits levels over its calibrated range, as at 8 bits. Nodes that share a tensor carry the same
    numbers, measured once. Each tensor x width costs the rest of one forward pass, about half of one on average. The
    search does not read these numbers: it gives activations 8 bits.

    Attributes:
        bits: Widths to try, 1 to 16.
        samples: How many calibration samples to use, from the first.
        dtype: What the network is computed in; divergences are in float64.
    """

    name: ClassVar[str] = "activation-sensitivity"
    requires: ClassVar[AnnotationSet] = frozenset({ActivationRange})
    provides: ClassVar[AnnotationSet] = frozenset({ActivationSensitivity})
    bits: tuple[int, ...] = WIDTHS
    samples: int = 256
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        wrong = [width for width in self.bits if not 1 <= width <= 16]
        if wrong:
            raise InputError(
                f"pass {self.name}: bits are {wrong}, allowed are 1 to 16; try {'+'.join(map(str, WIDTHS))}"
            )

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Must hold calibration data.
        """
        entering = {node: entering_name(node) for node in program.weighted_nodes}
        found = self._measure(program, context, tuple(dict.fromkeys(entering.values())))
        for node, value in entering.items():
            entries = tuple(_entry(value, width, found) for width in self.bits)
            annotate(node, ActivationSensitivity(value=value, by_bits=entries))

    def _measure(self, program: Program, context: PassContext, names: tuple[str, ...]) -> Mapping[Key, Estimate]:
        if not names:
            return {}
        dtype = {"float32": torch.float32, "float64": torch.float64}[self.dtype]
        elements = 2 * live_elements_at_once(program)  # the snapshot, and what goes on from it
        samples = own_samples(self.name, program, context, self.samples, dtype, elements)
        quantities: tuple[Quantity, ...] = ("kl", "squared-error")
        values = SampleValues([(n, width, q) for n in names for width in self.bits for q in quantities], context.shard)
        ranges = activation_ranges(program.graph)
        first_readers = _first_readers(program.graph.graph, names)
        graph = TorchGraph(program.graph, dtype)
        batches = track(context.progress, "Rounding one activation at a time", samples.batches(), samples.batch_count)
        with torch.no_grad():
            for x, _ in batches:
                reference = reference_log_probabilities(graph, x)
                for snapshot in graph.prefixes(x, first_readers):
                    for name in first_readers[snapshot.node]:
                        exact = snapshot.values[name]
                        for width in self.bits:
                            rounded = fake_quantize(exact.data, activation_scale(*ranges[name], width))
                            changed = {**snapshot.values, name: replace(exact, data=rounded)}
                            logits = graph.resume(replace(snapshot, values=changed))
                            what = f"pass {self.name}: value {name!r} at {width} bits"
                            values.add((name, width, "kl"), divergence(reference, logits), what)
                            error = (rounded - exact.data).double().square().flatten(1).sum(1)
                            values.add((name, width, "squared-error"), error, what)
        return values.estimates()


def entering_name(node: ir.Node) -> str:
    """Name of the tensor that a node multiplies with its weight.

    Args:
        node: A node with a constant weight.

    Returns:
        The name.

    Raises:
        InputError: It is a constant as well.
    """
    value = node.inputs[0]
    if value is None or value.name is None or value.const_value is not None:
        raise InputError(
            f"node {node.name!r} ({node.op_type}): multiplies two constants, so no activation enters it; "
            f"fold it into one constant"
        )
    return value.name


def _first_readers(graph: ir.Graph, names: tuple[str, ...]) -> Mapping[str, list[str]]:
    """By node: the tensors among `names` that it is the first to read."""
    found: dict[str, list[str]] = {}
    unread = set(names)
    for node in graph:
        read_here = {str(value.name) for value in node.inputs if value is not None} & unread
        if read_here:
            found[name_of(node)] = sorted(read_here)
            unread -= read_here
    return found


def _entry(value: str, bits: int, found: Mapping[Key, Estimate]) -> ActivationLossAtBits:
    kl = found[value, bits, "kl"]
    return ActivationLossAtBits(
        activation_bits=bits,
        kl_nats=max(kl.mean, 0.0),
        kl_standard_error_nats=kl.standard_error,
        squared_error=found[value, bits, "squared-error"].mean,
    )
