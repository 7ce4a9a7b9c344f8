"""What the planner must know of a network: operators, the values between them, and the loops that may be shared out.

Every operator is a nest of loops over indices, as in an einsum. Sharing a loop out among devices splits every operand
and result that the loop indexes; an operand that it does not index is read by all of them, and a result that it does
not index is left as a sum of parts. That one rule gives forward, backward and weight-gradient communication of every
operator (GSPMD, arXiv 2105.04663; Mesh-TensorFlow, arXiv 1811.02084).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Role = Literal["activation", "parameter", "constant"]
"""Of an operand: computed from the input; trained; or neither, and known everywhere."""


@dataclass(frozen=True)
class Window:
    """A sliding window along a spatial axis.

    Attributes:
        kernel: Taps.
        stride: Step between windows; None where it is not known: then each side lends half a kernel.
        dilation: Step between taps.
        before: Padding before the axis.
        inputs: Size of the operand's axis.
        outputs: Size of the result's axis.
    """

    kernel: int
    stride: int | None
    dilation: int
    before: int
    inputs: int
    outputs: int

    def needs(self, first: int, end: int) -> tuple[int, int]:
        """Input positions, padding included, that a range of outputs reads.

        Args:
            first: First output.
            end: The one after the last.

        Returns:
            First position, and the one after the last; below 0 and above the size in the padding.
        """
        stride = self.stride or 1
        return first * stride - self.before, (end - 1) * stride - self.before + (self.kernel - 1) * self.dilation + 1

    def rows_from_neighbour(self, parts: int) -> int:
        """Input rows that some device receives from one side, the most over all devices.

        Args:
            parts: Into how many pieces the axis is split.

        Returns:
            Rows; 0 where no window crosses a border between pieces.
        """
        if self.stride is None:
            return self.kernel // 2 if self.kernel > 1 else 0
        most = 0
        for piece in range(parts):
            own = piece * self.inputs // parts, (piece + 1) * self.inputs // parts
            first, end = self.needs(piece * self.outputs // parts, (piece + 1) * self.outputs // parts)
            most = max(most, own[0] - max(first, 0), min(end, self.inputs) - own[1])
        return most


@dataclass(frozen=True)
class Loop:
    """A loop of an operator that devices may share out.

    Attributes:
        name: Such as `batch`, `out`, `in`, `height`; unique in its operator.
        size: Indices that can be told apart.
        operands: Axis that it indexes in each operand, None where it indexes none.
        result: Axis that it indexes in the results; None where they become sums of parts.
        aligned: Whether pieces must be equal: their number divides `size`.
        window: For a spatial axis of the first operand that windows slide along.
    """

    name: str
    size: int
    operands: tuple[int | None, ...]
    result: int | None
    aligned: bool = False
    window: Window | None = None


@dataclass(frozen=True)
class Operand:
    """What an operator reads.

    Attributes:
        value: Name.
        shape: With the whole batch; empty for a scalar.
        role: What it is.
    """

    value: str
    shape: tuple[int, ...]
    role: Role

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Result:
    """What an operator computes.

    Attributes:
        value: Name.
        shape: With the whole batch.
    """

    value: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operator:
    """One step of the network.

    Attributes:
        name: Unique.
        kind: ONNX operator; `Output` for what reads the network's result.
        operands: In their order; those that are absent or only give shapes are left out.
        results: At least one, but none for `Output`.
        loops: What may be shared out.
        macs: Multiply-accumulates for the whole batch.
        is_weighted: Whether it multiplies by a parameter: then all devices must share its work.
        is_dense: Whether every input meets every output, without windows.
    """

    name: str
    kind: str
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    loops: tuple[Loop, ...]
    macs: int = 0
    is_weighted: bool = False
    is_dense: bool = False

    @cached_property
    def loop_of(self) -> dict[str, Loop]:
        """Loops by name."""
        return {loop.name: loop for loop in self.loops}


@dataclass(frozen=True)
class Edge:
    """A value on its way from one operator to another.

    Attributes:
        producer: Position of the operator that computes it.
        consumer: Position of the operator that reads it.
        operand: Which of the consumer's operands it is.
        shape: With the whole batch.
        value: Name.
    """

    producer: int
    consumer: int
    operand: int
    shape: tuple[int, ...]
    value: str


@dataclass(frozen=True)
class Network:
    """A network with a batch.

    Attributes:
        name: What it is called.
        digest: Names the network that it was made from.
        operators: In an order in which they can run; the last one is the `Output`.
        batch: Samples.
        source: Name of the value that is the input.
    """

    name: str
    digest: str
    operators: tuple[Operator, ...]
    batch: int
    source: str

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Values that are computed by one operator and read by another, ordered by reader."""
        made = {result.value: i for i, op in enumerate(self.operators) for result in op.results}
        return tuple(
            Edge(made[operand.value], i, j, operand.shape, operand.value)
            for i, op in enumerate(self.operators)
            for j, operand in enumerate(op.operands)
            if operand.role == "activation" and operand.value in made
        )
