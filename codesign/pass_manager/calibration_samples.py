"""The calibration samples that a pass looks at: this process's part, checked, in batches that fit the memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.program import Program
from codesign.ir.shapes import static_shape
from codesign.pass_manager.base import PassContext
from codesign.plan.liveness import live_elements

LARGEST_BATCH = 64
"""Larger batches are no faster on a CPU: a sample costs the same in a batch of 16 and of 384."""
_OPERATOR_COPIES = 2
"""Libraries unfold or pack the operands of a convolution into workspace as large as they are."""


@dataclass(frozen=True)
class Samples:
    """This process's part of the samples.

    Attributes:
        images: `[N, ...]`.
        labels: `[N, ...]`, int64; None where there are none.
        batch: How many samples fit at once.
    """

    images: Tensor
    labels: Tensor | None
    batch: int

    @property
    def batch_count(self) -> int:
        """Number of batches."""
        return -(-len(self.images) // self.batch)

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches whose sizes differ by one sample at most.

        Yields:
            Images and labels.
        """
        images = torch.tensor_split(self.images, self.batch_count)
        labels = None if self.labels is None else torch.tensor_split(self.labels, self.batch_count)
        for index, part in enumerate(images):
            yield part, None if labels is None else labels[index]


def own_samples(
    pass_name: str, program: Program, context: PassContext, limit: int, dtype: torch.dtype, elements: int
) -> Samples:
    """Takes the first samples of the calibration data, and of these the part that belongs to this process.

    Args:
        pass_name: Who asks, for messages.
        program: What will run on them.
        context: Holds the data, the shard and the memory limit.
        limit: How many samples all processes use together, at most.
        dtype: What images are converted to.
        elements: How many elements the pass will hold at once for each sample.

    Returns:
        The samples.

    Raises:
        InputError: There is no data, it does not fit the network, or it holds NaN or infinity; or there are fewer
            samples than processes.
    """
    if limit < 1:
        raise InputError(f"pass {pass_name}: samples is {limit}, allowed are 1 or more; try 256")
    data = context.calibration
    if data is None or not len(data.images):
        raise InputError(f"pass {pass_name} needs calibration data; name some with --data")
    images = data.images[:limit]
    if images.shape[1:] != tuple(program.input_shape[1:]):
        raise InputError(
            f"pass {pass_name}: calibration images have shape {list(images.shape[1:])}, the network takes "
            f"{list(program.input_shape[1:])}; correct the preprocessing"
        )
    bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
    if len(bad):
        raise InputError(f"pass {pass_name}: calibration image {bad[0]} holds NaN or infinity; correct the data")
    own = context.shard.bounds(len(images))
    labels = None if data.labels is None else torch.from_numpy(np.ascontiguousarray(data.labels[:limit][own]))
    tensor = torch.from_numpy(np.ascontiguousarray(images[own])).to(dtype)
    return Samples(tensor, labels, _samples_at_once(context.memory_bytes, elements * dtype.itemsize))


def live_elements_at_once(program: Program) -> int:
    """Most elements that one forward pass of one sample holds at once, workspace of operators included.

    Args:
        program: A lowered network, all shapes static.

    Returns:
        The number; each value counts, for torch merges no operators.
    """
    return max(live_elements(program.graph.graph, {}), default=1) * _OPERATOR_COPIES


def result_elements(program: Program) -> int:
    """Elements of the results of all nodes for one sample: what a backward pass keeps at most.

    Args:
        program: A lowered network, all shapes static.

    Returns:
        The number.
    """
    shapes = (static_shape(value) for node in program.graph.graph for value in node.outputs)
    return sum(math.prod(shape) for shape in shapes if shape is not None)


def _samples_at_once(memory_bytes: int, bytes_per_sample: int) -> int:
    """1 to `LARGEST_BATCH`; 1 even where one sample does not fit, for nothing smaller can be run."""
    return min(max(memory_bytes // max(bytes_per_sample, 1), 1), LARGEST_BATCH)
