"""The stage that expands packed weights inside a kernel."""

from tvm import te, tirx

from codesign.backend.kernels.packing import LANES, PLANES


def weight_stages(blocks: tuple[int, ...], inner: int, bits: int) -> tuple[te.Tensor, te.Tensor]:
    """The weights as stored and as multiplied.

    Args:
        blocks: `(C_out / 16, KH, KW, C_in / inner)`.
        inner: Input channels next to one another.
        bits: Width.

    Returns:
        The placeholder, and the int8 weights `[*blocks, 16, inner]` (the same at 8 bits).
    """
    if bits == 8:
        stored = te.placeholder((*blocks, LANES, inner), "int8", "weight")
        return stored, stored
    lanes = LANES * inner
    stored = te.placeholder((*blocks, lanes * bits // 8), "uint8", "weight")
    unpacked = te.compute(
        (*blocks, LANES, inner),
        lambda b, kh, kw, co, lane, ci: _unpacked(stored, (b, kh, kw, co), lane * inner + ci, lanes, bits),
        "unpacked",
    )
    return stored, unpacked


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
