"""The stage that expands packed weights inside a kernel."""

from collections.abc import Callable

from tvm import te, tirx

from codesign.backend.kernels.packing import LANES, PLANES, packed_steps

Reader = Callable[..., tirx.Expr]
"""From block of output channels, step of the sum, lane and input channel inside the step to an int8 weight."""


def weight_stages(blocks: int, steps: int, inner: int, bits: int) -> tuple[te.Tensor, Reader]:
    """The weights as stored and as multiplied.

    Args:
        blocks: C_out / 16.
        steps: KH KW C_in / inner.
        inner: Input channels next to one another.
        bits: Width.

    Returns:
        The placeholder, `[blocks, steps, 16, inner]` int8, or below 8 bits `[blocks, steps / S, 16 inner S bits / 8]`
        with S of `packed_steps`, which a stage `unpacked` expands; and how to read a weight.
    """
    if bits == 8:
        weight = te.placeholder((blocks, steps, LANES, inner), "int8", "weight")
        return weight, lambda *place: weight[place]
    together = packed_steps(steps, bits)
    lanes = LANES * inner * together
    stored = te.placeholder((blocks, steps // together, lanes * bits // 8), "uint8", "weight")

    def unpacked(block: tirx.Expr, step: tirx.Expr, lane: tirx.Expr, ci: tirx.Expr) -> tirx.Expr:
        number = step % together * (LANES * inner) + lane * inner + ci
        return _unpacked(stored, (block, step // together), number, lanes, bits)

    weight = te.compute((blocks, steps, LANES, inner), unpacked, "unpacked")
    return stored, lambda *place: weight[place]


def _unpacked(stored: te.Tensor, block: tuple[tirx.Expr, ...], lane: tirx.Expr, lanes: int, bits: int) -> tirx.Expr:
    position = first = 0
    value = None
    for width in PLANES[bits]:
        count = lanes * width // 8
        byte = stored[(*block, first + lane % count)]
        digit = (byte >> (lane // count * width).astype("uint8")) & tirx.const((1 << width) - 1, "uint8")
        digit <<= tirx.const(position, "uint8")
        value = digit if value is None else value + digit
        position, first = position + width, first + count
    assert value is not None
    return value.astype("int8") - tirx.const(1 << (bits - 1), "int8")
