import json

from codesign.plan.plan import Cost, Plan, plan_from_json
from codesign.quantization.scheme import BitWidths

PLAN = Plan("base", (("a", BitWidths(8, 8)), ("b", BitWidths(3, 8))))


def test_a_plan_survives_json_in_order() -> None:
    assert plan_from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_changing_a_node_makes_another_plan_with_another_name() -> None:
    changed = PLAN.with_bits("a", BitWidths(4, 8))
    assert changed.bits_of == {"a": BitWidths(4, 8), "b": BitWidths(3, 8)}
    assert PLAN.bits_of["a"] == BitWidths(8, 8)
    assert changed.digest != PLAN.digest
    assert changed.with_bits("a", BitWidths(8, 8)).digest == PLAN.digest


def test_power_is_energy_over_time() -> None:
    assert Cost(0.5, 2.0, 0, 0, 0.0).power_w == 4.0
    assert Cost(0.0, 0.0, 0, 0, 0.0).power_w == 0.0
