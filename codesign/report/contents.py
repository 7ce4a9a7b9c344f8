"""What a run found, as immutable values that both the page and the JSON file are made from."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from codesign.ir.annotations import Provenance
from codesign.plan.plan import Cost, Plan


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Latency:
    """Latency of one artefact.

    Attributes:
        compiler: Which compiler made the artefact.
        median_s: Median of the samples.
        minimum_s: Smallest sample.
        spread_s: Distance between the quartiles.
        samples: How many samples.
        threads: Threads it ran with.
        provenance: `measured` or `simulated`.
    """

    compiler: str
    median_s: float
    minimum_s: float
    spread_s: float
    samples: int
    threads: int
    provenance: Provenance


@dataclass(frozen=True)
class Agreement:
    """How the product's outputs compare with onnxruntime's on the same file and images.

    Attributes:
        largest_difference: Largest absolute difference of two logits.
        largest_difference_steps: The same in steps of the output's scale; None for floating point.
        exact_share: Share of logits that are equal.
        samples: Images compared.
    """

    largest_difference: float
    largest_difference_steps: float | None
    exact_share: float
    samples: int


@dataclass(frozen=True)
class Prediction:
    """What was expected of a candidate before it was compiled.

    Attributes:
        loss_increase_nats: Sum of the layers' sensitivities and of the loss of rounding activations.
        cost: By the target's cost model.
        cost_provenance: What the cost model's numbers are.
    """

    loss_increase_nats: float
    cost: Cost
    cost_provenance: Provenance


@dataclass(frozen=True)
class Measured:
    """What was found of a candidate.

    Attributes:
        loss_increase_nats: KL divergence from the network in floating point, on search data; None for the baseline.
        accuracy: Of the product's outputs on the test data, by name of the test set.
        latencies: Of each compiler's artefact, the product first; empty where the target cannot run the network, as a
            device without floating point cannot run the baseline.
        energy_j: Joules for one run, None where nothing measures or simulates it.
        energy_provenance: What that number is.
        artifact_weight_bytes: Weights as stored in the product.
        agreement: With onnxruntime, None where that was not compiled.
    """

    loss_increase_nats: Estimate | None
    accuracy: Mapping[str, Estimate]
    latencies: tuple[Latency, ...]
    energy_j: float | None
    energy_provenance: Provenance | None
    artifact_weight_bytes: int
    agreement: Agreement | None

    @property
    def latency(self) -> Latency | None:
        """Latency of the product."""
        return self.latencies[0] if self.latencies else None


@dataclass(frozen=True)
class Candidate:
    """One network that was built.

    Attributes:
        identity: Digest of its plan, or `baseline`.
        roles: Why it was built, such as `uniform 4 bits` or `chosen for average_bits = 3`.
        plan: Its widths; None for the baseline.
        average_bits: Mean width of a weight.
        predicted: What was expected; None for the baseline.
        measured: What was found; None if it failed.
        failure: Why it failed.
        on_front: Whether no other candidate is at least as good in accuracy, latency and weight bytes.
    """

    identity: str
    roles: tuple[str, ...]
    plan: Plan | None
    average_bits: float
    predicted: Prediction | None
    measured: Measured | None
    failure: str | None = None
    on_front: bool = False


@dataclass(frozen=True)
class BudgetChoice:
    """The plan chosen under one budget.

    Attributes:
        budget: What was limited, in words.
        identity: The chosen candidate.
        proposal: The candidate that is optimal for the additive model.
        lower_bound_nats: No plan has a smaller sum of sensitivities.
        gap: Relative distance of the proposal from that bound.
        evaluations: Plans measured to choose it.
    """

    budget: str
    identity: str
    proposal: str
    lower_bound_nats: float
    gap: float
    evaluations: int


@dataclass(frozen=True)
class LayerRow:
    """What is known of one layer.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        macs: Multiply-accumulates.
        weight_elements: Number of weights.
        loss_increase_nats: By weight width.
        trace: Hessian trace, None if it was not computed.
        trace_standard_error: Of the trace.
        trace_is_exact: Whether the trace is that of the Hessian itself, without sampling.
        predicted_s: Its latency in the chosen plan by the cost model, what is merged into it included; None if there is
            none.
        measured_s: Its share of the chosen network's median latency, measured; None where nothing timed layers.
    """

    name: str
    op_type: str
    macs: int
    weight_elements: int
    loss_increase_nats: Mapping[int, float]
    trace: float | None = None
    trace_standard_error: float | None = None
    trace_is_exact: bool | None = None
    predicted_s: float | None = None
    measured_s: float | None = None


@dataclass(frozen=True)
class RunReport:
    """Everything that a run ends with.

    Attributes:
        run: Name of the run.
        target: Name of the target.
        target_description: Of the target.
        profile_notes: What is not verified about the profile, and which products were rounded.
        seed: Source of all randomness.
        environment: Versions and machine.
        data: What each split holds, in words.
        sensitivity_method: Which estimate the search read.
        candidates: The baseline first.
        choices: One for each budget; the first is the run's choice.
        layers: In the order in which they run.
    """

    run: str
    target: str
    target_description: str
    profile_notes: tuple[str, ...]
    seed: int
    environment: Mapping[str, str]
    data: Mapping[str, str]
    sensitivity_method: str
    candidates: tuple[Candidate, ...]
    choices: tuple[BudgetChoice, ...]
    layers: tuple[LayerRow, ...] = field(default=())

    @property
    def baseline(self) -> Candidate:
        """The network in floating point."""
        return self.candidates[0]

    @property
    def chosen(self) -> Candidate:
        """The choice under the first budget."""
        return self.candidate(self.choices[0].identity)

    def candidate(self, identity: str) -> Candidate:
        """A candidate by its identity.

        Args:
            identity: Digest of its plan.

        Returns:
            The candidate.
        """
        return next(c for c in self.candidates if c.identity == identity)


def latency_columns(report: RunReport) -> tuple[Latency, ...]:
    """One latency of each compiler that has any, in the order in which candidates list them.

    Args:
        report: What the run found.

    Returns:
        Examples, for their compiler and provenance.
    """
    found = {x.compiler: x for c in reversed(report.candidates) if c.measured for x in reversed(c.measured.latencies)}
    return tuple(reversed(found.values()))


TEST = "test"
"""Name of the test set that `[data] test` gives."""


def mark_front(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Marks candidates that no other dominates in error on the test data, latency and weight bytes.

    Args:
        candidates: All candidates.

    Returns:
        The same, with `on_front` set.
    """
    points = {
        c.identity: _objectives(c.measured, c.measured.latency) for c in candidates if c.measured and c.measured.latency
    }

    def dominated(mine: tuple[float, ...]) -> bool:
        return any(all(a <= b for a, b in zip(o, mine, strict=True)) and o != mine for o in points.values())

    return tuple(
        dataclasses.replace(c, on_front=c.identity in points and not dominated(points[c.identity])) for c in candidates
    )


def _objectives(found: Measured, latency: Latency) -> tuple[float, ...]:
    return (-found.accuracy[TEST].value, latency.median_s, float(found.artifact_weight_bytes))
