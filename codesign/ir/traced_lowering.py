"""Graphs of convolutional networks straight from their modules, some twenty times faster than by torch's exporter.

An architecture search lowers a network a trial, so that the exporter's seconds would be most of its time. `torch.fx`
records which modules and functions run; those of the table below have one ONNX operator each. A network that does
anything else is left to the exporter. Either graph is checked against the module and normalised to the same form.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from codesign.ir.naming import SCOPES_KEY

OPSET = 21
_IR_VERSION = 10


class _NotCoveredError(Exception):
    """The network does something that has no row in the table."""


@dataclass
class _Builder:
    """A graph under construction.

    Attributes:
        module: What is lowered.
        nodes: Nodes so far.
        constants: Initialisers by name.
        values: What each recorded step became.
        step: The recorded step at hand.
    """

    module: nn.Module
    nodes: list[ir.Node]
    constants: dict[str, ir.Value]
    values: dict[fx.Node, ir.Value]
    step: fx.Node

    def value(self, argument: object) -> ir.Value:
        """The value of an argument that an earlier step made."""
        if not isinstance(argument, fx.Node) or argument not in self.values:
            raise _NotCoveredError
        return self.values[argument]

    def constant(self, name: str, tensor: torch.Tensor) -> ir.Value:
        """An initialiser, made once."""
        if name not in self.constants:
            content = ir.tensor(tensor.detach().numpy(), name=name)
            self.constants[name] = ir.Value(name=name, const_value=content, type=ir.TensorType(content.dtype))
            self.constants[name].shape = ir.Shape(tensor.shape)
        return self.constants[name]

    def parameter(self, path: str, name: str) -> ir.Value | None:
        """A parameter or buffer of a module; None if it has none of this name."""
        owner = self.module.get_submodule(path)
        tensor = getattr(owner, name)
        return None if tensor is None else self.constant(f"{path}.{name}" if path else name, tensor)

    def integers(self, what: str, numbers: list[int]) -> ir.Value:
        """A list of whole numbers that belongs to the step."""
        return self.constant(f"{self.step.name}_{what}", torch.tensor(numbers, dtype=torch.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the step makes, batch of one included."""
        return tuple(self.step.meta["tensor_meta"].shape)

    def emit(self, kind: str, inputs: list[ir.Value | None], attributes: Mapping[str, Any] | None = None) -> ir.Value:
        """Adds a node and gives its result."""
        node = ir.node(kind, inputs, attributes=dict(attributes or {}), name=f"node_{kind}_{len(self.nodes)}")
        stack = self.step.meta.get("nn_module_stack") or {}
        node.metadata_props[SCOPES_KEY] = str(["", *stack, self.step.name])
        node.outputs[0].name = f"{self.step.name}_{len(self.nodes)}"
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(node)
        return node.outputs[0]


def traced_graph(module: nn.Module, input_shape: tuple[int, ...]) -> ir.Model | None:
    """Lowers a module without the exporter, as far as it consists of what this module covers.

    Args:
        module: In eval mode, on the CPU.
        input_shape: Shape of one input, the batch of one included.

    Returns:
        The graph before it is normalised; None if the network does something that is not covered.
    """
    try:
        traced = fx.symbolic_trace(module)
        ShapeProp(traced).propagate(torch.zeros(input_shape))
    except Exception:  # a user's module may raise anything when its inputs are not tensors
        return None
    source = ir.Value(name="x", shape=ir.Shape(input_shape), type=ir.TensorType(ir.DataType.FLOAT))
    steps = list(traced.graph.nodes)
    builder = _Builder(module, [], {}, {}, steps[0])
    result = None
    try:
        for step in steps:
            builder.step = step
            if step.op == "placeholder":
                if builder.values:
                    return None
                builder.values[step] = source
            elif step.op == "output":
                result = builder.value(step.args[0])
            else:
                builder.values[step] = _emit(builder, step)
    except _NotCoveredError:
        return None
    if result is None or result is source:
        return None
    graph = ir.Graph(
        [source],
        [result],
        nodes=builder.nodes,
        initializers=list(builder.constants.values()),
        opset_imports={"": OPSET},
        name=type(module).__name__,
    )
    return ir.Model(graph, ir_version=_IR_VERSION)


def _emit(builder: _Builder, step: fx.Node) -> ir.Value:
    if step.op == "call_module":
        path = str(step.target)
        module = builder.module.get_submodule(path)
        rule = _MODULES.get(type(module))
        if rule is None or step.kwargs or len(step.args) != 1:
            raise _NotCoveredError
        return rule(builder, path, module, builder.value(step.args[0]))
    key = step.target if step.op == "call_function" else (step.op, step.target)
    emit = _FUNCTIONS.get(key)
    if emit is None:
        raise _NotCoveredError
    return emit(builder, step)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _convolution(b: _Builder, path: str, conv: nn.Conv2d, x: ir.Value) -> ir.Value:
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise _NotCoveredError
    attributes = {
        "kernel_shape": list(conv.kernel_size),
        "strides": list(conv.stride),
        "pads": list(conv.padding) * 2,
        "dilations": list(conv.dilation),
        "group": conv.groups,
    }
    bias = b.parameter(path, "bias")
    inputs: list[ir.Value | None] = [x, b.parameter(path, "weight")]
    return b.emit("Conv", inputs if bias is None else [*inputs, bias], attributes)


def _batch_norm(b: _Builder, path: str, norm: nn.BatchNorm2d, x: ir.Value) -> ir.Value:
    if not norm.affine or norm.running_mean is None:
        raise _NotCoveredError
    names = ("weight", "bias", "running_mean", "running_var")
    return b.emit("BatchNormalization", [x, *(b.parameter(path, name) for name in names)], {"epsilon": norm.eps})


