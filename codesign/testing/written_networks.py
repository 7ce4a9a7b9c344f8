"""Small ONNX networks of every kind of layer, written node by node, with QDQ nodes or without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LOGIT_SCALE = 0.05
"""Step of the networks' outputs."""


Attribute = int | float | str | list[int]
"""Of an ONNX node."""


def _node(op: str, inputs: tuple[str, ...], results: list[str], attributes: "dict[str, Attribute]") -> onnx.NodeProto:
    node = helper.make_node(op, list(inputs), results, name=results[0])
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return node


class NetworkWriter:
    """Writes ONNX graphs, with QDQ nodes as the product writes them or without.

    Attributes:
        shape: Of the input.
        bits: Width of weights.
        quantized: Whether there are QDQ nodes.
        seed: Source of weights.
    """

    def __init__(self, shape: tuple[int, ...], bits: int = 8, quantized: bool = True, seed: int = 0) -> None:
        self.bits, self.quantized, self.random = bits, quantized, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = shape

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Adds an initialiser.

        Args:
            name: Its name.
            value: Its contents.

        Returns:
            The name.
        """
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *inputs: str, outputs: Attribute = 1, **attributes: Attribute) -> str:
        """Adds a node.

        Args:
            op: ONNX operator.
            *inputs: Names of operands, empty for one that is left out.
            outputs: How many results it has.
            **attributes: Of the node.

        Returns:
            Name of the first result.
        """
        assert isinstance(outputs, int)
        name = f"{op.lower()}{len(self.nodes)}"
        results = [name] + [f"{name}_{i}" for i in range(1, outputs)]
        self.nodes.append(_node(op, inputs, results, attributes))
        return name

    def q(self, x: str, scale: float = 0.05, zero: int = 0) -> str:
        """Adds a pair of QDQ nodes, where the network has any.

        Args:
            x: Operand.
            scale: Of the quantisation.
            zero: Zero point.

        Returns:
            Name of the result, or `x`.
        """
        if not self.quantized:
            return x
        name = f"q{len(self.nodes)}"
        s, z = self.constant(f"{name}_s", np.float32(scale)), self.constant(f"{name}_z", np.uint8(zero))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, s, z), s, z)

    def weighted(
        self, op: str, x: str, shape: tuple[int, ...], x_scale: float, axis: Attribute = 0, **attributes: Attribute
    ) -> str:
        """Adds a layer with a random weight and, but for `MatMul`, a bias, at the network's width where it has one.

        Args:
            op: ONNX operator.
            x: Operand.
            shape: Of the weight.
            x_scale: Scale of the operand.
            axis: Output channels of the weight.
            **attributes: Of the node.

        Returns:
            Name of the result.
        """
        assert isinstance(axis, int)
        channels = shape[axis]
        fan_in = int(np.prod(shape)) // channels
        real = self.random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        bias = self.random.standard_normal(channels).astype(np.float32) * np.float32(0.1)
        name = f"w{len(self.nodes)}"
        operands = [x]
        if self.quantized:
            top = (1 << (self.bits - 1)) - 1
            spread = tuple(-1 if i == axis else 1 for i in range(len(shape)))
            scale = np.abs(real).max(axis=tuple(i for i in range(len(shape)) if i != axis)) / np.float32(top)
            integers = np.rint(real / scale.reshape(spread)).astype(np.int8)
            stored = integers.astype(ml_dtypes.int4) if self.bits <= 4 else integers
            ws, wq = self.constant(f"{name}_s", scale), self.constant(name, stored)
            operands.append(self.add("DequantizeLinear", wq, ws, axis=axis))
            bs = self.constant(f"{name}_bs", scale * np.float32(x_scale))
            bq = self.constant(f"{name}_b", np.rint(bias / (scale * np.float32(x_scale))).astype(np.int32))
            bias_name = self.add("DequantizeLinear", bq, bs, axis=0)
        else:
            operands.append(self.constant(name, real))
            bias_name = self.constant(f"{name}_b", bias)
        if op != "MatMul":
            operands.append(bias_name)
        result = self.add(op, *operands, **attributes)
        if self.quantized:
            entry = self.nodes[-1].metadata_props.add()
            entry.key, entry.value = "codesign.weight-bits", str(self.bits)
        return result

    def conv(
        self, x: str, co: int, ci: int, kernel: tuple[int, int] = (3, 3), x_scale: float = 0.05, **attributes: Attribute
    ) -> str:
        """Adds a convolution that keeps the size of the image, but for strides.

        Args:
            x: Operand.
            co: Output channels.
            ci: Input channels.
            kernel: Height and width.
            x_scale: Scale of the operand.
            **attributes: Of the node.

        Returns:
            Name of the result.
        """
        groups = attributes.get("group", 1)
        assert isinstance(groups, int)
        if "auto_pad" not in attributes:
            attributes.setdefault("pads", [kernel[0] // 2, kernel[1] // 2] * 2)
        return self.weighted("Conv", x, (co, ci // groups, *kernel), x_scale, **attributes)

    def save(self, path: Path, output: str) -> Path:
        """Writes the network.

        Args:
            path: File.
            output: Name of its only output; its input is `x`.

        Returns:
            The path.
        """
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        end = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "net", [start], [end], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.save(model, path)
        return path


def residual_net(net: NetworkWriter) -> str:
    """Two blocks of a CIFAR ResNet, the second with an option A shortcut, and the head.

    Args:
        net: Writes the nodes.

    Returns:
        Name of the output.
    """
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 16, 3, x_scale=0.03)))
    y = net.q(net.conv(net.q(net.add("Relu", net.conv(x, 16, 16))), 16, 16), 0.04, 120)
    x = net.q(net.add("Relu", net.add("Add", y, x)), 0.06)
    y = net.q(net.add("Relu", net.conv(x, 32, 16, strides=[2, 2], x_scale=0.06)), 0.05)
    y = net.q(net.conv(y, 32, 32), 0.05, 100)
    ends = [net.constant(f"slice{i}", np.array(v, np.int64)) for i, v in enumerate(([0, 0], [99, 99], [2, 3], [2, 2]))]
    short = net.q(net.add("Slice", x, *ends), 0.06)
    pads = net.constant("pads", np.array([0, 8, 0, 0, 0, 8, 0, 0], np.int64))
    short = net.q(net.add("Pad", short, pads), 0.06)
    x = net.q(net.add("Relu", net.add("Add", short, y)), 0.07)
    x = net.q(net.add("Flatten", net.q(net.add("GlobalAveragePool", x), 0.03)), 0.03)
    return net.q(net.weighted("Gemm", x, (10, 32), 0.03, transB=1), LOGIT_SCALE, 128)


def squeeze_net(net: NetworkWriter) -> str:
    """Separable 1x3 and 3x1 convolutions, channels that are no multiples of 16, pooling and concatenation.

    Args:
        net: Writes the nodes.

    Returns:
        Name of the output.
    """
    x = net.q(net.add("Relu", net.conv(net.q("x", 0.03, 110), 23, 3, (5, 5), 0.03, strides=[2, 2])))
    x = net.q(net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1))
    y = net.q(net.add("Relu", net.conv(x, 11, 23, (1, 1))))
    y = net.q(net.add("Relu", net.conv(y, 12, 11, (1, 3))))
    y = net.q(net.add("Relu", net.conv(y, 12, 12, (3, 1))))
    y = net.q(net.add("Relu", net.conv(y, 23, 12, (1, 1))), 0.04)
    x = net.q(net.add("Add", x, y), 0.06)
    left = net.q(net.add("Relu", net.conv(x, 7, 23, (1, 1), 0.06)), 0.03)
    right = net.q(net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 0.05, 3)
    x = net.q(net.add("Concat", left, right, axis=1), 0.05)
    x = net.q(net.conv(x, 10, 30, (1, 1)), 0.04, 128)
    axes = net.constant("axes", np.array([2, 3], np.int64))
    return net.q(net.add("ReduceMean", x, axes, keepdims=0), LOGIT_SCALE, 128)


def mobile_net(net: NetworkWriter) -> str:
    """Inverted residuals with ReLU6, a squeeze-and-excitation gate, HardSwish, grouped and dilated convolutions.

    Args:
        net: Writes the nodes.

    Returns:
        Name of the output.
    """
    six = net.constant("zero", np.float32(0)), net.constant("six", np.float32(6))
    x = net.q(net.add("Clip", net.conv(net.q("x", 0.03, 110), 24, 3, x_scale=0.03, strides=[2, 2]), *six), 6 / 255)
    y = net.q(net.add("Clip", net.conv(x, 40, 24, (1, 1), 6 / 255), *six), 6 / 255)
    y = net.q(net.add("Clip", net.conv(y, 40, 40, (3, 3), 6 / 255, group=40), *six), 6 / 255)
    gate = net.q(net.add("GlobalAveragePool", y), 6 / 255)
    gate = net.q(net.add("HardSigmoid", net.conv(gate, 40, 40, (1, 1), 6 / 255)), 1 / 255)
    y = net.q(net.add("Mul", y, gate), 6 / 255)
    y = net.q(net.conv(y, 24, 40, (1, 1), 6 / 255), 0.04, 128)
    x = net.q(net.add("Add", x, y), 0.07, 90)
    x = net.q(net.add("HardSwish", net.conv(x, 32, 24, (3, 3), 0.07, dilations=[2, 2], pads=[2, 2, 2, 2])), 0.05, 8)
    x = net.q(net.add("Relu", net.conv(x, 12, 32, (3, 3), 0.05, group=4, auto_pad="SAME_UPPER")))
    shape = net.constant("shape", np.array([1, -1], np.int64))
    x = net.q(net.add("Reshape", x, shape))
    return net.q(net.weighted("Gemm", x, (12 * 64, 10), 0.05, axis=1), LOGIT_SCALE, 128)


def transformer_net(net: NetworkWriter) -> str:
    """One encoder block on 16 patches, dense layers in integers and the rest in floating point.

    Args:
        net: Writes the nodes.

    Returns:
        Name of the output.
    """

    def linear(x: str, n: int, k: int, scale: float) -> str:
        y = net.weighted("MatMul", x, (k, n), scale, axis=1)
        return net.add("Add", y, net.constant(f"bias{len(net.nodes)}", np.linspace(-0.1, 0.1, n, dtype=np.float32)))

    def vector(name: str, n: int, value: float) -> str:
        return net.constant(f"{name}{len(net.nodes)}", np.full(n, value, np.float32))

    width, heads = 24, 2
    shapes = {
        n: net.constant(n, np.array(v, np.int64))
        for n, v in (("tokens", [1, width, 16]), ("split", [1, 16, 3, heads, -1]), ("join", [1, 16, width]))
    }
    x = net.conv(net.q("x", 0.03, 110), width, 3, (4, 4), 0.03, strides=[4, 4], pads=[0] * 4)
    x = net.add("Transpose", net.add("Reshape", net.q(x, 0.04, 128), shapes["tokens"]), perm=[0, 2, 1])
    x = net.add(
        "Add", x, net.constant("position", np.linspace(-1, 1, 16 * width, dtype=np.float32).reshape(1, 16, width))
    )
    y = net.add("LayerNormalization", x, vector("g", width, 1.1), vector("b", width, 0.1), axis=-1)
    y = net.q(linear(net.q(y, 0.04, 128), 3 * width, width, 0.04), 0.04, 128)
    y = net.add("Transpose", net.add("Reshape", y, shapes["split"]), perm=[2, 0, 3, 1, 4])
    parts = [net.add("Gather", y, net.constant(f"part{i}", np.array(i, np.int64)), axis=0) for i in range(3)]
    scores = net.add("MatMul", parts[0], net.add("Transpose", parts[1], perm=[0, 1, 3, 2]))
    scores = net.add("Softmax", net.add("Div", scores, net.constant("root", np.float32(3.46))), axis=-1)
    y = net.add("Transpose", net.add("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
    y = net.q(net.add("Reshape", y, shapes["join"]), 0.03, 128)
    x = net.add("Add", x, net.q(linear(y, width, width, 0.03), 0.03, 128))
    y = net.add("LayerNormalization", x, vector("g", width, 0.9), axis=-1)
    y = net.q(net.add("Gelu", net.q(linear(net.q(y, 0.04, 128), 48, width, 0.04), 0.04, 128)), 0.03, 6)
    x = net.add("Add", x, net.q(linear(y, width, 48, 0.03), 0.03, 128))
    x = net.q(net.add("ReduceMean", x, net.constant("axes", np.array([1], np.int64)), keepdims=0), 0.03, 128)
    return net.q(net.weighted("Gemm", x, (10, width), 0.03, transB=1), LOGIT_SCALE, 128)


WRITTEN_NETWORKS: dict[str, Callable[[NetworkWriter], str]] = {
    "residual": residual_net,
    "squeeze": squeeze_net,
    "mobile": mobile_net,
    "transformer_net": transformer_net,
}
"""By name."""
