"""Reading an ONNX file: who makes and who reads each tensor, shapes, constants."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs among the dependencies
from numpy.typing import NDArray

from codesign.backend.operations import Quantization, Tensor
from codesign.errors import CompileError


class Refusal(Exception):  # noqa: N818  # not an error of the program: it becomes one line of a list
    """Why a node cannot be compiled."""


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A model with its shapes inferred.

    Attributes:
        model: The model.
        constants: Initialisers and outputs of Constant nodes, 4-bit integers widened to 8.
        shapes: Static shapes of tensors.
    """

    model: onnx.ModelProto
    constants: dict[str, NDArray[np.generic]]
    shapes: dict[str, tuple[int, ...]]

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """Nodes that compute, in the order of the file."""
        return tuple(node for node in self.model.graph.node if node.op_type != "Constant")

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Tensor name to the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Tensor name to the nodes that read it, once for each time."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @property
    def input_name(self) -> str:
        """Name of the one input."""
        names: list[str] = [i.name for i in self.model.graph.input]
        return next(name for name in names if name not in self.constants)

    @property
    def output_name(self) -> str:
        """Name of the one output."""
        name: str = self.model.graph.output[0].name
        return name

    def shape(self, name: str) -> tuple[int, ...]:
        """Static shape of a tensor.

        Args:
            name: Its name.

        Returns:
            The shape.

        Raises:
            Refusal: It is not static.
        """
        if name in self.constants:
            return tuple(self.constants[name].shape)
        if name not in self.shapes:
            raise Refusal(f"shape of {name!r} is not static; export with fixed input sizes")
        return self.shapes[name]

    def sole_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor.

        Args:
            name: Tensor name.

        Returns:
            The node, or None if the tensor is read more than once or is the network's output.
        """
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name != self.output_name else None

    def uses(self, name: str) -> int:
        """How often a uint8 tensor is read, counting the readers of its dequantised copies.

        Args:
            name: Name of a uint8 tensor.

        Returns:
            The number; the network's output counts as well.
        """
        total = int(name == self.output_name)
        for node in self.readers.get(name, []):
            total += self.uses(node.output[0]) if node.op_type == "DequantizeLinear" else 1
        return total

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Value of a constant, dequantised where needed.

        Args:
            name: Tensor name.

        Returns:
            The value, or None if it is computed.
        """
        if name in self.constants:
            return self.constants[name]
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in self.constants:
            return None
        values, scale = self.constants[node.input[0]], self.constants[node.input[1]].astype(np.float32)
        zero = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
        if scale.ndim == 1 and values.ndim > 0:
            spread = [1] * values.ndim
            spread[int(str(attribute(node, "axis", 1))) % values.ndim] = -1
            scale, zero = scale.reshape(spread), zero.reshape(spread)
        return (values.astype(np.float32) - zero.astype(np.float32)) * scale

    def quantization(self, node: onnx.NodeProto) -> Quantization:
        """Scale and zero point of an activation.

        Args:
            node: A QuantizeLinear or DequantizeLinear node.

        Returns:
            The quantisation.

        Raises:
            Refusal: It is not one constant uint8 scale for the whole tensor.
        """
        if len(node.input) < 3 or not all(name in self.constants for name in node.input[1:3]):
            raise Refusal("activations need a constant scale and a constant uint8 zero point")
        scale, zero = self.constants[node.input[1]], self.constants[node.input[2]]
        if scale.size != 1 or zero.dtype != np.uint8:
            raise Refusal(f"activations are uint8 with one scale, got {zero.dtype} with {scale.size} scales")
        return Quantization(float(np.float32(scale.reshape(-1)[0])), int(zero.reshape(-1)[0]))

    def activation(self, name: str) -> Tensor:
        """The activation behind a name, in float32.

        Args:
            name: Tensor name.

        Returns:
            The tensor.
        """
        return Tensor(name, self.shape(name))

    def quantized(self, name: str) -> Tensor | None:
        """The uint8 tensor that a float32 tensor was dequantised from.

        Args:
            name: Name of a float32 tensor.

        Returns:
            The uint8 tensor, or None.
        """
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear" or node.input[0] in self.constants:
            return None
        return Tensor(node.input[0], self.shape(name), self.quantization(node))


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> "object":
    """An attribute of a node.

    Args:
        node: The node.
        name: Name of the attribute.
        default: Value if it is absent.

    Returns:
        The value, with text decoded.
    """
    for entry in node.attribute:
        if entry.name == name:
            value = onnx.helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


def read_graph(path: Path) -> OnnxGraph:
    """Loads an ONNX file and infers its shapes.

    Args:
        path: The file.

    Returns:
        The graph.

    Raises:
        CompileError: It cannot be read.
    """
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)
    except (OSError, DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompileError(f"{path}: not a valid ONNX file ({reason}); export it again") from error
    constants = {i.name: _array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = attribute(node, "value")
            constants[node.output[0]] = _array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    shapes = {}
    for info in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[info.name] = tuple(d.dim_value for d in dims)
    return OnnxGraph(model, constants, shapes)


def _array(tensor: onnx.TensorProto) -> NDArray[np.generic]:
    values: NDArray[np.generic] = onnx.numpy_helper.to_array(tensor)
    if tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.INT2}:
        return values.astype(np.int8)
    if tensor.data_type in {onnx.TensorProto.UINT4, onnx.TensorProto.UINT2}:
        return values.astype(np.uint8)
    return values
