"""From an ONNX graph, in floating point or with QDQ nodes, to operations with everything around them merged in.

`DequantizeLinear -> Conv -> [Relu | Clip] -> QuantizeLinear` becomes one integer convolution, together with an `Add`
that follows it; what stands between other nodes becomes an explicit `Conversion`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from codesign.backend import onnx_layers
from codesign.backend.float_operators import refuse_unknown
from codesign.backend.kernels.epilogue import Clamp
from codesign.backend.onnx_graph import OnnxGraph, Refusal, attribute, read_graph
from codesign.backend.operations import (
    Addition,
    Concatenation,
    Conversion,
    Convolution,
    Generic,
    Operation,
    Pooling,
    Residual,
    Tensor,
)

MOVES_ELEMENTS = frozenset({
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Slice",
    "Gather",
    "Split",
    "Expand",
})
"""Operators whose results are elements of their input, so that they work on uint8 as it is."""
POOLING = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"})


@dataclass(frozen=True)
class Network:
    """What a file says.

    Attributes:
        operations: In order.
        input: The input.
        output: The result.
        problems: One line for each node that cannot be compiled; `operations` is then incomplete.
    """

    operations: tuple[Operation, ...]
    input: Tensor
    output: Tensor
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Chain:
    """Activations and a quantisation after a node: what they do, their result, and the tensors on the way."""

    clamp: Clamp
    output: Tensor
    passed: tuple[str, ...]


@dataclass
class _Fusion:
    graph: OnnxGraph
    operations: list[Operation] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)
    floats: set[str] = field(default_factory=set)

    def chain(self, name: str) -> "_Chain":
        """Walks from a node's result over activations to a quantisation, as long as nobody else reads in between."""
        clamp, passed = Clamp(), []
        while (reader := self.graph.sole_reader(name)) is not None:
            bound = onnx_layers.clamp_of(reader, self.graph)
            if bound is None:
                break
            clamp = clamp.then(bound)
            name = reader.output[0]
            passed.append(name)
        reader = self.graph.sole_reader(name)
        if reader is None or reader.op_type != "QuantizeLinear":
            return _Chain(clamp, self.graph.activation(name), tuple(passed))
        result = Tensor(reader.output[0], self.graph.shape(name), self.graph.quantization(reader))
        return _Chain(clamp, result, (*passed, result.name))

    def follow(self, name: str) -> tuple[Clamp, Tensor]:
        """Walks as `chain` does and merges what it passes."""
        chain = self.chain(name)
        self.merged.update(chain.passed)
        return chain.clamp, chain.output

    def in_float(self, name: str) -> Tensor:
        """The float32 tensor of a name, dequantised first if it is not there yet."""
        quantized = self.graph.quantized(name)
        real = self.graph.activation(name)
        if quantized is not None and name not in self.floats:
            self.floats.add(name)
            self.operations.append(Conversion(self.graph.producers[name].name, quantized, real))
        return real

    def store(self, make: Callable[[Tensor, Clamp], Operation], node: onnx.NodeProto, may_quantize: bool) -> None:
        """Adds an operation together with the activation and quantisation that follow its node.

        An operation that cannot quantise itself writes float32, which a conversion then quantises.
        """
        clamp, output = self.follow(node.output[0])
        if output.quantization is None or may_quantize:
            self.operations.append(make(output, clamp))
            return
        real = replace(output, name=f"{output.name}:float", quantization=None)
        self.operations += [make(real, Clamp()), Conversion(node.name, real, output, clamp)]


def read_network(path: Path) -> Network:
    """Reads a file and merges its nodes into operations.

    Args:
        path: The ONNX file.

    Returns:
        The network; all its problems are listed.
    """
    graph = read_graph(path)
    fusion, problems = _Fusion(graph), []
    for node in graph.nodes:
        if node.output[0] in fusion.merged:
            continue
        try:
            _translate(fusion, node)
        except Refusal as reason:
            problems.append(f"{node.op_type} ({node.name or node.output[0]}): {reason}")
    try:
        ends = _ends(fusion)
    except Refusal as reason:
        problems.append(f"graph ({path.name}): {reason}")
        ends = Tensor(graph.input_name, ()), Tensor(graph.output_name, ())
    return Network(tuple(fusion.operations), *ends, tuple(problems))


def _ends(fusion: _Fusion) -> tuple[Tensor, Tensor]:
    graph = fusion.graph
    inputs = [i for i in graph.model.graph.input if i.name not in graph.constants]
    if len(inputs) != 1 or len(graph.model.graph.output) != 1:
        raise Refusal(f"one input and one output are needed, got {len(inputs)} and {len(graph.model.graph.output)}")
    for value in (inputs[0], graph.model.graph.output[0]):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise Refusal(f"{value.name!r} must be float32")
    start = graph.activation(graph.input_name)
    if not start.shape or start.shape[0] != 1:
        raise Refusal(f"input must be a batch of 1, got shape {start.shape}; export with batch 1")
    return start, fusion.in_float(graph.output_name)


