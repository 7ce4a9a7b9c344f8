"""One network that a joint search found: its architecture, bits and places, what was expected and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from codesign.ir.annotations import Provenance
from codesign.report.contents import Estimate, Latency


@dataclass(frozen=True)
class Stage:
    """A part of a variant, as it is drawn.

    Attributes:
        label: Such as `stage 2`.
        width: Output channels.
        blocks: Number of blocks in it.
        stride: By which it reduces height and width.
    """

    label: str
    width: int
    blocks: int
    stride: int


@dataclass(frozen=True)
class VariantShown:
    """One architecture.

    Attributes:
        identity: Of the variant, twelve hexadecimal digits.
        choices: Value of every axis, by its name.
        stages: From the input to the output.
    """

    identity: str
    choices: Mapping[str, int | float | str]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class LayerDecision:
    """What was decided for one layer.

    Attributes:
        name: Node name.
        weight_bits: Width of its weight.
        activation_bits: Width of the activations that enter it.
        macs: Multiply-accumulates.
        weight_elements: Number of weights.
        place: Where it runs, such as `npu` or `out=2`; empty on a target of one device.
    """

    name: str
    weight_bits: int
    activation_bits: int
    macs: int
    weight_elements: int
    place: str = ""


@dataclass(frozen=True)
class PointPrediction:
    """What a point is expected to cost and to lose before it is compiled.

    Attributes:
        latency_s: Seconds of one run, by the target's cost model.
        energy_j: Joules of one run, by the target's cost model.
        peak_memory_bytes: Largest sum over the schedule of live activations.
        weight_bytes: All weights as packed.
        float_loss: Task loss in nats of the variant in floating point with shared weights, measured on search data.
        loss_increase_nats: What quantisation adds, as the inner decision counts it: a sum over layers.
        period_s: Seconds between two inputs of a stream, by the target's cost model; None where no devices form a
            pipeline.
        kernels: Kernels of the network, where some kernels of the device are known by measurement; else 0.
        measured_kernels: Those of them that were measured in other networks or in this one.
        measured_share: Share of `latency_s` that they make up.
    """

    latency_s: float
    energy_j: float
    peak_memory_bytes: float
    weight_bytes: float
    float_loss: Estimate
    loss_increase_nats: float
    period_s: float | None = None
    kernels: int = 0
    measured_kernels: int = 0
    measured_share: float = 0.0

    @property
    def loss_nats(self) -> float:
        """Expected task loss."""
        return self.float_loss.value + self.loss_increase_nats


@dataclass(frozen=True)
class InnerDecision:
    """How bits and places were decided for a variant.

    Attributes:
        status: Of the solver, such as `optimal`.
        method: Such as `integer programme` or `elimination`.
        bound_nats: No bits and places within the limits have a smaller sum of loss increases, which are estimates.
        gap: Relative distance from that bound.
        seconds: That the decision took, measured.
    """

    status: str
    method: str
    bound_nats: float
    gap: float
    seconds: float


@dataclass(frozen=True)
class ShadowPrice:
    """What a limit costs at the optimum.

    Attributes:
        metric: What is limited, such as `latency_s`.
        limit: The limit, in the metric's unit.
        unit: Of the metric, such as `s`.
        nats_per_unit: Loss that one unit more of the limit would save; 0 where the limit does not bind.
    """

    metric: str
    limit: float
    unit: str
    nats_per_unit: float


@dataclass(frozen=True)
class ProductAccuracy:
    """Share of right answers on one test set, measured.

    Attributes:
        floating: Of the variant in floating point, after fine-tuning where there was any.
        quantised: Of the product's outputs.
    """

    floating: Estimate
    quantised: Estimate


@dataclass(frozen=True)
class LayerLatency:
    """One layer of a product, with what is merged into it.

    Attributes:
        name: Of the node that its kernel begins with.
        predicted_s: Seconds by the model that predicted the product's latency.
        measured_s: Its share of the product's measured latency.
    """

    name: str
    predicted_s: float
    measured_s: float


@dataclass(frozen=True)
class Finalist:
    """What was found of a point that was trained further, quantised, compiled and run.

    Attributes:
        finetuned: Whether it was trained further with weights of its own.
        accuracy: By name of the test set.
        loss: Task loss of the product in nats on search data, measured; None if it was not.
        latency: Of the product, measured or simulated.
        predicted_latency_s: What the cost model says without having seen this measurement.
        energy_j: Joules for one run, None where nothing measures or simulates it.
        energy_provenance: What that number is.
        energy_source: What gave it, such as `RAPL` or the name of a profile; empty without a number.
        artifact_weight_bytes: Weights as stored in the product.
        artifact: Path of the product, relative to the page.
        layers: In the order in which they run; empty where nothing timed them.
    """

    finetuned: bool
    accuracy: Mapping[str, ProductAccuracy]
    loss: Estimate | None
    latency: Latency
    predicted_latency_s: float
    energy_j: float | None
    energy_provenance: Provenance | None
    energy_source: str
    artifact_weight_bytes: int
    artifact: str
    layers: tuple[LayerLatency, ...] = ()


@dataclass(frozen=True)
class SearchPoint:
    """One network: a variant with bits and places.

    Attributes:
        identity: Digest of its plan.
        variant: The architecture.
        layers: What was decided for each layer, in the order in which they run.
        predicted: What was expected of it.
        loss: Task loss in nats of the quantised network with shared weights, measured on search data; None if it was
            not measured whole.
        decision: How bits and places were found.
        shadow_prices: Of each limit that its decision had.
        on_front: Whether no other point dominates it in the target's objectives.
        finalist: What was found of the product; None if it was not built.
        failure: Why it could not be built or measured.
    """

    identity: str
    variant: VariantShown
    layers: tuple[LayerDecision, ...]
    predicted: PointPrediction
    loss: Estimate | None
    decision: InnerDecision
    shadow_prices: tuple[ShadowPrice, ...] = ()
    on_front: bool = False
    finalist: Finalist | None = None
    failure: str | None = None

    @property
    def average_bits(self) -> float:
        """Mean width of a weight."""
        elements = sum(layer.weight_elements for layer in self.layers)
        return sum(layer.weight_bits * layer.weight_elements for layer in self.layers) / max(elements, 1)

    @property
    def places(self) -> tuple[str, ...]:
        """Where its layers run, in the order of the layers; one empty name on a target of one device."""
        return tuple(dict.fromkeys(layer.place for layer in self.layers))

    @property
    def measured_loss(self) -> Estimate | None:
        """The loss that was measured: of the product where there is one, else with shared weights."""
        return self.finalist.loss if self.finalist is not None and self.finalist.loss is not None else self.loss
