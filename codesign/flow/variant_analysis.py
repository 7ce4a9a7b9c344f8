"""What is known of one architecture variant, whatever the target; computed once and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from codesign.architecture.space import Variant
from codesign.errors import MeasurementError
from codesign.files import digest_of, write_bytes, write_json
from codesign.flow.context import RunContext, RunData
from codesign.flow.decide import shared_weights
from codesign.flow.prepare import FACTS, GRAPH, LOWERED, annotate, versions
from codesign.flow.search_context import SearchContext
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.plan.facts import GraphFacts
from codesign.plan.facts_json import facts_from_json, facts_to_json
from codesign.plan.from_graph import facts_of
from codesign.quantization.scheme import BitWidths
from codesign.quantization.simulation import SimulatedNetwork
from codesign.report.contents import Estimate
from codesign.training.evaluation import accuracy, cross_entropy

if TYPE_CHECKING:
    from codesign.architecture.supernet import Supernet
    from codesign.ir.onnx_to_torch import TorchGraph

WORK = "work.json"
FLOAT_LOSS = "float_loss.json"
ACTIVATION_LOSS = "activation_loss.json"
KEPT_NETWORKS = 8
_ESTIMATE = TypeAdapter(Estimate)


@dataclass(frozen=True)
class Screened:
    """The cheap part of what is known.

    Attributes:
        program: The lowered network.
        facts: Its facts, without sensitivities.
        float_loss: Cross-entropy of the network in floating point on search data, in nats.
    """

    program: Program
    facts: GraphFacts
    float_loss: Estimate


@dataclass(frozen=True)
class Analysed:
    """All that is known.

    Attributes:
        program: The annotated network.
        facts: Its facts, with sensitivities.
        float_loss: Cross-entropy in floating point on search data, in nats.
        activation_increase_nats: What rounding activations alone adds to it.
        ties: Nodes that share a weight.
    """

    program: Program
    facts: GraphFacts
    float_loss: Estimate
    activation_increase_nats: float
    ties: tuple[tuple[str, ...], ...]


class VariantAnalyst:
    """Analyses variants with the weights that they share.

    Args:
        context: The search.
        weights: File of the shared weights.
    """

    def __init__(self, context: SearchContext, weights: Path) -> None:
        self._context, self._weights = context, weights
        self._supernet: Supernet | None = None
        self._screened: dict[str, Screened] = {}
        self._analysed: dict[str, Analysed] = {}
        self._losses: dict[str, PlanLoss] = {}  # hold weights at every width, so few are kept

    @property
    def supernet(self) -> "Supernet":
        """The shared weights."""
        from codesign.training.elastic import load_supernet

        if self._supernet is None:
            self._supernet = load_supernet(self._context.space, self._weights)
        return self._supernet

    def folder(self, variant: Variant) -> Path:
        """Where the results of a variant are.

        Args:
            variant: Which one.

        Returns:
            The folder.
        """
        return self._context.folder / "variants" / variant.identity

    def screen(self, variant: Variant) -> Screened:
        """Lowers a variant and measures its loss in floating point; step `lower` of the variant.

        Args:
            variant: Which one.

        Returns:
            What is cheap to know.

        Raises:
            MeasurementError: Its outputs are not finite.
        """
        if variant.identity not in self._screened:
            self._screened[variant.identity] = self._screen(variant)
        return self._screened[variant.identity]

    def analyse(self, variant: Variant) -> Analysed:
        """Finds what quantising each layer costs; step `annotate` of the variant.

        Args:
            variant: Which one.

        Returns:
            All that is known.
        """
        if variant.identity not in self._analysed:
            self._analysed[variant.identity] = self._analyse(variant)
        return self._analysed[variant.identity]

    def loss_of(self, variant: Variant, bits: Mapping[str, BitWidths]) -> Estimate:
        """Measures the loss of a variant at given widths on search data.

        Args:
            variant: Which one.
            bits: Widths by node name; activations are rounded everywhere.

        Returns:
            Cross-entropy in nats.

        Raises:
            MeasurementError: Its outputs are not finite.
        """
        if variant.identity not in self._losses:
            program = self.analyse(variant).program
            correction = self._context.search.quantization.bias_correction
            while len(self._losses) >= KEPT_NETWORKS:
                self._losses.pop(next(iter(self._losses)))
            self._losses[variant.identity] = PlanLoss(program, self._context.data_for(variant), correction)
        return self._losses[variant.identity].of(bits)

    def run_context(self, variant: Variant) -> RunContext:
        """A variant as the network of a run; steps before compiling do not depend on the target."""
        return self._context.run_context(variant, self._context.targets[0], self.folder(variant))

    def _screen(self, variant: Variant) -> Screened:
        context = self.run_context(variant)
        folder = context.folder
        key = digest_of(
            self._weights,
            dict(variant.choices),
            self._context.space.name,
            self._context.data_for(variant).tuning_digest,
            self._context.data.training_without_search.digest,
            self._context.search.search.calibration_samples,
            versions(),
        )

        def compute() -> list[Path]:
            from codesign.flow.elastic import calibrated_network
            from codesign.ir.lowering import lower_module

            network = calibrated_network(self._context, self.supernet, variant)
            program = lower_module(network, self._context.space.input_shape(variant))
            loss = float_loss(program, context.data)
            PassManager(parse_pipeline("count-work")).run(program, PassContext())
            save_graph(program.graph, folder / LOWERED)
            write_json(folder / WORK, facts_to_json(facts_of(program)))
            write_bytes(folder / FLOAT_LOSS, _ESTIMATE.dump_json(loss))
            return [folder / LOWERED, folder / WORK, folder / FLOAT_LOSS]

        context.store.step("lower", key, compute)
        facts = facts_from_json(context.store.read_json(folder / WORK))
        loss = _ESTIMATE.validate_json((folder / FLOAT_LOSS).read_bytes())
        return Screened(Program(load_graph(folder / LOWERED)), facts, loss)

    def _analyse(self, variant: Variant) -> Analysed:
        screened = self.screen(variant)
        context = self.run_context(variant)
        program, facts = annotate(context, Program(load_graph(context.folder / LOWERED)))
        result = context.folder / ACTIVATION_LOSS

        def compute() -> list[Path]:
            correction = self._context.search.quantization.bias_correction
            rounded = PlanLoss(program, context.data, correction).of({})
            write_json(result, {"nats": rounded.value - screened.float_loss.value})
            return [result]

        key = digest_of(context.folder / GRAPH, context.folder / FACTS, context.data.tuning_digest, versions())
        context.store.step("activations", key, compute)
        increase = float(str(context.store.read_json(result)["nats"]))
        return Analysed(program, facts, screened.float_loss, increase, shared_weights(program))


class PlanLoss:
    """Loss of one network at any widths, on search data.

    Args:
        program: The annotated network.
        data: At its resolution.
        bias_correction: Whether biases are corrected.
    """

    def __init__(self, program: Program, data: RunData, bias_correction: bool) -> None:
        self._network = SimulatedNetwork(program.graph, bias_correction)
        self._images, self._labels = data.search_images, data.splits.search.labels

    def of(self, bits: Mapping[str, BitWidths]) -> Estimate:
        """Measures the loss.

        Args:
            bits: Widths by node name; what is left out keeps weights in floating point.

        Returns:
            Cross-entropy in nats.
        """
        return estimate_of(self._network.logits(self._images, bits), self._labels)


def float_loss(program: Program, data: RunData) -> Estimate:
    """Loss of a network in floating point, on search data.

    Args:
        program: The lowered network.
        data: At its resolution.

    Returns:
        Cross-entropy in nats.
    """
    from codesign.ir.onnx_to_torch import TorchGraph

    return estimate_of(_logits(TorchGraph(program.graph), data.search_images), data.splits.search.labels)


def test_accuracy(program: Program, data: RunData) -> dict[str, Estimate]:
    """Accuracy of a network in floating point on all test sets.

    Args:
        program: The lowered network.
        data: At its resolution.

    Returns:
        By name of the test set.
    """
    from codesign.ir.onnx_to_torch import TorchGraph

    graph, found = TorchGraph(program.graph), {}
    for name, dataset in data.test_sets.items():
        result = accuracy(_logits(graph, data.prepared(dataset)), dataset.labels)
        found[name] = Estimate(result.mean, result.standard_error)
    return found


def _logits(graph: "TorchGraph", images: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        parts = [graph.run(part).numpy() for part in torch.split(torch.from_numpy(images), 256)]
    return np.concatenate(parts)


def estimate_of(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Estimate:
    """Mean cross-entropy with its standard error.

    Args:
        logits: `[N, ..., K]`.
        labels: `[N, ...]`.

    Returns:
        Nats.

    Raises:
        MeasurementError: A logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise MeasurementError("the network's outputs hold NaN or infinity on search data; train it longer or slower")
    found = cross_entropy(logits, labels)
    return Estimate(found.mean, found.standard_error)
