"""Points of a variant's own front."""

import pytest

from codesign.errors import CodesignError, InfeasibleBudgetError
from codesign.flow import search_trials
from codesign.flow.search_trials import decisions
from codesign.progress import Silent
from codesign.quantization.scheme import BitWidths
from codesign.search import joint_front
from codesign.search.joint_problem import JointAllocation, JointOption, JointProblem

PROBLEM = JointProblem(
    tuple(f"layer{i}" for i in range(4)),
    tuple(
        tuple(
            JointOption(
                BitWidths(bits, 8),
                "here",
                (8 - bits) * (i + 1) / 10,
                {"latency_s": bits * (4 - i) * 1e-6, "weight_bytes": float(bits * 10)},
            )
            for bits in (2, 4, 8)
        )
        for i in range(4)
    ),
)


def test_every_decision_keeps_its_limits_and_none_is_beaten_by_another() -> None:
    limits = {"weight_bytes": 250.0}
    found = decisions(PROBLEM, limits, ("latency_s", "weight_bytes"), 4)
    assert len(found) > 3
    for decision in found:
        assert decision.allocation.gap == 0
        for metric, limit in decision.limits.items():
            assert decision.allocation.metrics[metric] <= limit
        for other in found:
            if all(other.allocation.metrics[m] <= limit for m, limit in decision.limits.items()):
                assert other.allocation.loss_increase_nats >= decision.allocation.loss_increase_nats


def test_a_limit_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(InfeasibleBudgetError, match="least possible"):
        decisions(PROBLEM, {"weight_bytes": 10.0}, ("latency_s",), 3)


def test_a_front_that_cannot_be_proven_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def front(problem: JointProblem, metric: str, *rest: object) -> tuple[JointAllocation, ...]:
        if metric == "latency_s":
            raise CodesignError("too hard")
        return joint_front.front(problem, metric, *rest)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(search_trials, "front", front)
    notes: list[str] = []
    found = decisions(PROBLEM, {}, ("latency_s", "weight_bytes"), 3, Silent(notes.append))
    assert len(found) > 1
    assert notes == ["the front over latency_s is left out for one variant: too hard"]
