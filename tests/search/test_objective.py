"""Evaluations: what is refused, how differences are judged, and their JSON."""

import json
import math

import numpy as np
import pytest

from codesign.errors import InputError, MeasurementError
from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths
from codesign.search.objective import Evaluation, evaluation_from_json

PLAN = Plan("net", (("conv", BitWidths(4, 8)), ("fc", BitWidths(2, 8))))
COST = Cost(1e-3, 2e-6, 1024, 300, 1e9)


def _measured(samples: list[float]) -> Evaluation:
    return Evaluation(PLAN, COST, float(np.mean(samples)), None, tuple(samples))


def test_the_standard_error_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    shared = rng.exponential(5.0, 400)
    one = _measured((shared + rng.normal(0.0, 0.1, 400)).tolist())
    other = _measured((shared + 0.05 + rng.normal(0.0, 0.1, 400)).tolist())
    gain, error = one.improvement(other)
    difference = np.array(other.sample_losses_nats) - np.array(one.sample_losses_nats)
    assert gain == pytest.approx(difference.mean())
    assert error == pytest.approx(difference.std(ddof=1) / 20)
    assert error < 0.1 * shared.std(ddof=1) / 20
    assert other.improvement(one) == (-gain, error)


def test_without_common_samples_there_is_no_standard_error() -> None:
    assert Evaluation(PLAN, COST, 1.0).improvement(Evaluation(PLAN, COST, 3.0)) == (2.0, 0.0)
    assert _measured([1.0, 2.0]).improvement(_measured([1.0, 2.0, 3.0])) == (0.5, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_measurements_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(MeasurementError, match=f"plan {PLAN.digest}: loss_increase_nats was measured as"):
        Evaluation(PLAN, COST, value)
    with pytest.raises(MeasurementError, match="accuracy was measured as"):
        Evaluation(PLAN, COST, 0.0, accuracy=value)
    with pytest.raises(MeasurementError, match="a sample's loss is not finite"):
        Evaluation(PLAN, COST, 0.0, None, (0.0, value))


def test_json_brings_back_the_same() -> None:
    for evaluation in (_measured([0.1, 1 / 3, 1e-17]), Evaluation(PLAN, Cost(0, 0, 0, 0, 0), 2, 0.875)):
        assert evaluation_from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


@pytest.mark.parametrize("key", ["plan", "cost", "loss_increase_nats", "accuracy", "sample_losses_nats"])
def test_records_of_another_form_are_refused(key: str) -> None:
    record = _measured([0.1]).to_json()
    with pytest.raises(InputError, match="has another form; delete the journal"):
        evaluation_from_json({**record, key: "text"})
    del record[key]
    with pytest.raises(InputError, match="has another form; delete the journal"):
        evaluation_from_json(record)
