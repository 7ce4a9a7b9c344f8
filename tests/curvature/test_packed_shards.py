"""Two real processes that share the samples find what one process finds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import sys
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn
from codesign.data_parallel import Shard
from codesign.curvature.loss import CrossEntropy, SampleLoss
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_blocks, gauss_newton_spectrum

torch.set_num_threads(1)
rank, parts, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 12), nn.ReLU(), nn.Linear(12, 5)
).double().eval()
inputs = torch.randn(11, 2, 5, 5, dtype=torch.float64)
targets = torch.randn(11, 5, dtype=torch.float64)
if parts > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=parts)
shard = Shard.of_process_group()
losses = {"ce": CrossEntropy(), "function": SampleLoss(lambda o, t: torch.cos(o + t).sum() + F.softplus(o).sum())}
found = {}
for dtype in (torch.float32, torch.float64):
    network, x = ModuleNetwork(module, dtype), inputs.to(dtype)
    layers = list(network.geometries)
    for label, loss in losses.items():
        for options in (
            PackingOptions(drop=0, eigenvalues=4),
            PackingOptions(drop=0.3, tail_draws=3, eigenvalues=4, relative_error=0.15),
        ):
            result = gauss_newton_blocks(network, x, layers, loss, targets, options, 5, shard=shard, activations=["3"])
            blocks = {**result.blocks, "entering": result.activations["3"]}
            for name, b in blocks.items():
                key = (str(dtype), label, options.drop, name)
                found[key] = (b.trace, b.standard_error, float(b.draws), *b.eigenvalues)
            found[str(dtype), label, options.drop, "passes"] = (result.passes_over_data,)
        spectrum = gauss_newton_spectrum(network, x, "3", loss, targets, shard=shard)
        found[str(dtype), label, "spectrum"] = tuple(spectrum[:20].tolist())
error = ""
inputs[9, 0, 0, 0] = float("nan")  # a sample of the last process: all must fail alike
try:
    gauss_newton_blocks(ModuleNetwork(module, torch.float64), inputs, ["0"], shard=shard)
except Exception as failure:
    error = str(failure)
torch.save((found, error), f"{out}.{rank}")
"""


Found = tuple[dict[tuple[object, ...], tuple[float, ...]], str]


def _start(rank: int, parts: int, folder: Path) -> subprocess.Popen[bytes]:
    places = [str(folder / f"store-{parts}"), str(folder / f"found-{parts}")]
    return subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(parts), *places])


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    processes = [_start(rank, parts, tmp_path) for rank, parts in ((0, 1), (0, 2), (1, 2))]
    assert [process.wait(timeout=100) for process in processes] == [0, 0, 0]
    found: list[Found] = [torch.load(tmp_path / name) for name in ("found-1.0", "found-2.0", "found-2.1")]
    (alone, error), first, second = found
    assert first == second
    assert first[1] == error != ""
    assert "sample 9" in error
    assert first[0].keys() == alone.keys()
    for key, values in alone.items():
        double = key[0] == "torch.float64"
        if key[-1] == "passes":
            assert values[0] == pytest.approx(first[0][key][0], rel=0.3)  # other groups of samples
        else:
            assert first[0][key] == pytest.approx(values, rel=1e-12 if double else 1e-6, abs=1e-13 if double else 1e-7)
    assert any(values[2] > 3 for key, values in alone.items() if key[-1] == "3")  # there were more draws
