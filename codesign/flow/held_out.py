"""What quantised weights really do to a network, measured on samples that nothing was chosen on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.calibration_samples import live_elements_at_once, own_samples
from codesign.progress import Progress, track
from codesign.quantization.divergence import divergence
from codesign.quantization.simulation import SimulatedNetwork

_COPIES = 2
"""How often live activations are held: in the snapshot of a prefix, and in the run that goes on from it."""


@dataclass(frozen=True, eq=False)
class SampleIncreases:
    """What quantisation did to each sample, against the network in floating point.

    Attributes:
        kl: KL divergence of the outputs, nats, float64 `[N]`.
        loss: Increase of the cross-entropy, nats, float64 `[N]`.
    """

    kl: NDArray[np.float64]
    loss: NDArray[np.float64]


class Meter:
    """Runs a network with quantised weights and activations in floating point, on given samples.

    The bias is corrected, as in the final network. Several processes measure a part of the samples each, and all
    know all results.

    Args:
        program: A network whose nodes carry activation ranges and mean operands.
        data: Labelled samples; at least one for each process.
        context: This process's part of them, and the memory limit.

    Raises:
        InputError: The network gives NaN or infinity on a sample.
    """

    def __init__(self, program: Program, data: CalibrationData, context: PassContext) -> None:
        self._shard = context.shard
        self._network = SimulatedNetwork(program.graph)
        elements = _COPIES * live_elements_at_once(program)
        here = dataclasses.replace(context, calibration=data)
        samples = own_samples("--validate", program, here, len(data.images), torch.float32, elements)
        self._batches = [(x, y) for x, y in samples.batches() if y is not None]
        with torch.no_grad():
            self._references = [self._network.graph.run(x).double().log_softmax(-1) for x, _ in self._batches]
        if not all(torch.isfinite(found).all() for found in self._references):
            raise InputError("--validate: the network gives NaN or infinity; check its weights and the held-out data")

    def layers(self, bits: tuple[int, ...], progress: Progress) -> Mapping[tuple[str, int], SampleIncreases]:
        """Quantises every layer alone to every width; layers before it are not run again.

        Args:
            bits: Widths.
            progress: Told of every batch.

        Returns:
            By layer and width.
        """
        found: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
        work = zip(self._batches, self._references, strict=True)
        with torch.no_grad():
            for (x, y), reference in track(progress, "Measuring single layers", work, len(self._batches)):
                for snapshot in self._network.graph.prefixes(x):
                    for width in bits:
                        constants = self._network.constants(snapshot.node, width)
                        hook = self._network.hook({snapshot.node: width}, quantize_activations=False)
                        logits = self._network.graph.resume(snapshot, constants, hook)
                        found.setdefault((snapshot.node, width), []).append(_increases(reference, logits, y))
        return {key: self._gathered(parts) for key, parts in found.items()}

    def assignment(self, bits: Mapping[str, int]) -> SampleIncreases:
        """Quantises all layers at once.

        Args:
            bits: Width of each layer's weight.

        Returns:
            For each sample.
        """
        constants = {k: v for name, width in bits.items() for k, v in self._network.constants(name, width).items()}
        hook = self._network.hook(bits, quantize_activations=False)
        with torch.no_grad():
            parts = [
                _increases(reference, self._network.graph.run(x, constants, hook), y)
                for (x, y), reference in zip(self._batches, self._references, strict=True)
            ]
        return self._gathered(parts)

    def _gathered(self, parts: list[tuple[Tensor, Tensor]]) -> SampleIncreases:
        kl, loss = (self._shard.gather(torch.cat(values)) for values in zip(*parts, strict=True))
        if not torch.isfinite(kl).all():
            raise InputError("--validate: a quantised network gives NaN or infinity; leave the narrowest width out")
        return SampleIncreases(kl.numpy(), loss.numpy())


def _increases(reference: Tensor, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Divergence and increase of the cross-entropy of each sample, means over positions."""
    found = logits.double().log_softmax(-1)
    now, before = (F.nll_loss(p.flatten(0, -2), labels.flatten(), reduction="none") for p in (found, reference))
    return divergence(reference, logits), (now - before).reshape(len(logits), -1).mean(1)
