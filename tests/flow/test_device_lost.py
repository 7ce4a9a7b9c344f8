"""A device that vanishes in the middle of a run: nothing measured is lost, and the command goes on when it is back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.backend.base import Artifact, Measurement, MeasurementSettings
from codesign.backend.local_runner import LocalRunner
from codesign.errors import DeviceError
from codesign.flow import build
from codesign.hardware.target import Target

Codesign = Callable[..., tuple[int, str]]


class _Vanishing:
    """A device that answers a number of times."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.measured: list[str] = []

    def runner(self, _: Target) -> "_Vanishing":
        return self

    def measure(
        self, artifact: Artifact, settings: MeasurementSettings, images: NDArray[np.float32] | None
    ) -> Measurement:
        if len(self.measured) == self.answers:
            raise DeviceError("RPC server device:9090: connecting: gave no answer; restart it, and repeat the command")
        self.measured.append(artifact.plan_digest)
        return LocalRunner().measure(artifact, settings, images)


def test_a_run_stops_at_once_and_goes_on_from_there(
    tiny_graph: Path, codesign: Codesign, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, back = _Vanishing(1), _Vanishing(1000)
    monkeypatch.setattr(build, "runner_of", lost.runner)
    code, printed = codesign("run", "run.toml", "--out", "out")
    assert (code, "codesign: error: RPC server device:9090: connecting" in printed) == (1, True)
    assert lost.measured == ["baseline"]
    assert not (tiny_graph / "out" / "report.json").exists()
    monkeypatch.setattr(build, "runner_of", back.runner)
    assert codesign("run", "run.toml", "--out", "out")[0] == 0
    assert back.measured
    assert "baseline" not in back.measured
