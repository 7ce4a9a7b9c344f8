"""BatchNorm over two processes is BatchNorm over the whole batch."""

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn

from codesign.data_parallel import Shard
from codesign.training.synchronized_batch_norm import SynchronizedBatchNorm


def _gradients(shard: Shard, context: AbstractContextManager[object]) -> dict[str, Tensor]:
    """Of a loss over this process's part of five samples."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten())
    images, targets = torch.randn(5, 2, 4, 4) * 3 + 1, torch.randn(5, 12)
    mine = shard.bounds(5)
    with context:
        loss = (network(images[mine]) * targets[mine]).square().sum()
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    shard = Shard.of_process_group()
    total = shard.sum_all(_gradients(shard, SynchronizedBatchNorm(shard)))
    torch.save(total, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    expected = _gradients(Shard(), nullcontext())
    alone = _gradients(Shard(), SynchronizedBatchNorm(Shard()))
    for got in (alone, *(torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))):
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-3)


def test_evaluation_keeps_running_statistics() -> None:
    layer = nn.BatchNorm1d(3).eval()
    x = torch.randn(4, 3)
    with SynchronizedBatchNorm(Shard()):
        assert torch.equal(layer(x), x / (1 + layer.eps) ** 0.5)


if __name__ == "__main__":
    _one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