def _translate(fusion: _Fusion, node: onnx.NodeProto) -> None:
    graph = fusion.graph
    if node.op_type == "DequantizeLinear":
        if node.input[0] not in graph.constants:
            graph.quantization(node)
    elif node.op_type == "QuantizeLinear":
        _quantize(fusion, node)
    elif all(graph.constant(name) is not None for name in node.input if name) and node.op_type != "Constant":
        raise Refusal("all its operands are constant; fold constants first")
    elif node.op_type in {"Conv", "Gemm", "MatMul"} and graph.constant(node.input[1]) is not None:
        _weighted(fusion, node)
    elif node.op_type == "Add" and _add(fusion, node):
        pass
    elif node.op_type in POOLING and onnx_layers.pools_image(node, graph):
        _pool(fusion, node)
    elif (
        (node.op_type == "Concat" and _concatenate(fusion, node))
        or (node.op_type in {"Slice", "Pad"} and _crop(fusion, node))
        or (node.op_type in {"Relu", "Clip"} and _rescale(fusion, node))
        or (node.op_type in MOVES_ELEMENTS and _move(fusion, node))
    ):
        pass
    else:
        _generic(fusion, node)


def _quantize(fusion: _Fusion, node: onnx.NodeProto) -> None:
    quantization = fusion.graph.quantization(node)
    output = Tensor(node.output[0], fusion.graph.shape(node.input[0]), quantization)
    source = fusion.graph.quantized(node.input[0]) or fusion.in_float(node.input[0])
    fusion.operations.append(Conversion(node.name, source, output))


def _weighted(fusion: _Fusion, node: onnx.NodeProto) -> None:
    graph = fusion.graph
    layer = onnx_layers.weighted_layer(node, graph)
    if not layer.dense:
        _refuse_batches(graph.shape(node.input[0]))
    quantized = graph.quantized(node.input[0])
    name = node.output[0]
    if quantized is not None and layer.integers is not None:
        x, weight = quantized, layer.integers
    else:
        x, weight = fusion.in_float(node.input[0]), layer.floats
    bias, reader = layer.bias, graph.sole_reader(name)
    if bias is None and reader is not None and reader.op_type == "Add":
        added = next((c for c in map(graph.constant, reader.input) if c is not None), None)
        if added is not None and added.shape == (weight.values.shape[0],):
            bias, name = added, reader.output[0]
            fusion.merged.add(name)
    clamp, output = fusion.follow(name)
    stored_bias = onnx_layers.stored_bias(bias, x, weight)
    may_quantize = x.quantization is not None
    made = output if may_quantize else replace(output, quantization=None)
    if made is not output and output.quantization is not None:
        made = replace(made, name=f"{output.name}:float")
    fusion.operations.append(
        Convolution(node.name, x, made, weight, stored_bias, layer.window, layer.groups, layer.dense, clamp)
    )
    if made is not output and output.quantization is not None:
        fusion.operations.append(Conversion(node.name, made, output))


def _refuse_batches(shape: tuple[int, ...]) -> None:
    if shape[0] != 1:
        raise Refusal(f"batch of {shape[0]} images; only one image at a time is done")


