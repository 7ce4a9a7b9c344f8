"""A calibrated profile is written and loaded like any other."""

from pathlib import Path

import pytest

from codesign.calibration.profile_file import write_profile
from codesign.cost.calibrated import CalibratedModel
from codesign.cost.select import cost_model_for
from codesign.errors import InputError
from codesign.hardware.calibration import Calibration, KernelFit, Similarity, Term, VectorUnit
from codesign.hardware.catalog import load_profile
from codesign.hardware.unverified import unverified_values

LIKE = Similarity(
    features=("columns", "stride"), means=(2.5e-7, 0.0), lengths=(1.0, 0.5), points=((0.0, -0.125), (1e-9, 3.0)),
    weights=(-0.1, 1e-9), variance=0.02,
)  # fmt: skip
FIT = KernelFit(
    kind="convolution",
    arithmetic="int8",
    terms=(Term(name="call", seconds=1e-7), Term(name="products", seconds=2.7e-10)),
    correction=LIKE,
    samples=100,
    relative_error=0.07,
    within_10_percent=0.95,
    source='measured "here"',
)
UNIT = VectorUnit(registers=31, lanes=16, dot_channels=4)


def test_round_trip(tmp_path: Path) -> None:
    calibration = Calibration(source="measured here", unit=UNIT, call_s=2e-7, fits=(FIT,))
    changes = {"name": "mine", "calibration": calibration, "relative_error": 0.07}
    profile = load_profile("host-cpu").model_copy(update=changes)
    write_profile(profile, tmp_path / "mine.toml", ["a comment"])
    loaded = load_profile(str(tmp_path / "mine.toml"))
    assert loaded == profile
    assert isinstance(cost_model_for(loaded), CalibratedModel)
    assert unverified_values(loaded) == unverified_values(profile)
    assert (tmp_path / "mine.toml").read_text().startswith("# a comment\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seconds = 1e-07", "seconds = -1e-07", "greater than or equal to 0"),
        ("means = [2.5e-07, 0.0]", "means = [2.5e-07]", "one number for each of 2 features"),
        ("points = [[0.0, -0.125], [1e-09, 3.0]]", "points = [[0.0, -0.125], [1e-09]]", "each of 2 features"),
        ("weights = [-0.1, 1e-09]", "weights = [-0.1]", "got 1, needs one for each of 2 points"),
        ("lengths = [1.0, 0.5]", "lengths = [1.0, 0.0]", "greater than 0"),
        ("lengths = [1.0, 0.5]", "spreads = [1.0, 0.5]", "by an earlier version of codesign; calibrate again, got an"),
        ("call_s = 2e-07", "calls_s = 2e-07", "unknown key"),
        ('kind = "convolution"', 'kind = "magic"', "calibration.fits.0.kind"),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    calibration = Calibration(source="measured here", unit=UNIT, call_s=2e-7, fits=(FIT,))
    profile = load_profile("host-cpu").model_copy(update={"name": "mine", "calibration": calibration})
    path = tmp_path / "mine.toml"
    write_profile(profile, path, [])
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_profile(str(path))
