"""Which loops of each ONNX operator devices may share out: a table from operator to rule.

A rule speaks of the shapes of one sample, as they stand in the graph; every operator that depends on the input has a
loop over samples beside its own (`graph_network.py`). An operator without a rule is shared out by samples only.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from codesign.ir.attributes import Attributes
from codesign.ir.operators_elementwise import BROADCASTING, UNARY
from codesign.ir.operators_linear import window_padding
from codesign.partition.network import Loop, Window

Shape = tuple[int, ...]
IMAGE_AXES = (("height", 2), ("width", 3))


@dataclass(frozen=True)
class NodeShapes:
    """What a rule may look at.

    Attributes:
        node: Attributes.
        operands: Shapes for one sample, None where an operand is absent.
        results: Shapes for one sample.
        integers: Contents of constant whole-number operands, by position.
    """

    node: Attributes
    operands: tuple[Shape | None, ...]
    results: tuple[Shape, ...]
    integers: Mapping[int, tuple[int, ...]]

    def shape(self, operand: int) -> Shape:
        """Shape of an operand.

        Args:
            operand: Position.

        Returns:
            Sizes, none if it is absent.
        """
        return (self.operands[operand] if operand < len(self.operands) else None) or ()

    def axes(self, **at: int | None) -> tuple[int | None, ...]:
        """Axes by operand.

        Args:
            **at: Axis by the operand's position, such as `_0=1`.

        Returns:
            One entry an operand.
        """
        return tuple(at.get(f"_{i}") for i in range(len(self.operands)))


Rule = Callable[[NodeShapes], Iterator[Loop]]


def _elementwise(node: NodeShapes) -> Iterator[Loop]:
    """One loop an axis of the result; operands of size 1 there are read by all."""
    result = node.results[0]
    for axis, size in enumerate(result):
        where: list[int | None] = []
        for shape in node.operands:
            own = None if shape is None else axis - (len(result) - len(shape))
            where.append(own if own is not None and own >= 0 and (shape or ())[own] == size else None)
        if any(own is not None for own in where):
            yield Loop(f"axis{axis}", size, tuple(where), axis)


def _convolution(node: NodeShapes) -> Iterator[Loop]:
    """`[N, C, H, W] * [O, C / g, kh, kw] + [O]`."""
    x, weight, y = node.shape(0), node.shape(1), node.results[0]
    groups = node.node.integer("group", 1)
    yield Loop("out", y[1], node.axes(_1=0, _2=0), 1)
    if groups == 1:
        yield Loop("in", x[1], node.axes(_0=1, _1=1), None)
    else:
        yield Loop("group", groups, node.axes(_0=1, _1=0, _2=0), 1, aligned=True)
    yield from _windows(node, tuple(weight[2:]))


def _windows(node: NodeShapes, kernel: Sequence[int]) -> Iterator[Loop]:
    x, y, attributes = node.shape(0), node.results[0], node.node
    rank = len(kernel)
    if rank > 2:
        return
    strides = attributes.integers("strides") or (1,) * rank
    dilations = attributes.integers("dilations") or (1,) * rank
    before, _ = window_padding(attributes, x[2:], tuple(kernel), strides, dilations)
    for i, (name, axis) in enumerate(IMAGE_AXES[:rank]):
        window = Window(kernel[i], strides[i], dilations[i], before[i], x[axis], y[axis])
        yield Loop(name, min(x[axis], y[axis]), node.axes(_0=axis), axis, window=window)


def _gemm(node: NodeShapes) -> Iterator[Loop]:
    """`[M, K] @ [K, N] + [N]`, the second factor perhaps transposed."""
    a, y, c = node.shape(0), node.results[0], node.shape(2)
    if node.node.integer("transA", 0):
        return
    turned = node.node.integer("transB", 0)
    bias = len(c) - 1 if c and c[-1] == y[1] and y[1] > 1 else None
    row = 0 if len(c) == 2 and c[0] == y[0] and y[0] > 1 else None
    yield Loop("row", y[0], node.axes(_0=0, _2=row), 0)
    yield Loop("out", y[1], node.axes(_1=0 if turned else 1, _2=bias), 1)
    yield Loop("in", a[1], node.axes(_0=1, _1=1 if turned else 0), None)


def _matmul(node: NodeShapes) -> Iterator[Loop]:
    """`[..., M, K] @ [..., K, N]`; leading axes, such as heads, are broadcast."""
    a, b, y = node.shape(0), node.shape(1), node.results[0]
    if min(len(a), len(b)) < 2:
        return
    for axis, size in enumerate(y[:-2]):
        own = [axis - (len(y) - len(shape)) for shape in (a, b)]
        where = [i if i >= 0 and shape[i] == size else None for i, shape in zip(own, (a, b), strict=True)]
        yield Loop(f"lead{axis}", size, tuple(where), axis)
    yield Loop("row", a[-2], (len(a) - 2, None), len(y) - 2)
    yield Loop("out", b[-1], (None, len(b) - 1), len(y) - 1)
    yield Loop("in", a[-1], (len(a) - 1, len(b) - 2), None)


def _attention(node: NodeShapes) -> Iterator[Loop]:
    """Heads; rows of the query where every row may look at every key."""
    q, k, mask = node.shape(0), node.shape(1), node.shape(3)
    if len(q) == 4:
        heads, axis = k[1], 1
    else:
        heads, axis = node.node.integer("kv_num_heads", 1), 2
    of_mask = len(mask) - 3 if len(mask) > 2 and mask[-3] > 1 else None
    yield Loop("head", heads, node.axes(_0=axis, _1=axis, _2=axis, _3=of_mask), axis, aligned=True)
    if not node.node.integer("is_causal", 0):
        row = 2 if len(q) == 4 else 1
        of_mask = len(mask) - 2 if len(mask) > 1 and mask[-2] == q[row] and q[row] > 1 else None
        yield Loop("row", q[row], node.axes(_0=row, _3=of_mask), row)


def _pool(node: NodeShapes) -> Iterator[Loop]:
    yield Loop("channel", node.results[0][1], node.axes(_0=1), 1)
    kernel = node.node.integers("kernel_shape") or ()
    is_cut_short = node.node.node.op_type == "AveragePool" and node.node.integer("ceil_mode", 0)
    if not is_cut_short:  # how many numbers the last window holds depends on the whole image
        yield from _windows(node, kernel)


def _global_average(node: NodeShapes) -> Iterator[Loop]:
    x = node.shape(0)
    yield Loop("channel", x[1], (1,), 1)
    for name, axis in IMAGE_AXES[: len(x) - 2]:
        yield Loop(name, x[axis], (axis,), None)


def _global_maximum(node: NodeShapes) -> Iterator[Loop]:
    yield Loop("channel", node.shape(0)[1], (1,), 1)


def _reduction(node: NodeShapes) -> Iterator[Loop]:
    """Kept axes; summed axes leave parts, of means and sums only."""
    x = node.shape(0)
    given = node.integers.get(1) or node.node.integers("axes")
    if not given:
        given = () if node.node.integer("noop_with_empty_axes", 0) else tuple(range(len(x)))
    reduced = {axis % len(x) for axis in given}
    keep = node.node.integer("keepdims", 1)
    for axis, size in enumerate(x):
        if axis not in reduced:
            result = axis if keep else axis - sum(other < axis for other in reduced)
            yield Loop(f"axis{axis}", size, node.axes(_0=axis), result)
        elif node.node.node.op_type in {"ReduceMean", "ReduceSum"}:
            yield Loop(f"axis{axis}", size, node.axes(_0=axis), None)


def _last_axes_whole(node: NodeShapes) -> Iterator[Loop]:
    """Layer and RMS normalisation: statistics run over the last axes."""
    x = node.shape(0)
    for axis in range(node.node.integer("axis", -1) % len(x)):
        yield Loop(f"axis{axis}", x[axis], node.axes(_0=axis), axis)


def _one_axis_whole(node: NodeShapes) -> Iterator[Loop]:
    """Softmax, and concatenation or splitting along an axis."""
    shape = node.shape(0)
    default = {"Concat": 0, "Split": 0}.get(node.node.node.op_type, -1)
    whole = node.node.integer("axis", default) % len(shape)
    tensors = len(node.operands) if node.node.node.op_type == "Concat" else 1
    for axis, size in enumerate(shape):
        if axis != whole:
            where = tuple(axis if i < tensors else None for i in range(len(node.operands)))
            yield Loop(f"axis{axis}", size, where, axis)


def _batch_norm(node: NodeShapes) -> Iterator[Loop]:
    for axis, size in enumerate(node.shape(0)):
        constants = 0 if axis == 1 else None
        yield Loop(
            f"axis{axis}", size, node.axes(_0=axis, _1=constants, _2=constants, _3=constants, _4=constants), axis
        )


def _instance_norm(node: NodeShapes) -> Iterator[Loop]:
    yield Loop("channel", node.shape(0)[1], node.axes(_0=1, _1=0, _2=0), 1)


def _transpose(node: NodeShapes) -> Iterator[Loop]:
    x = node.shape(0)
    order = node.node.integers("perm") or tuple(reversed(range(len(x))))
    for result, axis in enumerate(order):
        yield Loop(f"axis{axis}", x[axis], (axis,), result)


def _reshape(node: NodeShapes) -> Iterator[Loop]:
    """The first axis of each group of axes that become each other: `[a b, c] -> [a, b c]` and the like."""
    for axis, result, size, aligned in _groups(node.shape(0), node.results[0]):
        yield Loop(f"axis{axis}", size, node.axes(_0=axis), result, aligned=aligned)


def _groups(before: Shape, after: Shape) -> Iterator[tuple[int, int, int, bool]]:
    """First axes above 1 of groups with equal products, how far they split alike, and whether only in equal pieces."""
    i = j = 0
    while i < len(before) and j < len(after):
        start = (i, j)
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        first = next((a for a in range(start[0], i) if before[a] > 1), None)
        second = next((a for a in range(start[1], j) if after[a] > 1), None)
        if first is not None and second is not None:
            yield first, second, math.gcd(before[first], after[second]), before[first] != after[second]


def _expand(node: NodeShapes) -> Iterator[Loop]:
    yield from (
        Loop(loop.name, loop.size, node.axes(_0=loop.operands[0]), loop.result)
        for loop in _elementwise(NodeShapes(node.node, node.operands[:1], node.results, {}))
    )


def _untouched(node: NodeShapes) -> Iterator[Loop]:
    """Slice and Pad: axes that they leave alone."""
    x, y = node.shape(0), node.results[0]
    rank = len(x)
    if node.node.node.op_type == "Slice":
        touched = {axis % rank for axis in node.integers.get(3, tuple(range(rank)))}
    else:
        along = [axis % rank for axis in node.integers.get(3, tuple(range(rank)))]
        pads = node.integers.get(1, (1,) * (2 * len(along)))
        touched = {axis for i, axis in enumerate(along) if pads[i] or pads[i + len(along)]}
    for axis in set(range(rank)) - touched:
        yield Loop(f"axis{axis}", x[axis], node.axes(_0=axis), axis)
    assert len(y) == rank


def _gather(node: NodeShapes) -> Iterator[Loop]:
    data, indices = node.shape(0), node.operands[1] or ()
    whole = node.node.integer("axis", 0) % len(data)
    for axis, size in enumerate(data):
        if axis != whole:
            result = axis if axis < whole else axis - 1 + len(indices)
            yield Loop(f"axis{axis}", size, (axis, None), result)
    for axis, size in enumerate(indices):
        yield Loop(f"index{axis}", size, (None, axis), whole + axis)


def _einsum(node: NodeShapes) -> Iterator[Loop]:
    """Every label is a loop."""
    equation = node.node.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(term)) < len(term) for term in terms):
        return
    for label in dict.fromkeys("".join(terms)):
        where = [term.index(label) if label in term else None for term in terms]
        size = next(node.shape(i)[axis] for i, axis in enumerate(where) if axis is not None)
        yield Loop(label, size, tuple(where), right.index(label) if label in right else None)


SHARDING_RULES: Mapping[str, Rule] = MappingProxyType({
    **dict.fromkeys((*UNARY, *BROADCASTING), _elementwise),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _last_axes_whole),
    **dict.fromkeys(("Concat", "LogSoftmax", "Softmax", "Split"), _one_axis_whole),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("AveragePool", "MaxPool"), _pool),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        _reduction,
    ),
    **dict.fromkeys(("Pad", "Slice"), _untouched),
    "Attention": _attention,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_maximum,
    "InstanceNormalization": _instance_norm,
    "MatMul": _matmul,
    "Transpose": _transpose,
})
"""ONNX operator to its loops for one sample."""


def loops_of(node: NodeShapes) -> tuple[Loop, ...]:
    """The loops of a node beside that over samples.

    Args:
        node: Its shapes.

    Returns:
        Loops of at least two indices, in axes of one sample.
    """
    rule = SHARDING_RULES.get(node.node.node.op_type)
    return () if rule is None else tuple(loop for loop in rule(node) if loop.size > 1)
