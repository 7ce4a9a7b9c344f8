"""What one kernel of a convolution or dense layer computes, apart from how: the same in every process."""

import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from codesign.backend.kernels.epilogue import FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape

FLOAT_BITS = 32
_SHAPE = TypeAdapter(ConvolutionShape)
_REAL, _INTEGER = TypeAdapter(FloatEpilogue), TypeAdapter(IntegerEpilogue)


@dataclass(frozen=True)
class LayerKernel:
    """One kernel.

    Attributes:
        shape: Loop bounds.
        bits: Width of the weights; 32 for float32, else activations are uint8.
        epilogue: What follows the sum: a `FloatEpilogue` for float32, an `IntegerEpilogue` for integers.
    """

    shape: ConvolutionShape
    bits: int
    epilogue: FloatEpilogue | IntegerEpilogue

    @property
    def is_vector(self) -> bool:
        """Whether it is a product of a matrix and one row."""
        shape = self.shape
        return shape.out_height * shape.out_width == 1 and shape.kernel == (1, 1) and shape.groups == 1

    @property
    def identity(self) -> str:
        """JSON that is the same in every process."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def words(self) -> str:
        """For people, such as `int8 3x3 32x32x16 -> 32x32x16`; kernels that differ in details may share it."""
        shape = self.shape
        kind = "float32" if self.bits == FLOAT_BITS else f"int{self.bits}"
        stride = "" if shape.stride == (1, 1) else f" stride {shape.stride[0]}x{shape.stride[1]}"
        groups = "" if shape.groups == 1 else f" in {shape.groups} groups"
        residual = " + residual" if self.epilogue.residual else ""
        return (
            f"{kind} {shape.kernel[0]}x{shape.kernel[1]}{stride}{groups} {shape.height}x{shape.width}x"
            f"{shape.in_channels} -> {shape.out_height}x{shape.out_width}x{shape.out_channels}{residual}"
        )


def read_layer_kernel(identity: str) -> LayerKernel:
    """The inverse of `LayerKernel.identity`.

    Args:
        identity: JSON.

    Returns:
        The kernel.

    Raises:
        ValueError: It is none.
    """
    values = json.loads(identity)
    try:
        bits = int(values["bits"])
        epilogue = (_REAL if bits == FLOAT_BITS else _INTEGER).validate_python(values["epilogue"])
        return LayerKernel(_SHAPE.validate_python(values["shape"]), bits, epilogue)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{identity!r} describes no kernel") from error
