"""The one schedule of all convolution kernels: outputs of a tile are summed in registers, then finished at once."""

from dataclasses import dataclass

import tvm_ffi
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import LoopRV, SBlockRV

from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.packing import LANES, neighbours, packed_steps
from codesign.backend.kernels.parameters import VectorTiling


@dataclass(frozen=True)
class Unpacking:
    """How the stage that expands weights below 8 bits is scheduled.

    Attributes:
        steps: Steps of the sum that are packed together.
        neighbours: Weights next to one another that one shift and mask of every plane yields.
    """

    steps: int
    neighbours: int

    @staticmethod
    def of(steps: int, lanes: int, bits: int) -> "Unpacking":
        """The best that packing allows.

        Args:
            steps: Steps of the sum.
            lanes: Weights of a step in one block of outputs.
            bits: Width of the weights, below 8.

        Returns:
            As `weight_stages` packs.
        """
        together = packed_steps(steps, bits)
        return Unpacking(together, min(lanes, neighbours(lanes * together, bits)))


@dataclass(frozen=True)
class Stages:
    """Which stages a kernel has besides the sum and the output.

    Attributes:
        padded: A stage copies the input with its padding.
        unpacking: Of the stage that expands weights below 8 bits; None for no such stage.
        intrinsic: Name of the intrinsic that does the sum's innermost products (vnni.py); empty for none.
        depth: Products that it adds in each lane.
    """

    padded: bool
    unpacking: Unpacking | None = None
    intrinsic: str = ""
    depth: int = 1


