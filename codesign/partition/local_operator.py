"""One operator on one device's pieces: the interpreter's own operator, told of the pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.ir.attributes import Attributes
from codesign.ir.batching import Layout as Held
from codesign.ir.batching import Value, apply
from codesign.ir.operators import OPERATORS
from codesign.partition.halo import HaloPlan
from codesign.partition.network import Operator
from codesign.partition.strategies import Strategy

MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
SHAPED = frozenset({"Expand", "Reshape"})
"""Operators whose second operand says the shape of the result."""
Setting = int | tuple[int, ...] | str


class LocalAttributes(Attributes):
    """Attributes of a node, some of them changed.

    Args:
        node: The node.
        base: Where types and device come from.
        changes: What is changed.
    """

    def __init__(self, node: ir.Node, base: torch.dtype, changes: Mapping[str, Setting]) -> None:
        super().__init__(node, base, torch.device("cpu"))
        self._changes = dict(changes)

    def integer(self, name: str, default: int) -> int:
        """An integer.

        Args:
            name: Attribute.
            default: Its value where it is absent.

        Returns:
            The value.
        """
        found = self._changes.get(name)
        return found if isinstance(found, int) else super().integer(name, default)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers.

        Args:
            name: Attribute.

        Returns:
            The values, or None where it is absent.
        """
        found = self._changes.get(name)
        return found if isinstance(found, tuple) else super().integers(name)

    def text(self, name: str, default: str) -> str:
        """A string.

        Args:
            name: Attribute.
            default: Its value where it is absent.

        Returns:
            The value.
        """
        found = self._changes.get(name)
        return found if isinstance(found, str) else super().text(name, default)


@dataclass(frozen=True)
class LocalOperator:
    """What one device needs to compute its piece of an operator.

    Attributes:
        op: The operator.
        node: Its node.
        item: How it is shared out.
        rank: Number of the device.
        dtype: What real numbers are computed in.
        operands: For each input of the node, the position among the operator's operands; None where absent.
        held: How each operand is held for several samples.
        result_held: How the results are.
        halos: Of its windows, in the order of the loops.
    """

    op: Operator
    node: ir.Node
    item: Strategy
    rank: int
    dtype: torch.dtype
    operands: tuple[int | None, ...]
    held: tuple[Held, ...]
    result_held: Held
    halos: tuple[HaloPlan, ...]

    def compute(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The piece of the results.

        Args:
            tensors: Pieces of the operands, halos included.

        Returns:
            One tensor a result.
        """
        tensors = self._summed_once(list(tensors))
        by_group = self._by_group(tensors)
        if by_group is not None:
            return (by_group,)
        results = self._applied(tensors, self._changes(tensors))
        if self.op.kind in MEANS:
            results = tuple(result * self._share_of_mean() for result in results)
        return results

    def _applied(self, tensors: Sequence[Tensor], changes: Mapping[str, Setting]) -> tuple[Tensor, ...]:
        attributes = LocalAttributes(self.node, self.dtype, changes)
        values = [None if i is None else Value(tensors[i], self.held[i]) for i in self.operands]
        if self.op.kind in SHAPED:
            shape = torch.tensor(self._result_sample_shape(), dtype=torch.int64)
            values[1] = Value(shape, Held.CONSTANT)
        results = apply(OPERATORS[self.op.kind], attributes, values)
        return tuple(self._as_held(result) for result in results[: len(self.op.results)])

    def _as_held(self, result: Value) -> Tensor:
        """One head that is left of several looks like the single sample of a graph; it is not."""
        if self.result_held is Held.STACKED and result.layout is Held.MERGED:
            return result.data.unsqueeze(1)
        return result.data

    def _result_sample_shape(self) -> tuple[int, ...]:
        local = self.item.result_layout(self.op).local_shape(self.op.results[0].shape, self.rank)
        match self.result_held:
            case Held.MERGED:
                return (1, *local[1:])
            case Held.STACKED:
                return local[1:]
            case Held.CONSTANT:
                return local

    def _changes(self, tensors: Sequence[Tensor]) -> dict[str, Setting]:
        changes: dict[str, Setting] = {}
        if self.halos:
            changes |= self._padding(tensors)
        groups = self.item.parts_of("group")
        if self.op.kind == "Conv" and groups > 1:
            changes["group"] = self.op.loop_of["group"].size // groups
        heads = self.item.parts_of("head")
        if self.op.kind == "Attention" and heads > 1:
            for name in ("q_num_heads", "kv_num_heads"):
                whole = Attributes(self.node, self.dtype, torch.device("cpu")).integer(name, 0)
                if whole:
                    changes[name] = whole // heads
        return changes

    def _padding(self, tensors: Sequence[Tensor]) -> dict[str, Setting]:
        """Padding at the borders of the image only."""
        rank = tensors[0].dim() - 2
        before, after = [0] * rank, [0] * rank
        for loop in self.op.loops:
            if loop.window is None:
                continue
            axis = (loop.operands[0] or 0) - 2
            halo = next((h for h in self.halos if h.axis == axis + 2), None)
            if halo is not None:
                before[axis], after[axis] = halo.pads[halo.index]
            else:
                first, end = loop.window.needs(0, loop.window.outputs)
                before[axis], after[axis] = max(-first, 0), max(end - loop.window.inputs, 0)
        return {"pads": (*before, *after), "auto_pad": "NOTSET", "ceil_mode": 0}

    def _summed_once(self, tensors: list[Tensor]) -> list[Tensor]:
        """Where devices share a sum, only the first of them adds the bias."""
        if self.op.kind in {"Conv", "Gemm"} and len(tensors) > 2 and self.item.parts_of("in") > 1:
            stride, first = 1, True
            for parts, loop in zip(reversed(self.item.parts), reversed(self.item.loops), strict=True):
                first = first and (loop != "in" or self.rank // stride % parts == 0)
                stride *= parts
            tensors[2] = tensors[2] * float(first)
        return tensors

    def _share_of_mean(self) -> float:
        share = 1.0
        held = self.item.operand_layout(self.op, 0)
        for loop in self.op.loops:
            axis = loop.operands[0]
            if loop.result is None and axis is not None and self.item.parts_of(loop.name) > 1:
                size = self.op.operands[0].shape[axis]
                first, end = held.interval(axis, size, self.rank)
                share *= (end - first) / size
        return share

    def _by_group(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """A convolution in groups, shared out by output channels: each group sees its own inputs only."""
        if self.op.kind != "Conv" or self.item.parts_of("out") == 1 or "group" not in self.op.loop_of:
            return None
        groups, outputs = self.op.loop_of["group"].size, self.op.results[0].shape[1]
        wide, deep = outputs // groups, self.op.operands[0].shape[1] // groups
        first, end = self.item.result_layout(self.op).interval(1, outputs, self.rank)
        if first % wide == 0 and end % wide == 0:
            pieces = [(first, end)]
        else:
            cuts = sorted({first, end, *range((first // wide + 1) * wide, end, wide)})
            pieces = list(pairwise(cuts))
        changes = self._changes(tensors)
        found: list[Tensor] = []
        for begin, stop in pieces:
            low, high = begin // wide, -(-stop // wide)
            rows = slice(begin - first, stop - first)
            own = [tensors[0][:, low * deep : high * deep], *(t[rows] for t in tensors[1:])]
            found += self._applied(own, {**changes, "group": high - low})
        return torch.cat(found, 1)
