"""What an analysis found, as immutable values that the page, the table and the JSON file are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from codesign.ir.annotations import Provenance
from codesign.report.contents import Estimate

WHOLE_ASSIGNMENT = "whole-assignment-kl"
"""Name, beside those of predictors, of the KL divergence measured with a whole assignment on the analysed samples."""

NOISE_CEILING = "noise-ceiling"
"""Name, beside those of predictors, of one half of the held-out samples as a predictor of the other half."""


@dataclass(frozen=True)
class Trace:
    """Trace of a matrix of second derivatives.

    Attributes:
        trace: Nats per squared unit.
        standard_error: Of the trace; 0 if nothing was sampled.
        matrix: `hessian`, or `gauss-newton` where that differs from it.
        exact: Whether the trace is that of the Hessian itself, with nothing sampled.
    """

    trace: float
    standard_error: float
    matrix: str
    exact: bool

    @property
    def provenance(self) -> Provenance:
        """What kind of number the trace is."""
        return "exact" if self.exact else "estimated"


@dataclass(frozen=True)
class Curvature(Trace):
    """Trace and top eigenvalues of the Hessian's block in a weight.

    Attributes:
        top_eigenvalues: Largest first; empty if not asked for.
        method: How the trace was found.
    """

    top_eigenvalues: tuple[float, ...]
    method: str

    @property
    def eigenvalue_provenance(self) -> Provenance:
        """Eigenvalues of a packed block are as exact as its trace; those of others are found by iteration."""
        return "exact" if self.exact and self.method == "packed-gauss-newton" else "estimated"


@dataclass(frozen=True)
class LossIncrease:
    """Loss increase that one predictor expects of one layer at one width.

    Attributes:
        nats: The number.
        standard_error: Over samples, or that of the trace it was made from.
        method: Which estimator gave it; for `auto`, the one that was chosen for this entry.
    """

    nats: float
    standard_error: float
    method: str

    @property
    def provenance(self) -> Provenance:
        """A divergence of outputs is measured, on the analysed samples; everything else is a model."""
        return "measured" if self.method == "kl" else "estimated"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a number over subsets of the data (Q-BERT).

    Attributes:
        mean: Over subsets.
        standard_deviation: Over subsets.
        values: Of each subset.
    """

    mean: float
    standard_deviation: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class ActivationAnalysis:
    """What is known of the tensor that enters a layer.

    Attributes:
        value: Name of the tensor.
        trace: Curvature of one sample's loss in it, mean over samples; None if not asked for.
        elements: Of the tensor, for one sample; None if the trace was not asked for.
        kl: Divergence of the outputs when the tensor alone is rounded, by width; empty if not asked for.
        squared_error: Of rounding it, sum over its elements and mean over samples, by width.
    """

    value: str
    trace: Trace | None = None
    elements: int | None = None
    kl: Mapping[int, Estimate] = field(default_factory=dict)
    squared_error: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CrossTerm:
    """What two layers quantised together add beyond each alone (CLADO).

    Attributes:
        bits: Width of this layer.
        other: The later layer.
        other_bits: Width of the other.
        nats: Divergence of both less that of each; often negative.
        standard_error: Over samples.
    """

    bits: int
    other: str
    other_bits: int
    nats: float
    standard_error: float


