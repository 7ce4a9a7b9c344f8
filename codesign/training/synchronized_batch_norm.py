"""BatchNorm over a batch that several processes share."""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from codesign.data_parallel import Shard


class SynchronizedBatchNorm(TorchFunctionMode):
    """Within this context, BatchNorm in training mode normalises with mean and variance over all processes.

    Gradients flow through both as in one process that has the whole batch. Running statistics are not kept. Unlike
    `torch.nn.SyncBatchNorm` it works on the CPU.

    Args:
        shard: This process's part of the batch.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__()
        self._shard = shard

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Replaces `torch.nn.functional.batch_norm` and leaves everything else alone.

        Args:
            func: What is called.
            types: Ignored.
            args: Its arguments.
            kwargs: Its named arguments.

        Returns:
            Its result.
        """
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))  # type: ignore[arg-type]  # those of F.batch_norm
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = float(self._shard.sum(torch.tensor([float(x.numel() // x.shape[1])])))
        wide = x.float()
        mean = _sum_over_processes(wide.sum(axes, keepdim=True), self._shard) / count
        centred = wide - mean
        variance = _sum_over_processes(centred.square().sum(axes, keepdim=True), self._shard) / count
        normal = centred * torch.rsqrt(variance + eps)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scaled = normal if weight is None else normal * weight.reshape(shape)
        return (scaled if bias is None else scaled + bias.reshape(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sum over all processes; so is its gradient, because every process's loss depends on it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard  # type: ignore[attr-defined]  # torch keeps what is set on it
        return shard.sum(values)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shard.sum(gradient), None  # type: ignore[attr-defined]


def _sum_over_processes(values: Tensor, shard: Shard) -> Tensor:
    total: Tensor = _Sum.apply(values, shard)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    return total
