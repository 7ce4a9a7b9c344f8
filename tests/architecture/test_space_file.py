"""`[space]` of a run file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codesign.architecture.space import largest, smallest, variant_count
from codesign.architecture.space_file import SpaceSection, space_of
from codesign.architecture.supernet import Supernet
from codesign.config import StrictModel, validate
from codesign.errors import InputError

SQUEEZENEXT: dict[str, object] = {"kind": "squeezenext", "depths": [[2, 1], [2, 4]], "widths": [[32, 16], [64]]}
THIRD_PARTY = """
from torch import nn

from codesign.architecture.shared_weight import same_names
from codesign.architecture.space import Axis, StagePicture


class Space:
    name = "perceptrons"
    axes = (Axis("width", (4, 8)),)

    def network(self, variant):
        width = variant.values["width"]
        return nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3))

    def input_shape(self, variant):
        return (1, 3, 2, 2)

    def shared_weights(self, variant):
        return same_names(self.network(variant))

    def stages(self, variant):
        return (StagePicture("hidden", variant.values["width"], 1, 1),)


def space():
    return Space()


def nothing():
    return 3


def unnamed():
    found = Space()
    found.axes = (Axis("width", (4,)), Axis("width", (8,)))
    return found
"""


class _RunFile(StrictModel):
    """As much of a run file as holds the section."""

    space: SpaceSection


def _section(values: dict[str, object]) -> SpaceSection:
    return validate(_RunFile, {"space": values}, "run.toml").space


def test_values_are_ordered_by_capacity() -> None:
    space = space_of(_section({**SQUEEZENEXT, "groups": [1, 2], "stem_strides": [1, 2]}), Path())
    assert {axis.name: axis.values for axis in space.axes} == {
        "depth1": (1, 2),
        "depth2": (2, 4),
        "width1": (16, 32),
        "groups": (2, 1),
        "stem_stride": (2, 1),
    }


def test_a_resnet_space() -> None:
    values: dict[str, object] = {
        "kind": "resnet",
        "depths": [[1, 2]] * 3,
        "widths": [[16], [32], [64]],
        "resolutions": [8, 16],
        "classes": 4,
    }
    space = space_of(_section(values), Path())
    assert space.name == "resnet"
    assert variant_count(space) == 16
    assert space.network(largest(space)).eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 4)


def test_third_parties_bring_their_own_space(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(THIRD_PARTY)
    (tmp_path / "their_package.py").write_text(THIRD_PARTY)
    for source in ("theirs.py:space", "their_package:space"):
        space = space_of(_section({"source": source}), tmp_path)
        supernet = Supernet(space, seed=0)
        images = torch.randn(5, 3, 2, 2)
        for variant in (smallest(space), largest(space)):
            assert torch.equal(supernet.extract(variant)(images), supernet.run(variant, images))
        with pytest.raises(InputError, match=r"returned int, which lacks \['network', .*'axes'\]"):
            space_of(_section({"source": source.replace("space", "nothing")}), tmp_path)
        with pytest.raises(InputError, match="give each its own name"):
            space_of(_section({"source": source.replace("space", "unnamed")}), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "space: .*give either kind"),
        ({"kind": "squeezenext"}, "the space is empty; give depths and widths"),
        ({**SQUEEZENEXT, "source": "a:b"}, "give either kind"),
        ({"source": "a:b", "widths": [[8]]}, r"\['widths'\] mean nothing beside source"),
        ({**SQUEEZENEXT, "kind": "resnet", "squeeze": [0.5]}, r"\['squeeze'\] mean nothing for kind 'resnet'"),
        ({**SQUEEZENEXT, "kind": "mobilenet"}, "space.kind: Input should be 'squeezenext' or 'resnet'"),
        ({**SQUEEZENEXT, "goups": [1]}, "space.goups: unknown key; did you mean 'groups'"),
        ({**SQUEEZENEXT, "depths": [[1], []]}, "space.depths.1: .* at least 1 item"),
        ({**SQUEEZENEXT, "depths": [[0]]}, "space.depths.0.0: .*greater than 0"),
        ({**SQUEEZENEXT, "squeeze": [1.5]}, "space.squeeze.0: .*less than or equal to 1"),
        ({**SQUEEZENEXT, "pair_orders": ["diagonal"]}, "space.pair_orders.0"),
    ],
)
def test_bad_sections_name_the_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _section(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [1, 3]}, r"space: widths\[0\]: .*groups = 3; choose a width that is a multiple of 12"),
        ({"depths": [[1, 1], [2]]}, "axis 'depth1' has a value twice"),
        ({"widths": [[16]]}, "depths has 2 stages, widths 1"),
    ],
)
def test_spaces_with_impossible_members_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        space_of(_section({**SQUEEZENEXT, **change}), Path())


def test_the_section_is_read_without_torch() -> None:
    script = "import sys, codesign.architecture.space_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
