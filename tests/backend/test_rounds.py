"""Networks that take turns."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.artifact_folder import open_artifact
from codesign.backend.base import Artifact
from codesign.backend.rounds import LEAST_UNDISTURBED, RoundSettings, measure_in_rounds, undisturbed
from codesign.errors import MeasurementError

QUICK = RoundSettings(seconds=0.05, sample_s=1e-4, samples=3, least_rounds=4, most_rounds=20, timeout_s=60)


@given(st.integers(0, 1000), st.integers(12, 60), st.floats(0.2, 0.9), st.floats(1.2, 2.0))
def test_disturbed_rounds_do_not_count(seed: int, rounds: int, share: float, slower: float) -> None:
    rng = np.random.default_rng(seed)
    takes = np.array([1e-6, 1.05e-6, 1.1e-2])
    slow = rng.random(rounds) < share
    slow[: rounds // 4 + 1] = False  # so many are undisturbed
    rng.shuffle(slow)
    noise = rng.uniform(1.0, 1.01, (rounds, 3, 5))
    samples = takes[:, None] * np.where(slow, slower, 1.0)[:, None, None] * noise
    kept = undisturbed(samples)
    assert len(kept) == max(LEAST_UNDISTURBED, round(rounds / 4))
    assert np.median(kept, axis=(0, 2)) == pytest.approx(takes, rel=0.011)


def test_few_rounds_all_count() -> None:
    samples = np.arange(1.0, 13.0).reshape(2, 2, 3)
    assert np.array_equal(undisturbed(samples), samples)


def test_networks_take_turns_in_one_process(artifact_folder: Path) -> None:
    _, artifact = open_artifact(artifact_folder)
    samples = measure_in_rounds([artifact, artifact], QUICK)
    rounds, networks, repeats = samples.shape
    assert QUICK.least_rounds <= rounds <= QUICK.most_rounds
    assert (networks, repeats) == (2, QUICK.samples)
    assert (samples > 0).all()
    one, two = np.median(undisturbed(samples), axis=(0, 2))
    assert one == pytest.approx(two, rel=0.5)


def test_a_library_that_is_none_is_told(artifact_folder: Path, tmp_path: Path) -> None:
    _, artifact = open_artifact(artifact_folder)
    broken = tmp_path / artifact.path.name
    broken.write_bytes(b"nothing")
    for sidecar in artifact.path.parent.glob("*.json"):
        (tmp_path / sidecar.name).write_bytes(sidecar.read_bytes())
    with pytest.raises(MeasurementError, match="2 networks in turns: the measured process failed"):
        measure_in_rounds([artifact, Artifact(broken, "tvm", "host-cpu", "x", 0)], QUICK)
