"""Two processes that each hold half of the samples find what one process finds."""

import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn

from codesign.curvature.block_traces import block_traces
from codesign.curvature.gauss_newton_operator import GaussNewtonOperator
from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.probing import StoppingRule
from codesign.data_parallel import Shard

DTYPES = {"float32": (torch.float32, 1e-6), "float64": (torch.float64, 1e-12)}


def _results(dtype: torch.dtype, shard: Shard) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)).eval()
    inputs, labels = torch.randn(11, 6), torch.randint(0, 3, (11,))
    network = ModuleNetwork(module, dtype)
    weights, data = network.weights, (inputs.to(dtype), labels)
    results = {}
    for kind in (HessianOperator, GaussNewtonOperator):
        for at_once in (None, 2):
            operator = kind(network.with_weights, weights, *data, samples_at_once=at_once, shard=shard)
            vectors = torch.randn(operator.dimension, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
            results[f"{kind.__name__} {at_once}"] = operator @ vectors
    for method in ("hutchinson", "hutch++", "xtrace"):
        rule = StoppingRule(0.3, 4, 18, seconds=60)
        found = block_traces(
            network.with_weights, weights, *data, method=method, rule=rule, shard=shard, samples_at_once=3
        )
        for name, block in found.blocks.items():
            results[f"{method} {name}"] = torch.tensor([block.trace, block.standard_error], dtype=torch.float64)
    return results


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name: _results(dtype, Shard.of_process_group()) for name, (dtype, _) in DTYPES.items()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for dtype, (kind, tolerance) in DTYPES.items():
        for name, wanted in _results(kind, Shard()).items():
            assert torch.equal(first[dtype][name], second[dtype][name])
            assert float((first[dtype][name] - wanted).norm()) <= tolerance * float(wanted.norm()), name


if __name__ == "__main__":
    _process(int(sys.argv[1]), Path(sys.argv[2]))
