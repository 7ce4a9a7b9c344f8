"""What windows see of an image where kernels read it as it is, and how large its copy with padding is where not."""

from codesign.plan.facts import ConvGeometry


def window_taps(window: ConvGeometry, axis: int) -> list[tuple[int, ...]]:
    """What the window at each position of an axis sees of the image.

    Args:
        window: Loop bounds; its padding is taken to be the same on both sides, or one more before the image.
        axis: 0 for rows, 1 for columns.

    Returns:
        For each position of the output, the taps that lie inside.
    """
    size, out = window.input_size[axis], window.output_size[axis]
    kernel, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
    missing = max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - size)
    before = -(-missing // 2)
    starts = [position * stride - before for position in range(out)]
    return [tuple(t for t in range(kernel) if 0 <= start + t * dilation < size) for start in starts]


def is_padded_beside(window: ConvGeometry) -> bool:
    """Whether windows see padding to the left or right of the image.

    Args:
        window: Loop bounds.

    Returns:
        Whether they do.
    """
    return _reach(window)[1] > window.input_size[1]


def _reach(window: ConvGeometry) -> tuple[int, int]:
    """Rows and columns that all windows see together, padding included."""
    rows, columns = (
        (out - 1) * stride + dilation * (kernel - 1) + 1
        for out, stride, dilation, kernel in zip(
            window.output_size, window.stride, window.dilation, window.kernel, strict=True
        )
    )
    return rows, columns


def padded_elements(window: ConvGeometry, channels: int) -> int:
    """Elements of the copy that other kernels make of an image with its padding.

    Args:
        window: Loop bounds.
        channels: Channels of the image as stored.

    Returns:
        Elements of one sample; 0 where nothing is padded.
    """
    reach = _reach(window)
    if all(size <= given for size, given in zip(reach, window.input_size, strict=True)):
        return 0
    return reach[0] * reach[1] * channels
