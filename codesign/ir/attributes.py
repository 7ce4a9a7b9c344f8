"""What an operator may ask of its node: typed attributes, and tensors converted to torch."""

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.errors import InputError

EXACT_TYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}
"""ONNX types whose values torch holds exactly; integers below 8 bits sit in 8."""


def torch_type(kind: ir.DataType, float_type: torch.dtype, where: str) -> torch.dtype:
    """The torch type that holds values of an ONNX type.

    Args:
        kind: ONNX type.
        float_type: What ONNX's FLOAT is computed in.
        where: What has this type, for the message.

    Returns:
        `float_type` for FLOAT, else the integer or boolean type.

    Raises:
        InputError: A network holds a type that is not computed here, such as FLOAT16.
    """
    if kind == ir.DataType.FLOAT:
        return float_type
    if kind not in EXACT_TYPES:
        raise InputError(
            f"{where} has type {kind.name}; networks are computed in FLOAT and integers up to 64 bits: "
            f"convert the model to float32"
        )
    return EXACT_TYPES[kind]


def to_torch(tensor: ir.TensorProtocol, float_type: torch.dtype, where: str) -> Tensor:
    """Copies an ONNX tensor.

    Args:
        tensor: Values of any rank.
        float_type: What ONNX's FLOAT becomes.
        where: What the tensor is, for messages.

    Returns:
        A leaf tensor of the same shape.
    """
    kind = torch_type(tensor.dtype, float_type, where)
    if tensor.dtype in {ir.DataType.INT4, ir.DataType.INT2}:
        return torch.tensor(tensor.numpy().astype("int8"), dtype=kind)
    if tensor.dtype in {ir.DataType.UINT4, ir.DataType.UINT2}:
        return torch.tensor(tensor.numpy().astype("uint8"), dtype=kind)
    return torch.tensor(tensor.numpy(), dtype=kind)


class Attributes:
    """Typed view of one node's attributes.

    Args:
        node: The node.
        float_type: What ONNX's FLOAT is computed in.
        device: Where tensors live.
    """

    def __init__(self, node: ir.Node, float_type: torch.dtype, device: torch.device) -> None:
        self.node = node
        self.float_type = float_type
        self.device = device

    @property
    def where(self) -> str:
        """The node in words, for messages."""
        return f"node {self.node.name!r} ({self.node.op_type})"

    def integer(self, name: str, default: int) -> int:
        """An integer.

        Args:
            name: Attribute.
            default: Its value where it is absent.

        Returns:
            The value.
        """
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def real(self, name: str, default: float) -> float:
        """A float.

        Args:
            name: Attribute.
            default: Its value where it is absent.

        Returns:
            The value.
        """
        found = self.node.attributes.get(name)
        return default if found is None else found.as_float()

    def text(self, name: str, default: str) -> str:
        """A string.

        Args:
            name: Attribute.
            default: Its value where it is absent.

        Returns:
            The value.
        """
        found = self.node.attributes.get(name)
        return default if found is None else found.as_string()

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers.

        Args:
            name: Attribute.

        Returns:
            The values, or None where it is absent.
        """
        found = self.node.attributes.get(name)
        return None if found is None else tuple(found.as_ints())

    def tensor(self, name: str) -> Tensor | None:
        """A tensor.

        Args:
            name: Attribute.

        Returns:
            A copy of the values, or None where it is absent.
        """
        found = self.node.attributes.get(name)
        return None if found is None else to_torch(found.as_tensor(), self.float_type, self.where).to(self.device)

    def type_named(self, name: str) -> torch.dtype:
        """The torch type that an attribute such as Cast's `to` names.

        Args:
            name: Attribute that holds an ONNX type.

        Returns:
            The torch type.
        """
        return torch_type(ir.DataType(self.integer(name, 0)), self.float_type, self.where)

    def operand_type(self, index: int) -> ir.DataType | None:
        """ONNX type of an operand.

        Args:
            index: Position.

        Returns:
            The type, or None where the operand is absent or its type unknown.
        """
        operand = self.node.inputs[index] if index < len(self.node.inputs) else None
        if operand is None:
            return None
        return operand.dtype if operand.const_value is None else operand.const_value.dtype


def integers_in(tensor: Tensor) -> tuple[int, ...]:
    """The values of a shape, axes or similar operand.

    Args:
        tensor: Integers, of rank 0 or 1.

    Returns:
        The values.
    """
    return tuple(int(value) for value in tensor.reshape(-1).tolist())