@dataclass(frozen=True)
class LayerAnalysis:
    """What is known of one layer.

    Attributes:
        name: Node name.
        parameter: Name of its weight.
        parameters: Number of weights.
        curvature: Of the loss in the weight; None if not asked for.
        loss_increase: By width, then by predictor.
        fisher: Trace of the empirical Fisher matrix; None if not asked for.
        activation: Of the entering tensor; None if not asked for.
        cross_terms: With later layers.
        subsets: Spread over subsets of the data, by `trace` and `top_eigenvalue`.
    """

    name: str
    parameter: str
    parameters: int
    curvature: Curvature | None = None
    loss_increase: Mapping[int, Mapping[str, LossIncrease]] = field(default_factory=dict)
    fisher: float | None = None
    activation: ActivationAnalysis | None = None
    cross_terms: tuple[CrossTerm, ...] = ()
    subsets: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkAnalysis:
    """The Hessian in all weights at once.

    Attributes:
        parameters: Rows of the matrix.
        trace: Hutchinson's estimate.
        standard_error: Of the trace.
        top_eigenvalues: By largest magnitude.
        residuals: `|H v - lambda v|` of each, for a unit v: some eigenvalue lies at most that far away.
        nodes: Ritz values of each Lanczos run, `[starts][steps]`.
        weights: Of the nodes; each run's sum to 1.
        grid: Where the smoothed density is given.
        density: The smoothed density, of unit area.
    """

    parameters: int
    trace: float
    standard_error: float
    top_eigenvalues: tuple[float, ...]
    residuals: tuple[float, ...]
    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    grid: tuple[float, ...]
    density: tuple[float, ...]


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b of a predictor with what was measured; None where one side is constant.

    Attributes:
        kl: With the measured KL divergence.
        loss: With the measured loss increase.
    """

    kl: float | None
    loss: float | None


@dataclass(frozen=True)
class MeasuredIncrease:
    """What was measured on held-out samples, for one layer at one width or for a whole assignment.

    Attributes:
        kl: KL divergence of the outputs from the network in floating point, nats.
        loss: Increase of the cross-entropy, nats; can be negative.
    """

    kl: Estimate
    loss: Estimate


@dataclass(frozen=True)
class Assignment:
    """One width for every layer.

    Attributes:
        bits: By layer.
        measured: On held-out samples.
        predicted: Nats: the sum over layers by predictor, and `WHOLE_ASSIGNMENT`.
    """

    bits: Mapping[str, int]
    measured: MeasuredIncrease
    predicted: Mapping[str, float]


@dataclass(frozen=True)
class Validation:
    """How far the predictors can be trusted on this network.

    Attributes:
        source: Where the held-out samples came from.
        samples: How many of them.
        layers: Single layers: by name, then by width.
        assignments: Random ones.
        layer_taus: By width, then by predictor and `NOISE_CEILING`.
        assignment_taus: By predictor (the sum over layers), `WHOLE_ASSIGNMENT` and `NOISE_CEILING`.
        seconds: Wall time.
    """

    source: str
    samples: int
    layers: Mapping[str, Mapping[int, MeasuredIncrease]]
    assignments: tuple[Assignment, ...]
    layer_taus: Mapping[int, Mapping[str, Tau]]
    assignment_taus: Mapping[str, Tau]
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What the analysis itself took, without loading and without validation.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Of all threads and processes together.
        peak_memory_bytes: Largest resident size of a process so far, loading included.
        passes_over_data: Forward and backward sweeps over all samples for Hessian traces and eigenvalues, each counted
            as one.
        seconds_of: Wall time of each pass and other step.
    """

    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    passes_over_data: float
    seconds_of: Mapping[str, float]


@dataclass(frozen=True)
class Analysis:
    """Everything that `codesign analyze` found.

    Attributes:
        model: Source of the network.
        data: Source of the samples.
        samples: How many were analysed.
        metrics: What was asked for.
        pipeline: The passes that were run, as `codesign opt` takes them.
        bits: Widths of weights.
        target: Target whose widths these are, if one was named.
        weights_of: Whether curvature is that of the module's own weights or of the folded ones.
        dtype: What curvature was computed in.
        seed: Source of all randomness.
        processes: How many shared the samples.
        layers: In the order of the graph.
        network: The Hessian in all weights; None if not asked for.
        validation: None if not asked for.
        cost: What it took.
        environment: Versions and machine.
    """

    model: str
    data: str
    samples: int
    metrics: tuple[str, ...]
    pipeline: str
    bits: tuple[int, ...]
    target: str | None
    weights_of: Literal["module", "folded"]
    dtype: str
    seed: int
    processes: int
    layers: tuple[LayerAnalysis, ...]
    network: NetworkAnalysis | None
    validation: Validation | None
    cost: Cost
    environment: Mapping[str, str]

    @property
    def predictors(self) -> tuple[str, ...]:
        """Predictors of the loss increase that were computed."""
        found = (name for layer in self.layers for row in layer.loss_increase.values() for name in row)
        return tuple(dict.fromkeys(found))

    @property
    def main_predictor(self) -> str | None:
        """The predictor that tables and figures with room for one show: `auto` if it was computed, else the first."""
        if "auto" in self.predictors:
            return "auto"
        return self.predictors[0] if self.predictors else None
