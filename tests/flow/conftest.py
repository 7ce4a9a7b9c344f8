"""A run that takes seconds: a net of two convolutions and a dense layer on 8x8 images of three classes."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

NET = '''
"""A tiny network."""

from torch import nn


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(128, 3),
    )
'''

RUN = """
name = "tiny"
target = "host-cpu"

[model]
source = "net.py:tiny"
weights = "weights.safetensors"
input_shape = [1, 1, 8, 8]

[data]
train = "train.npz"
test = "test.npz"
calibration_samples = 24
search_samples = 24

[quantization]
weight_bits = [4, 8]
sensitivity_samples = 24
hessian_samples = 8

[search]
uniform = false
evaluations = 6

[[search.budgets]]
average_bits = 5.5

[measure]
compilers = ["onnxruntime"]
warm_up = 1
repeats = 3
runs_per_sample = 1
"""


SEARCH = """
name = "tiny"
targets = ["squeezelerator-8x8"]

[space]
kind = "squeezenext"
depths = [[1], [1, 2]]
widths = [[8], [8, 16]]
groups = [1, 2]
stem_channels = 8
tail_channels = 8
resolutions = [8]
image_channels = 1
classes = 3

[elastic]
epochs = 2
batch_size = 16
random_variants = 1
threads = 1
weight_bits = [4, 8]

[data]
train = "train.npz"
test = "test.npz"
calibration_samples = 24
search_samples = 36

[quantization]
weight_bits = [4, 8]
hessian_samples = 0
sensitivity_samples = 16

[search]
trials = 9
points = 3
finalists = 2
refinements = 4

[measure]
compilers = ["onnxruntime"]
warm_up = 1
repeats = 3
runs_per_sample = 1
"""


@pytest.fixture(scope="session")
def _material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "net.py").write_text(NET)
    (folder / "run.toml").write_text(RUN)
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NET, namespace)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = {name: value.contiguous() for name, value in namespace["tiny"]().state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    generator = np.random.default_rng(0)
    labels = np.arange(160) % 3
    prototypes = generator.normal(size=(3, 8, 8, 1))
    images = (prototypes[labels] + 2.5 * generator.normal(size=(160, 8, 8, 1))).astype(np.float32)
    np.savez(folder / "train.npz", images=images[:120], labels=labels[:120])
    np.savez(folder / "test.npz", images=images[120:], labels=labels[120:])
    return folder


@pytest.fixture
def tiny(_material: Path, tmp_path: Path) -> Path:
    """A folder with `net.py`, `weights.safetensors`, `train.npz`, `test.npz` and `run.toml`."""
    return Path(shutil.copytree(_material, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def _lowered(_material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from codesign.ir.loading import load_program
    from codesign.ir.serialization import save_graph

    path = tmp_path_factory.mktemp("lowered") / "net.onnx"
    save_graph(load_program("net.py:tiny", "weights.safetensors", (1, 1, 8, 8), _material).graph, path)
    return path


@pytest.fixture
def tiny_graph(tiny: Path, _lowered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, which is the current one, with the network also as `net.onnx`, which is loaded faster."""
    shutil.copy(_lowered, tiny / "net.onnx")
    monkeypatch.chdir(tiny)
    return tiny


@pytest.fixture
def codesign(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Calls the command as a process would, in this process; returns its exit code and all that it printed."""
    from codesign.cli import main

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["codesign", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int)
            code = end.code or 0
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


def _without_timings(value: object) -> object:
    """A report without what a clock said, and without the front that follows from it."""
    timed = {"latency_by_compiler", "on_front", "measured_latency_s"}
    if isinstance(value, list):
        return [_without_timings(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_timings(item) for key, item in value.items() if key not in timed}
    if "artifact_weight_bytes" in kept and "accuracy" in kept:  # what was measured of a candidate
        del kept["latency_s"]
    return kept


@pytest.fixture
def report_without_timings() -> Callable[[Path], object]:
    """Reads the report in a run's folder, less what differs from run to run."""
    return lambda run: _without_timings(json.loads((run / "report.json").read_text()))


@pytest.fixture(scope="session")
def trained_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, run file, and a finished search in `out`."""
    folder = tmp_path_factory.mktemp("search")
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 3
    prototypes = generator.normal(size=(3, 8, 8, 1))
    images = (prototypes[labels] + 2.0 * generator.normal(size=(240, 8, 8, 1))).astype(np.float32)
    np.savez(folder / "train.npz", images=images[:180], labels=labels[:180])
    np.savez(folder / "test.npz", images=images[180:], labels=labels[180:])
    (folder / "search.toml").write_text(SEARCH)
    from codesign.flow.search import search
    from codesign.progress import Silent
    from codesign.search_file import load_search_file

    search(load_search_file(folder / "search.toml"), folder, folder / "out", Silent())
    return folder


@pytest.fixture
def tiny_search(trained_search: Path, tmp_path: Path) -> Path:
    """A folder with `search.toml`, its data, and `trained`: shared weights and nothing else."""
    folder = tmp_path / "search"
    folder.mkdir()
    for name in ("search.toml", "train.npz", "test.npz"):
        shutil.copy(trained_search / name, folder)
    shutil.copytree(trained_search / "out" / "elastic", folder / "trained" / "elastic")
    shutil.copytree(trained_search / "out" / "steps", folder / "trained" / "steps")
    return folder
