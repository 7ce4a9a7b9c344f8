"""Brings any graph into the one form that all steps work on."""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as onnx_passes
from onnxscript import optimizer, rewriter, version_converter
from onnxscript.rewriter.rules import common as rules
from torch import Tensor

from codesign.errors import InputError, first_line
from codesign.ir.annotations import is_weighted
from codesign.ir.attributes import EXACT_TYPES
from codesign.ir.batch_norm import fold_batch_norm
from codesign.ir.batching import Layout, Value
from codesign.ir.constants import ORIGIN, add_initializer, content_of, remove_unused_initializers
from codesign.ir.naming import forget_exporter, name_nodes
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.operators import refuse_unsupported
from codesign.ir.operators_quantization import QUANTIZATION

OPSET = 21
"""Oldest opset of a normalised graph: the first with 4-bit integers in QuantizeLinear."""
IR_VERSION = 10
"""Oldest file format of a normalised graph: the first with metadata on nodes."""
SEQUENCE_OPERATORS = frozenset({"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"})
"""What torch's exporter writes for `chunk` and `split`; rewritten to Split while a graph is normalised."""

_OLDEST_METADATA_SAFE_OPSET = 18
_REARRANGEMENTS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_RULES = (
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.dropout_inference_rule,
    rules.dropout_zero_rule,
    rules.no_op_cast_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.successive_relu_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)


def normalize(model: ir.Model, parameters: Collection[str] = ()) -> dict[str, str]:
    """Brings a graph into the form that `Program` describes.

    Functions are inlined and older operators converted to opset 21, which loses metadata of graphs older than opset 18.
    Everything that does not depend on the input is computed and becomes an initialiser, except QuantizeLinear,
    DequantizeLinear and what follows from them. Shapes are those of an actual run on one sample. Operators that do
    nothing are removed, BatchNormalization is folded, nodes are named. A graph in this form is not changed.

    Args:
        model: A graph of one input whose shape is static, changed in place.
        parameters: Names of the initialisers that are parameters of the module that the graph was made from.

    Returns:
        Node name to the name of the parameter that became its weight, for nodes whose constant weight is a
        rearrangement (or, with BatchNormalization folded, a multiple per channel) of one parameter.
    """
    model.ir_version = max(model.ir_version, IR_VERSION)
    _inline(model)
    _convert(model)
    for name in parameters:
        if name in model.graph.initializers:
            model.graph.initializers[name].meta[ORIGIN] = name
    _remove_sequences(model)
    refuse_unsupported(model, "graph")
    _compute_constants(model)
    rewriter.rewrite(model, _RULES)
    _remove_no_ops(model.graph)
    fold_batch_norm(model)
    onnx_passes.RemoveUnusedNodesPass()(model)
    remove_unused_initializers(model.graph)
    name_nodes(model.graph)
    forget_exporter(model)
    _compute_constants(model)
    return _parameter_of(model.graph)


def _inline(model: ir.Model) -> None:
    if model.functions:
        onnx_passes.InlinePass()(model)
    onnx_passes.RemoveUnusedOpsetsPass()(model)
    graph = model.graph
    kept = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(kept) != len(graph.inputs):  # before IR version 4 initialisers were listed as inputs
        graph.inputs.clear()
        graph.inputs.extend(kept)


def _convert(model: ir.Model) -> None:
    opset = opset_of(model)
    if opset >= OPSET:
        return
    if opset >= _OLDEST_METADATA_SAFE_OPSET:
        version_converter.convert_version(model, OPSET)
        return
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise InputError(
            f"graph: cannot be converted from opset {opset} to {OPSET} ({first_line(error)}); export it newer"
        ) from None
    model.graph = ir.from_proto(converted).graph


def opset_of(model: ir.Model) -> int:
    """The version of ONNX's own operators that a graph is written in.

    Args:
        model: Any graph.

    Returns:
        The opset; 0 if it names none.
    """
    return model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))


def _remove_sequences(model: ir.Model) -> None:
    if not any(node.op_type in SEQUENCE_OPERATORS for node in model.graph):
        return
    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_reads_no_parameter)
    onnx_passes.RemoveUnusedNodesPass()(model)


def _reads_no_parameter(node: ir.Node) -> bool | None:
    if node.op_type in SEQUENCE_OPERATORS:
        return None
    return False if any(value is not None and ORIGIN in value.meta for value in node.inputs) else None


def _compute_constants(model: ir.Model) -> None:
    graph = model.graph
    onnx_passes.TopologicalSortPass()(model)
    shape = graph.inputs[0].shape
    assert shape is not None
    quantized: set[ir.Value | None] = set()  # constants that stem from dequantised weights stay as they are
    for node, results in TorchGraph(model).evaluate(torch.zeros(shape.numpy())):
        constant = all(value.layout is Layout.CONSTANT for value in results)
        if constant and (node.op_type in QUANTIZATION or not quantized.isdisjoint(node.inputs)):
            quantized.update(node.outputs)
            constant = False
        if constant:
            _replace_by_constants(graph, node, results)
        else:
            for output, value in zip(node.outputs, results, strict=False):
                _describe(output, value)
    onnx_passes.RemoveUnusedNodesPass()(model)
    remove_unused_initializers(graph)


def _replace_by_constants(graph: ir.Graph, node: ir.Node, results: tuple[Value, ...]) -> None:
    if any(output.is_graph_output() for output in node.outputs):
        raise InputError("graph: its output does not depend on its input; check the network")
    for output, value in zip(list(node.outputs), results, strict=False):
        exact = node.attributes.get("value")
        content = exact.as_tensor() if node.op_type == "Constant" and exact is not None else _numbers(value.data)
        name, output.name = output.name, None
        constant = add_initializer(graph, name or node.op_type.lower(), content)
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _REARRANGEMENTS and first is not None and ORIGIN in first.meta:
            constant.meta[ORIGIN] = first.meta[ORIGIN]
        ir.convenience.replace_all_uses_with(output, constant)
    graph.remove(node, safe=True)


def _numbers(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = tensor.contiguous().numpy()
    return array.copy()


_KINDS = {torch.float32: ir.DataType.FLOAT} | {kind: name for name, kind in reversed(EXACT_TYPES.items())}


def _describe(output: ir.Value, value: Value) -> None:
    output.shape = ir.Shape(value.sample_shape)
    if output.dtype is None:
        output.type = ir.TensorType(_KINDS[value.data.dtype])


def _remove_no_ops(graph: ir.Graph) -> None:
    for node in list(graph):
        source = node.inputs[0] if node.inputs else None
        if source is None or not _does_nothing(node, source):
            continue
        result = node.outputs[0]
        if result.is_graph_output() and source.producer() is None:
            continue
        name = result.name
        was_output = result.is_graph_output()
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if was_output:
            source.name = name


def _does_nothing(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type in {"Identity", "Dropout"} or (node.op_type == "Concat" and len(node.inputs) == 1):
        return True
    if source.shape is None or source.shape != node.outputs[0].shape:
        return False
    if node.op_type == "Slice":
        steps = content_of(node.inputs[4]) if len(node.inputs) > 4 else None
        return steps is None or bool((steps.astype(np.int64) > 0).all())
    return node.op_type in {"Expand", "Flatten", "Reshape"}


def _parameter_of(graph: ir.Graph) -> dict[str, str]:
    found = {}
    for node in graph:
        weight = node.inputs[1] if is_weighted(node) else None
        if weight is not None and ORIGIN in weight.meta:
            found[node.name or ""] = str(weight.meta[ORIGIN])
    return found
