"""Values of single samples, gathered from batches and processes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.quantization.divergence import Estimate, estimate

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass
class SampleValues(Generic[KeyT]):
    """Values of single samples under several keys, gathered batch by batch.

    Means are those of one process that saw all samples in order, whatever the number of processes and the batches.

    Attributes:
        keys: What is measured; the same in all processes.
        shard: This process's part of the samples.
    """

    keys: Sequence[KeyT]
    shard: Shard
    _batches: dict[KeyT, list[Tensor]] = field(default_factory=dict, init=False)

    def add(self, key: KeyT, values: Tensor, what: str) -> None:
        """Takes the values of one batch.

        Args:
            key: One of `keys`.
            values: `[N]`.
            what: What was done to the network, for the message: such as `node 'a' at 2 bits`.

        Raises:
            InputError: A value is NaN or infinite.
        """
        if not bool(values.isfinite().all()):
            raise InputError(
                f"{what}: the outputs become NaN or infinite on calibration data; leave that width out, or check the "
                f"range of the node's weights and inputs"
            )
        self._batches.setdefault(key, []).append(values.double().cpu())

    def gather(self) -> Mapping[KeyT, Tensor]:
        """All samples' values; every process must call this once.

        Returns:
            `[all samples]` by key, in the order of the samples.
        """
        if not self.keys:
            return {}
        own = torch.stack([torch.cat(self._batches[key]) for key in self.keys], dim=1)
        everything = self.shard.gather(own)
        return dict(zip(self.keys, everything.unbind(1), strict=True))

    def estimates(self) -> Mapping[KeyT, Estimate]:
        """Means over all samples; every process must call this once.

        Returns:
            By key.
        """
        return {key: estimate(values) for key, values in self.gather().items()}