def _add(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    graph = fusion.graph
    shapes = {graph.shape(name) for name in (*node.input, node.output[0])}
    if len(shapes) != 1 or any(graph.constant(name) is not None for name in node.input):
        return False
    pair = [graph.quantized(name) for name in node.input]
    if pair[0] is None or pair[1] is None:
        return _merge_float_addition(fusion, node)
    if fusion.chain(node.output[0]).output.quantization is None:
        return False
    clamp, output = fusion.follow(node.output[0])
    a, b = pair[0], pair[1]
    candidate = _last_convolution(fusion, [t for t in (a, b) if a.name != b.name and graph.uses(t.name) == 1])
    if candidate is None:
        fusion.operations.append(Addition(node.name, a, b, output, clamp))
        return True
    other, first = (b, False) if candidate.output.name == a.name else (a, True)
    fusion.operations.remove(candidate)
    residual = Residual(other, candidate.output, clamp, first)
    fusion.operations.append(replace(candidate, output=output, residual=residual))
    return True


def _merge_float_addition(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    graph = fusion.graph
    tensors = [graph.activation(name) for name in node.input]
    candidates = [t for t in tensors if graph.sole_reader(t.name) is not None]
    candidate = _last_convolution(fusion, candidates)
    if candidate is None or candidate.x.quantization is not None:
        return False
    other = next(name for name in node.input if name != candidate.output.name)
    clamp, output = fusion.follow(node.output[0])
    made = output
    if output.quantization is not None:
        made = replace(output, name=f"{output.name}:float", quantization=None)
    added = fusion.in_float(other)
    fusion.operations.remove(candidate)
    residual = Residual(added, candidate.output, clamp, candidate.output.name == node.input[1])
    fusion.operations.append(replace(candidate, output=made, residual=residual))
    if made is not output:
        fusion.operations.append(Conversion(node.name, made, output))
    return True


def _last_convolution(fusion: _Fusion, results: list[Tensor]) -> Convolution | None:
    """The last convolution that makes one of some tensors and has no residual yet."""
    names = {tensor.name for tensor in results}
    for operation in reversed(fusion.operations):
        if isinstance(operation, Convolution) and operation.output.name in names and operation.residual is None:
            return operation
    return None


def _pool(fusion: _Fusion, node: onnx.NodeProto) -> None:
    graph = fusion.graph
    kind, window, count_padding = onnx_layers.pooling_layer(node, graph)
    _refuse_batches(graph.shape(node.input[0]))
    quantized = graph.quantized(node.input[0])
    end = fusion.chain(node.output[0]).output
    integer = quantized is not None and end.quantization is not None
    if kind == "max" and integer and quantized is not None and end.quantization != quantized.quantization:
        integer = False
    x = quantized if integer and quantized is not None else fusion.in_float(node.input[0])
    fusion.store(lambda output, clamp: Pooling(node.name, x, output, kind, window, count_padding, clamp), node, integer)


def _concatenate(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    graph = fusion.graph
    rank = len(graph.shape(node.output[0]))
    if rank != 4 or graph.shape(node.output[0])[0] != 1 or int(str(attribute(node, "axis"))) % rank != 1:
        return False
    if any(graph.constant(name) is not None for name in node.input):
        return False
    quantized = [graph.quantized(name) for name in node.input]
    reader = graph.sole_reader(node.output[0])
    if reader is None or reader.op_type != "QuantizeLinear" or None in quantized:
        inputs = tuple(fusion.in_float(name) for name in node.input)
        fusion.operations.append(Concatenation(node.name, inputs, graph.activation(node.output[0])))
        return True
    _, output = fusion.follow(node.output[0])
    inputs = tuple(_rescaled(fusion, t, output, f"{output.name}:{i}") for i, t in enumerate(quantized) if t)
    fusion.operations.append(Concatenation(node.name, inputs, output))
    return True


def _rescaled(fusion: _Fusion, tensor: Tensor, target: Tensor, name: str) -> Tensor:
    if tensor.quantization == target.quantization:
        return tensor
    result = Tensor(name, tensor.shape, target.quantization)
    fusion.operations.append(Conversion(name, tensor, result))
    return result


def _same_quantization(fusion: _Fusion, node: onnx.NodeProto) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Input and results of a node that moves uint8 elements, or None where it has to work on float32."""
    graph = fusion.graph
    source = graph.quantized(node.input[0])
    if source is None:
        return None
    readers = [graph.sole_reader(name) for name in node.output]
    results = []
    for name, reader in zip(node.output, readers, strict=True):
        if reader is None or reader.op_type != "QuantizeLinear" or graph.quantization(reader) != source.quantization:
            return None
        results.append(Tensor(reader.output[0], graph.shape(name), source.quantization))
    fusion.merged |= {result.name for result in results}
    return source, tuple(results)


def _crop(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    graph = fusion.graph
    crop = onnx_layers.crop_of(node, graph)
    if crop is None:
        return False
    moved = _same_quantization(fusion, node)
    if moved is None:
        x, output, fill = fusion.in_float(node.input[0]), graph.activation(node.output[0]), crop.fill
    else:
        x, output = moved[0], moved[1][0]
        assert x.quantization is not None
        level = np.rint(np.float32(crop.fill) / np.float32(x.quantization.scale)) + x.quantization.zero_point
        fill = float(np.clip(level, 0, 255))
    fusion.operations.append(replace(crop, x=x, output=output, fill=fill))
    return True


def _rescale(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    source = fusion.graph.quantized(node.input[0])
    bound = onnx_layers.clamp_of(node, fusion.graph)
    if source is None or bound is None:
        return False
    if fusion.chain(node.output[0]).output.quantization is None:
        return False
    clamp, output = fusion.follow(node.output[0])
    fusion.operations.append(Conversion(node.name, source, output, bound.then(clamp)))
    return True


def _move(fusion: _Fusion, node: onnx.NodeProto) -> bool:
    moved = _same_quantization(fusion, node)
    if moved is None:
        return False
    source, results = moved
    constants = tuple(fusion.graph.constant(name) if name else None for name in node.input[1:])
    fusion.operations.append(Generic(node.name, node.op_type, (source, *constants), _attributes(node), results))
    return True


def _generic(fusion: _Fusion, node: onnx.NodeProto) -> None:
    graph = fusion.graph
    operands: list[Tensor | np.ndarray | None] = []
    for name in node.input:
        value = graph.constant(name) if name else None
        operands.append(value if value is not None or not name else fusion.in_float(name))
    outputs = tuple(graph.activation(name) for name in node.output if name)
    generic = Generic(node.name, node.op_type, tuple(operands), _attributes(node), outputs)
    refuse_unknown(generic)
    fusion.operations.append(generic)


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {entry.name: attribute(node, entry.name) for entry in node.attribute}