def padded_input(x: te.Tensor, shape: ConvolutionShape, fill: tirx.Expr) -> te.Tensor:
    """The stage that copies the input `[1, H, W, C]` with its padding.

    Args:
        x: Placeholder of the input.
        shape: The convolution.
        fill: Value of the padding.

    Returns:
        The stage, or `x` itself if nothing is padded.
    """
    if not shape.is_padded:
        return x
    top, left = shape.pads[0], shape.pads[1]

    def value(n: tirx.Expr, h: tirx.Expr, w: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside = te.all(h >= top, h < shape.height + top, w >= left, w < shape.width + left)
        return te.if_then_else(inside, x[n, h - top, w - left, c], fill)

    return te.compute((1, shape.padded_height, shape.padded_width, shape.in_channels), value, "padded")


def input_channel(shape: ConvolutionShape, out_channel: tirx.Expr, offset: tirx.Expr) -> tirx.Expr:
    """Index of the `offset`-th input channel that an output channel sums over.

    Args:
        shape: The convolution.
        out_channel: Output channel.
        offset: Below `shape.reduction_channels`.

    Returns:
        Input channel, the same for all outputs of a block unless the layer is depthwise.
    """
    last = shape.in_channels - shape.reduction_channels
    if shape.groups == 1 or last == 0:
        return offset
    if shape.is_depthwise:
        return out_channel
    if shape.group_out % LANES == 0:
        first = out_channel // LANES // (shape.group_out // LANES) * shape.group_in
    else:
        first = out_channel // LANES * LANES // shape.group_out * shape.group_in
    if max(block * LANES // shape.group_out * shape.group_in for block in range(shape.blocks)) > last:
        first = te.min(first, last)
    return first + offset


def schedule_convolution(
    function: tirx.PrimFunc, shape: ConvolutionShape, stages: Stages, tiling: VectorTiling
) -> tirx.PrimFunc:
    """Schedules stages named `padded`, `unpacked`, `accumulated` and `out`.

    Loops: chunk of rows | block of channels | row | tile of columns; inside, the sum over kernel and input channels
    surrounds an unrolled tile, 16 channels being one vector. Sums start with the argument `bias`. Padding is copied
    inside a chunk, weights are unpacked inside a block of channels, so that one parallel launch does all.

    Args:
        function: Written with te.
        shape: The convolution.
        stages: Which stages there are.
        tiling: Which loops.

    Returns:
        The scheduled function.
    """
    s = Schedule(function)
    out, total = s.get_sblock("out"), s.get_sblock("accumulated")
    n, row, column, channel = s.get_loops(out)
    column, column_in = s.split(column, [None, tiling.columns])
    block, block_in, lane = s.split(channel, [None, tiling.blocks, LANES])
    if shape.out_height > 1:
        chunk, row = s.split(row, [tiling.chunks, None])
    else:
        chunk, column = s.split(column, [tiling.chunks, None])
    inside = [row, column, block] if tiling.channels_inside else [block, row, column]
    s.reorder(n, chunk, *inside, column_in, block_in, lane)
    s.compute_at(total, inside[-1], preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    if stages.padded:
        s.compute_at(s.get_sblock("padded"), chunk, preserve_unit_loops=True)
        vectorize_copy(s, "padded")
    if stages.unpacking is not None:
        schedule_unpacking(s, block, stages.unpacking)
    if tiling.shares_chunks:
        s.parallel(chunk)
    elif tiling.shares_blocks:
        s.parallel(block)
    _schedule_sum(s, total, tiling, stages)  # splits off the start, after which nothing can be parallel
    s.vectorize(lane)
    s.unroll(column_in)
    s.unroll(block_in)
    return _starting_with_bias(s.mod["main"])


def _starting_with_bias(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Starts sums with the argument `bias`, which costs nothing, where te starts them with zero."""
    bias = next(argument for argument in function.params if argument.name == "bias")

    def start(store: tirx.BufferStore) -> tirx.BufferStore:
        if not store.buffer.name.startswith("accumulated") or not isinstance(store.value, tirx.IntImm | tirx.FloatImm):
            return store
        return tirx.BufferStore(store.buffer, bias[store.indices[-1]], store.indices)

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.BufferStore, start), order="post"))


def vectorize_copy(s: Schedule, name: str) -> None:
    """Vectorises the innermost loop of a copying stage by the widest vector that divides it.

    Args:
        s: Schedule.
        name: Name of the stage.
    """
    innermost = s.get_loops(s.get_sblock(name))[-1]
    extent = int(s.get(innermost).extent)
    width = next(v for v in (64, 32, 16, 8, 4, 2, 1) if extent % v == 0)
    if width > 1:
        s.vectorize(s.split(innermost, [None, width])[1])


def schedule_unpacking(s: Schedule, block: LoopRV, unpacking: Unpacking) -> None:
    """Schedules the stage `unpacked`, a whole vector at a time.

    Args:
        s: Schedule.
        block: Loop over blocks of output channels, inside which their weights are expanded.
        unpacking: How.
    """
    unpacked = s.get_sblock("unpacked")
    s.compute_at(unpacked, block, preserve_unit_loops=True)
    *_, step, lane, inner = s.get_loops(unpacked)
    _, together = s.split(step, [None, unpacking.steps])
    part, lanes = s.split(s.fuse(lane, inner), [None, unpacking.neighbours])
    s.unroll(together)
    s.unroll(part)
    s.vectorize(lanes)


def _schedule_sum(s: Schedule, total: SBlockRV, tiling: VectorTiling, stages: Stages) -> None:
    loops = s.get_loops(total)[5:]
    reduction = loops[4:]
    lane_block, lane = s.split(loops[3], [tiling.blocks, LANES])
    tile = [*loops[:3], lane_block]
    inner = [reduction.pop()] if stages.depth > 1 else []
    s.reorder(*reduction, *tile, lane, *inner)
    for loop in [*tile, *(reduction[1:2] if tiling.unrolled else [])]:
        s.unroll(loop)
    if not stages.intrinsic:
        s.vectorize(lane)
    initial = s.decompose_reduction(total, reduction[0])
    if stages.intrinsic:
        initial_loops = s.get_loops(initial)
        s.vectorize(initial_loops[-1])
        for loop in initial_loops[-5:-1]:
            s.unroll(loop)
        s.tensorize(lane, stages.intrinsic)
