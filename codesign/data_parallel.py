"""Several processes that each hold a part of the data and agree on sums over all of it (torch.distributed).

The context of every pass holds a `Shard`, so torch is imported only where it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codesign.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """This process's part of the data; the default is all of it, in one process.

    Every process must make the same calls in the same order. Sums are in float64 and equal in all processes, so that
    random draws and stopping decisions that rest on them are the same everywhere.

    Attributes:
        rank: Which part, from 0.
        parts: How many there are; with more than one, a process group must be initialised.
    """

    rank: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.parts:
            raise InputError(f"shard: got rank {self.rank} of {self.parts}, allowed are 0 to {self.parts - 1}")

    @classmethod
    def of_process_group(cls) -> "Shard":
        """The part that belongs to this process.

        Returns:
            All of the data if no process group is initialised.
        """
        import torch.distributed

        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def bounds(self, count: int) -> slice:
        """Which of `count` samples are this process's: parts are contiguous and differ by one sample at most.

        Args:
            count: Number of samples; at least one for each part.

        Returns:
            The slice.

        Raises:
            InputError: There are fewer samples than parts.
        """
        if count < self.parts:
            raise InputError(f"{count} samples cannot be split among {self.parts} processes; use fewer processes")
        return slice(count * self.rank // self.parts, count * (self.rank + 1) // self.parts)

    def sum(self, values: "Tensor") -> "Tensor":
        """Sum over all processes.

        Args:
            values: Any shape, the same in all processes.

        Returns:
            The sum in the type of `values`, accumulated in float64; `values` itself with one part.
        """
        if self.parts == 1:
            return values
        import torch.distributed

        total = values.double().contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.to(values.dtype)

    def sum_all(self, values: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Sums of several tensors by one exchange.

        Args:
            values: By name, the same names and shapes in all processes.

        Returns:
            By name.
        """
        if self.parts == 1 or not values:
            return dict(values)
        import torch

        flat = self.sum(torch.cat([value.double().flatten() for value in values.values()]))
        parts = torch.split(flat, [value.numel() for value in values.values()])
        return {
            name: part.view(value.shape).to(value.dtype)
            for (name, value), part in zip(values.items(), parts, strict=True)
        }

    def gather(self, values: "Tensor") -> "Tensor":
        """All processes' values one after the other along the first axis, in the order of ranks.

        Args:
            values: `[n, ...]`; n may differ between processes.

        Returns:
            `[sum of n, ...]`.
        """
        if self.parts == 1:
            return values
        import torch.distributed

        sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.parts)]
        torch.distributed.all_gather(sizes, torch.tensor([len(values)], device=values.device))
        most = max(int(size) for size in sizes)
        padded = torch.cat([values, values.new_zeros(most - len(values), *values.shape[1:])]).contiguous()
        found = [torch.empty_like(padded) for _ in range(self.parts)]
        torch.distributed.all_gather(found, padded)
        return torch.cat([part[: int(size)] for part, size in zip(found, sizes, strict=True)])
