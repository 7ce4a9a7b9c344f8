"""What a compiler executes: operations in order, with quantisation, bias and activation already merged into them."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codesign.backend.kernels.epilogue import Clamp


@dataclass(frozen=True)
class Quantization:
    """real = (integer - zero_point) * scale, integers unsigned and 8 bits wide.

    Attributes:
        scale: Real distance of neighbouring integers.
        zero_point: Integer that stands for 0.
    """

    scale: float
    zero_point: int

    def bounds(self, clamp: Clamp) -> tuple[float, float]:
        """Bounds of round-to-be values r = real / scale, zero point not added, under an activation.

        Args:
            clamp: The activation.

        Returns:
            Lowest and highest r.
        """
        low, high = -float(self.zero_point), 255.0 - self.zero_point
        if clamp.low is not None:
            low = max(low, clamp.low / self.scale)
        if clamp.high is not None:
            high = min(high, clamp.high / self.scale)
        return min(low, 255.0 - self.zero_point), max(high, -float(self.zero_point))


@dataclass(frozen=True)
class Tensor:
    """An activation.

    Attributes:
        name: Name in the graph.
        shape: Logical shape, as in the graph.
        quantization: Set for uint8, None for float32.
    """

    name: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    @property
    def dtype(self) -> str:
        """`uint8` or `float32`."""
        return "float32" if self.quantization is None else "uint8"


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant that activations are multiplied with.

    Attributes:
        values: `[C_out, C_in / groups, KH, KW]`, int8 or float32.
        scale: `[C_out]` float32 for integers, None for float32.
        bits: Width of the integers, 32 for float32.
    """

    values: NDArray[np.generic]
    scale: NDArray[np.float32] | None
    bits: int


@dataclass(frozen=True)
class SpatialWindow:
    """How a convolution or pooling window moves over an image.

    Attributes:
        kernel: Height and width.
        stride: Vertical and horizontal.
        dilation: Vertical and horizontal.
        pads: Top, left, bottom, right.
    """

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Residual:
    """An addition merged into a convolution.

    Attributes:
        tensor: What is added.
        middle: The convolution's own result, rounded to its quantisation before the addition.
        clamp: Activation after the addition.
        first: Whether the residual is the addition's first operand.
    """

    tensor: Tensor
    middle: Tensor
    clamp: Clamp
    first: bool


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of an image `[1, C, H, W]`, or a dense layer over the last axis.

    Attributes:
        name: Node name.
        x: Input.
        output: Result, of the addition if there is a residual.
        weight: Constant weight.
        bias: `[C_out]`, int32 with scale s_x s_w for integer weights, float32 otherwise; None without one.
        window: How the kernel moves; 1x1 for a dense layer.
        groups: Number of groups.
        dense: Whether it is a dense layer.
        clamp: Activation, before the addition if there is a residual.
        residual: An addition merged into it.
    """

    name: str
    x: Tensor
    output: Tensor
    weight: Weight
    bias: NDArray[np.generic] | None
    window: SpatialWindow
    groups: int
    dense: bool
    clamp: Clamp
    residual: Residual | None = None


@dataclass(frozen=True)
class Pooling:
    """Pooling of an image; global pooling is a window as large as the image.

    Attributes:
        name: Node name.
        x: Input.
        output: Result.
        kind: Maximum or mean.
        window: How the window moves.
        count_padding: Whether the mean counts padding as elements.
        clamp: Activation.
    """

    name: str
    x: Tensor
    output: Tensor
    kind: Literal["max", "average"]
    window: SpatialWindow
    count_padding: bool
    clamp: Clamp


@dataclass(frozen=True)
class Addition:
    """Sum of two quantised activations of one shape.

    Attributes:
        name: Node name.
        a: First operand.
        b: Second operand.
        output: Result.
        clamp: Activation.
    """

    name: str
    a: Tensor
    b: Tensor
    output: Tensor
    clamp: Clamp


@dataclass(frozen=True)
class Concatenation:
    """Images one after the other along their channels.

    Attributes:
        name: Node name.
        inputs: Images of one size.
        output: Result.
    """

    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor


@dataclass(frozen=True)
class Crop:
    """A strided slice of an image, padded with a constant.

    Attributes:
        name: Node name.
        x: Input `[1, C, H, W]`.
        output: Result.
        start: First channel, row and column.
        step: Distance between those that are kept.
        size: How many are kept.
        before: Padding before them.
        fill: Value of padding, as stored.
    """

    name: str
    x: Tensor
    output: Tensor
    start: tuple[int, int, int]
    step: tuple[int, int, int]
    size: tuple[int, int, int]
    before: tuple[int, int, int]
    fill: float


@dataclass(frozen=True)
class Conversion:
    """Between float32 and uint8, or from one uint8 scale to another, bounded by an activation.

    Attributes:
        name: Node name.
        x: Input.
        output: Result.
        clamp: Activation; only where the result is uint8.
    """

    name: str
    x: Tensor
    output: Tensor
    clamp: Clamp = field(default_factory=Clamp)


@dataclass(frozen=True, eq=False)
class Generic:
    """An operator without a template: computed in float32, or moving elements of any type.

    Attributes:
        name: Node name.
        op_type: ONNX operator.
        operands: Activations, constants, and None for absent ones, in the operator's order.
        attributes: The operator's attributes.
        outputs: Results.
    """

    name: str
    op_type: str
    operands: "tuple[Tensor | NDArray[np.generic] | None, ...]"
    attributes: dict[str, object]
    outputs: tuple[Tensor, ...]


Operation = Convolution | Pooling | Addition | Concatenation | Crop | Conversion | Generic
