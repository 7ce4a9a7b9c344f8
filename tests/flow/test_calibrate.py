"""The command `calibrate`: bad input, and the real thing on a few kernels."""

from pathlib import Path

import pytest

from codesign.cost.calibrated import CalibratedModel
from codesign.cost.select import cost_model_for
from codesign.durations import seconds_of
from codesign.errors import InputError
from codesign.flow.calibrate import CalibrateRequest, calibrate
from codesign.hardware.catalog import load_profile
from codesign.progress import Silent


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("1", 1)])
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5", "0", "0.5s", "ten", "nan", "inf", "5 days"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="allowed are durations of at least 1 s"):
        seconds_of(text)


def test_a_simulated_target_has_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no device to measure"):
        calibrate(CalibrateRequest("squeezelerator-16x16", 5, tmp_path / "x.toml"), Silent())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_short_calibration_gives_a_profile_and_a_repeat_goes_on(tmp_path: Path) -> None:
    request = CalibrateRequest("host-cpu", 5, tmp_path / "mine.toml")
    notes: list[str] = []
    first = calibrate(request, Silent(notes.append))
    assert first.kernels >= 5
    assert first.profile == tmp_path / "mine.toml"
    assert notes == []
    loaded = load_profile(str(first.profile))
    assert isinstance(cost_model_for(loaded), CalibratedModel)
    assert loaded.relative_error == pytest.approx(first.relative_error)
    assert loaded.calibration is not None
    assert {fit.kind for fit in loaded.calibration.fits} >= {"dense"}
    kept = len(first.measured.file.path.read_text().splitlines())
    again = calibrate(request, Silent(notes.append))
    assert "goes on from" in notes[0]
    assert len(again.measured.file.path.read_text().splitlines()) > kept >= first.kernels
    assert again.kernels >= 5
