"""On a space that can be enumerated the common front of all variants is that of brute force."""

import pytest

from codesign.cost.select import cost_model_for
from codesign.errors import InfeasibleBudgetError
from codesign.hardware.catalog import load_profile, load_target
from codesign.search.joint_devices import devices_of, link_of, problem_on_devices, problem_on_one_device
from codesign.search.joint_union import Candidate, union_front
from codesign.testing.joint_problems import best_points, near_best
from codesign.testing.small_variants import CHOICES, small_variants


def _candidates(target: str) -> list[Candidate]:
    if target == "big-little":
        found = load_target(target)
        devices, link = devices_of(found), link_of(found)
        return [Candidate(n, loss, problem_on_devices(f, devices, link, CHOICES)) for n, loss, f in small_variants()]
    model = cost_model_for(load_profile(target))
    return [Candidate(n, loss, problem_on_one_device(f, model, CHOICES)) for n, loss, f in small_variants()]


@pytest.mark.parametrize("target", ["squeezelerator-16x16", "big-little"])
def test_the_union_equals_brute_force(target: str) -> None:
    candidates = _candidates(target)
    assert len(candidates) == 24
    for metric in ("latency_s", "energy_j", "peak_memory_bytes"):
        choices = [
            (c.loss_nats + loss, totals) for c in candidates for loss, totals in near_best(c.problem, metric).values()
        ]
        found = union_front(candidates, metric)
        assert [(p.allocation.metrics[metric], p.loss_nats) for p in found] == best_points(choices, metric)
        assert all(p.allocation.gap == 0 for p in found)


def test_variants_that_cannot_keep_a_limit_are_passed_over() -> None:
    candidates = _candidates("squeezelerator-16x16")
    least = min(p.allocation.metrics["weight_bytes"] for p in union_front(candidates, "weight_bytes"))
    found = union_front(candidates, "latency_s", {"weight_bytes": least})
    assert {p.allocation.metrics["weight_bytes"] for p in found} == {least}
    with pytest.raises(InfeasibleBudgetError, match="weight_bytes: at most"):
        union_front(candidates, "latency_s", {"weight_bytes": least - 1})