def _linear(b: _Builder, path: str, linear: nn.Linear, x: ir.Value) -> ir.Value:
    bias = b.parameter(path, "bias")
    if bias is None or len(b.shape) != 2:  # Gemm takes matrices only
        raise _NotCoveredError
    return b.emit("Gemm", [x, b.parameter(path, "weight"), bias], {"transB": 1})


def _max_pool(b: _Builder, path: str, pool: nn.MaxPool2d, x: ir.Value) -> ir.Value:
    if pool.return_indices:
        raise _NotCoveredError
    attributes = {
        "kernel_shape": _pair(pool.kernel_size),
        "strides": _pair(pool.stride),
        "pads": _pair(pool.padding) * 2,
        "dilations": _pair(pool.dilation),
        "ceil_mode": int(pool.ceil_mode),
    }
    return b.emit("MaxPool", [x], attributes)


def _mean_over_positions(b: _Builder, x: ir.Value, size: object) -> ir.Value:
    if size not in (1, (1, 1), [1, 1]):
        raise _NotCoveredError
    return b.emit("ReduceMean", [x, b.integers("axes", [-1, -2])], {"keepdims": 1})


def _relu_step(b: _Builder, step: fx.Node) -> ir.Value:
    return b.emit("Relu", [b.value(step.args[0])])


def _add_step(b: _Builder, step: fx.Node) -> ir.Value:
    if step.kwargs or len(step.args) != 2:
        raise _NotCoveredError
    return b.emit("Add", [b.value(step.args[0]), b.value(step.args[1])])


def _flatten_step(b: _Builder, step: fx.Node) -> ir.Value:
    start = step.kwargs.get("start_dim", step.args[1] if len(step.args) > 1 else 0)
    if start != 1 or len(step.args) > 2 or set(step.kwargs) - {"start_dim"}:
        raise _NotCoveredError
    return _as_rows(b, b.value(step.args[0]))


def _as_rows(b: _Builder, x: ir.Value) -> ir.Value:
    return b.emit("Reshape", [x, b.integers("shape", list(b.shape))])


def _mean_step(b: _Builder, step: fx.Node) -> ir.Value:
    size = step.kwargs.get("output_size", step.args[1] if len(step.args) > 1 else None)
    return _mean_over_positions(b, b.value(step.args[0]), size)


def _slice_step(b: _Builder, step: fx.Node) -> ir.Value:
    """`x[:, :, ::2, ::2]`; one node an axis, as the exporter writes it."""
    parts = step.args[1] if isinstance(step.args[1], tuple) else (step.args[1],)
    x = b.value(step.args[0])
    for axis, part in enumerate(parts):
        if not isinstance(part, slice):
            raise _NotCoveredError
        numbers = (part.start, part.stop, part.step)
        if not all(number is None or (isinstance(number, int) and number >= 0) for number in numbers):
            raise _NotCoveredError
        if numbers != (None, None, None):
            last = torch.iinfo(torch.int64).max
            limits = (part.start or 0, last if part.stop is None else part.stop, axis, part.step or 1)
            names = ("begin", "end", "axis", "step")
            x = b.emit("Slice", [x, *(b.integers(f"{n}_{axis}", [v]) for n, v in zip(names, limits, strict=True))])
    return x


def _pad_step(b: _Builder, step: fx.Node) -> ir.Value:
    """`F.pad(x, (left, right, top, bottom, front, back))` with zeros on an image `[N, C, H, W]`."""
    zeros = step.kwargs.get("mode", "constant") == "constant" and step.kwargs.get("value") in (None, 0)
    if len(step.args) != 2 or not zeros or not isinstance(step.args[1], tuple):
        raise _NotCoveredError
    widths = [width for width in step.args[1] if isinstance(width, int) and width >= 0]
    if len(widths) != len(step.args[1]) or len(widths) not in (4, 6):
        raise _NotCoveredError
    pairs = [(widths[i], widths[i + 1]) for i in range(0, len(widths), 2)][::-1]
    pairs = [(0, 0)] * (4 - len(pairs)) + pairs
    pads = b.integers("pads", [before for before, _ in pairs] + [after for _, after in pairs])
    return b.emit("Pad", [b.value(step.args[0]), pads], {"mode": "constant"})


def _same(b: _Builder, path: str, module: nn.Module, x: ir.Value) -> ir.Value:
    return x


_ModuleRule = Callable[[_Builder, str, Any, ir.Value], ir.Value]
_MODULES: Mapping[type[nn.Module], _ModuleRule] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _batch_norm,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool,
    nn.ReLU: lambda b, _path, _module, x: b.emit("Relu", [x]),
    nn.AdaptiveAvgPool2d: lambda b, _path, module, x: _mean_over_positions(b, x, module.output_size),
    nn.Flatten: lambda b, _path, module, x: _flatten_module(b, module, x),
    nn.Identity: _same,
    nn.Dropout: _same,
}
_FUNCTIONS: Mapping[object, Callable[[_Builder, fx.Node], ir.Value]] = {
    F.relu: _relu_step,
    torch.relu: _relu_step,
    ("call_method", "relu"): _relu_step,
    operator.add: _add_step,
    operator.iadd: _add_step,
    torch.add: _add_step,
    torch.flatten: _flatten_step,
    ("call_method", "flatten"): _flatten_step,
    F.adaptive_avg_pool2d: _mean_step,
    operator.getitem: _slice_step,
    F.pad: _pad_step,
}


def _flatten_module(b: _Builder, module: nn.Flatten, x: ir.Value) -> ir.Value:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise _NotCoveredError
    return _as_rows(b, x)
