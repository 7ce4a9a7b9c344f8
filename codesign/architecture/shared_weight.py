"""Which part of a shared parameter a variant's own parameter is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SharedWeight:
    """A part of a shared parameter.

    The first two axes take the leading channels of the shared parameter, further axes (of kernels) its centre. A
    convolution with groups takes the blocks on the diagonal of what the same convolution without groups would take.

    Attributes:
        name: Of the shared parameter.
        shape: Of the part, such as `[C_out, C_in / groups, K, K]`.
        groups: Groups of the convolution that the part belongs to.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 1

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """What the shared parameter must have at least: `[C_out, C_in, K, K]`."""
        if self.groups == 1:
            return self.shape
        return (self.shape[0], self.shape[1] * self.groups, *self.shape[2:])

    def take(self, shared: Tensor) -> Tensor:
        """The part: a view, or joined views where there are groups; differentiable.

        Args:
            shared: The shared parameter, at least `dense_shape`.

        Returns:
            Shape `shape`.
        """
        if self.groups == 1:
            return shared[self._slices(shared)]
        blocks = [shared[slices] for slices in self._blocks(shared)]
        return torch.cat(blocks)

    def put(self, shared: Tensor, value: Tensor) -> None:
        """Writes a value into the part.

        Args:
            shared: The shared parameter, at least `dense_shape`; changed in place.
            value: Shape `shape`.
        """
        places = [self._slices(shared)] if self.groups == 1 else self._blocks(shared)
        for slices, block in zip(places, value.chunk(self.groups), strict=True):
            shared[slices] = block

    def _slices(self, shared: Tensor) -> tuple[slice, ...]:
        channels = tuple(slice(0, size) for size in self.dense_shape[:2])
        return channels + tuple(
            slice((full - size) // 2, (full - size) // 2 + size)
            for full, size in zip(shared.shape[2:], self.shape[2:], strict=True)
        )

    def _blocks(self, shared: Tensor) -> list[tuple[slice, ...]]:
        rows, columns = self.shape[0] // self.groups, self.shape[1]
        kernel = self._slices(shared)[2:]
        return [
            (slice(i * rows, (i + 1) * rows), slice(i * columns, (i + 1) * columns), *kernel)
            for i in range(self.groups)
        ]


def same_names(network: nn.Module) -> dict[str, SharedWeight]:
    """Each parameter as a part of the shared parameter with its own name.

    Args:
        network: A variant; only shapes and groups are read.

    Returns:
        By name of the network's parameters.
    """
    groups = {
        f"{name}.weight": module.groups for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    }
    return {
        name: SharedWeight(name, tuple(parameter.shape), groups.get(name, 1))
        for name, parameter in network.named_parameters()
    }
