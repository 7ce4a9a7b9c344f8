import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.activation_hessian import activation_traces
from codesign.curvature.loss import SquaredError
from codesign.curvature.probing import StoppingRule
from codesign.errors import InputError

SAMPLES, SIZE = 5, 24
DRAWN = StoppingRule(relative_error=0, min_probes=8, max_probes=8)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


INPUTS, LABELS = _random(SAMPLES, 6, seed=0), torch.tensor([0, 1, 2, 1, 0])
FIRST, SECOND, LAST = (_random(*shape, seed=i) / 4 for i, shape in enumerate([(6, SIZE), (SIZE, SIZE), (SIZE, 3)], 1))


def _behind(activation: Tensor) -> Tensor:
    return F.silu(activation @ SECOND) @ LAST


def _forward(inputs: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    early = torch.tanh(inputs @ FIRST).requires_grad_()
    late = F.silu(early @ SECOND)
    return late @ LAST, {"early": early, "late": late, "unused": (2 * early)}


def _dense(behind: Callable[[Tensor], Tensor], activation: Tensor) -> float:
    traces = [
        float(torch.func.hessian(lambda a, n=n: F.cross_entropy(behind(a), LABELS[n]))(activation[n]).trace())
        for n in range(SAMPLES)
    ]
    return sum(traces) / SAMPLES


EARLY = torch.tanh(INPUTS @ FIRST)
WANTED = {"early": _dense(_behind, EARLY), "late": _dense(lambda a: a @ LAST, F.silu(EARLY @ SECOND))}


def test_unit_vectors_give_the_dense_trace() -> None:
    found = activation_traces(_forward, ["early", "late"], INPUTS, LABELS)
    for name, wanted in WANTED.items():
        assert found.blocks[name].trace == pytest.approx(wanted, rel=1e-10)
        assert (found.blocks[name].standard_error, found.blocks[name].draws) == (0.0, 0)
    assert found.passes_over_data == 2 * 2 + 2 * 2 * SIZE  # two rounds' graphs, a product with each vector


def test_the_truth_is_within_three_standard_errors() -> None:
    hits = 0
    for seed in range(200):
        block = activation_traces(_forward, ["early"], INPUTS, LABELS, rule=DRAWN, seed=seed).blocks["early"]
        assert block.draws == 8
        hits += abs(block.trace - WANTED["early"]) <= 3 * block.standard_error
    assert hits >= 198


def test_chunks_and_other_activations_change_nothing() -> None:
    alone = activation_traces(_forward, ["early"], INPUTS, LABELS, rule=DRAWN, seed=3).blocks["early"]
    for at_once in (1, 2, 4):
        found = activation_traces(
            _forward, ["late", "early"], INPUTS, LABELS, rule=DRAWN, seed=3, samples_at_once=at_once
        ).blocks["early"]
        assert found.trace == pytest.approx(alone.trace, rel=1e-12)
        assert found.standard_error == pytest.approx(alone.standard_error, rel=1e-12)


def test_probing_stops_when_it_knows_enough_or_is_late() -> None:
    loose = StoppingRule(relative_error=10.0, min_probes=2, max_probes=23)
    assert activation_traces(_forward, ["early"], INPUTS, LABELS, rule=loose).blocks["early"].draws == 16  # one round
    hurried = StoppingRule(relative_error=0, min_probes=2, max_probes=10**6, seconds=1e-6)
    assert activation_traces(_forward, ["early"], INPUTS, LABELS, rule=hurried).blocks["early"].draws == 16


def test_what_the_loss_does_not_depend_on_has_no_curvature() -> None:
    block = activation_traces(_forward, ["unused"], INPUTS, LABELS).blocks["unused"]
    assert (block.trace, block.standard_error) == (0.0, 0.0)


def test_squared_error_of_a_linear_layer_needs_one_probe_to_be_seen() -> None:
    targets = torch.zeros(SAMPLES, 3, dtype=torch.float64)
    block = activation_traces(_forward, ["late"], INPUTS, targets, SquaredError()).blocks["late"]
    assert block.trace == pytest.approx(float(2 / 3 * LAST.square().sum()), rel=1e-12)  # the mean over 3 outputs


def test_missing_targets_and_infinite_losses_are_refused() -> None:
    with pytest.raises(InputError, match="5 samples and 4 targets"):
        activation_traces(_forward, ["early"], INPUTS, LABELS[:4])
    with pytest.raises(InputError, match="NaN or infinite"):
        activation_traces(_forward, ["early"], INPUTS * torch.nan, LABELS)


WORKER = """
import sys
import torch
sys.path.insert(0, sys.argv[4])
from test_activation_hessian import DRAWN, INPUTS, LABELS, _forward
from codesign.curvature.activation_hessian import activation_traces
from codesign.data_parallel import Shard

torch.set_num_threads(1)
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
found = activation_traces(_forward, ["early", "late"], INPUTS, LABELS, rule=DRAWN, shard=Shard.of_process_group())
torch.save([(block.trace, block.standard_error) for block in found.blocks.values()], f"{sys.argv[3]}.{rank}")
"""


def _start(rank: int, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(rank), *arguments], stderr=subprocess.PIPE, text=True)


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "store"), str(tmp_path / "out"), str(Path(__file__).parent)]
    workers = [_start(rank, arguments) for rank in range(2)]
    try:
        for worker in workers:
            _, problems = worker.communicate(timeout=150)
            assert worker.returncode == 0, problems
    finally:
        for worker in workers:
            worker.kill()
    alone = activation_traces(_forward, ["early", "late"], INPUTS, LABELS, rule=DRAWN).blocks.values()
    wanted = [(block.trace, block.standard_error) for block in alone]
    for rank in range(2):
        for got, one in zip(torch.load(tmp_path / f"out.{rank}"), wanted, strict=True):
            assert got == pytest.approx(one, rel=1e-12)
