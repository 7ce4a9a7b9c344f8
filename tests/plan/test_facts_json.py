import copy
import json
from typing import Any

import pytest

from codesign.errors import InputError
from codesign.plan.facts import ConvGeometry, GraphFacts, NodeFacts
from codesign.plan.facts_json import facts_from_json, facts_to_json
from codesign.quantization.scheme import BitWidths

GEOMETRY = ConvGeometry(1, 2, 4, (3, 1), (1, 2), (8, 4), (8, 8), 2, (1, 1))
CONV = NodeFacts(
    "conv", "Conv", 10, 12, 4, 64, 128, 192, GEOMETRY, {BitWidths(2, 8): 0.1 + 0.2, BitWidths(8, 8): 1e-12}, ("relu",)
)
RELU = NodeFacts("relu", "Relu", 0, 0, 0, 128, 128, 128, None, {}, (), fused_into="conv")
FACTS = GraphFacts((CONV, RELU), "0123")


def _stored() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(facts_to_json(FACTS), allow_nan=False))
    return value


def test_facts_survive_a_file() -> None:
    assert facts_from_json(_stored()) == FACTS


def test_the_text_is_the_same_every_time() -> None:
    assert json.dumps(facts_to_json(FACTS)) == json.dumps(facts_to_json(copy.deepcopy(FACTS)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nodes", 0, "macs"), "many", r"facts.json: nodes.0.macs: "),
        (("nodes", 0, "macs"), None, r"facts.json: nodes.0.macs: "),
        (("nodes", 0, "speed"), 3, r"facts.json: nodes.0.speed: unknown key"),
        (("nodes", 0, "geometry", "kernel"), [3], r"facts.json: nodes.0.geometry.kernel"),
        (("nodes", 0, "loss_increase_nats", 0, "nats"), float("nan"), r"nodes.0.loss_increase_nats: .*not finite"),
        (("nodes", 0, "loss_increase_nats", 0, "weight"), 7, r"weight bits: got 7"),
        (("nodes", 1), "relu", r"facts.json: nodes.1: needs a table"),
        (("nodes",), None, r"facts.json: needs the keys digest and nodes"),
        (("more",), 1, r"facts.json: needs the keys digest and nodes"),
    ],
)
def test_a_corrupt_file_is_refused_with_its_key(path: tuple[str | int, ...], value: object, message: str) -> None:
    stored = _stored()
    place: Any = stored
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message):
        facts_from_json(stored)


def test_a_missing_field_is_named() -> None:
    stored = _stored()
    del stored["nodes"][0]["op_type"]
    with pytest.raises(InputError, match=r"nodes.0.op_type: "):
        facts_from_json(stored)
