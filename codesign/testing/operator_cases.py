"""Single ONNX operators, computed here and by onnxruntime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.ir import batching
from codesign.ir.onnx_to_torch import TorchGraph

Array = NDArray[Any]
"""Any array."""


SAMPLES = 3
"""Of each case."""


onnxruntime.set_default_logger_severity(3)


@dataclass(frozen=True)
class Case:
    """One node `op(x, *constants)`, between other nodes that bring its input and output to float32.

    Attributes:
        op: ONNX operator.
        shape: Of x.
        constants: Further operands, None for one that is left out.
        attributes: Of the node.
        opset: Version of the operators.
        before: Type that x is cast to: `bool` by a comparison, otherwise a name of `TensorProto`; None for float32.
        outputs: How many results the node has.
        positive: Whether x is above 0.
    """

    op: str
    shape: tuple[int, ...]
    constants: Sequence[Array | np.generic | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 21
    before: str | None = None
    outputs: int = 1
    positive: bool = False

    def __str__(self) -> str:
        shown = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{list(self.shape)}-{shown}-{self.opset}"


def model_of(case: Case) -> onnx.ModelProto:
    """A network of one case, its node named `subject`.

    Args:
        case: The case.

    Returns:
        From `x` to float32 results.
    """
    initializers = [
        numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(case.constants) if c is not None
    ]
    operands = ["" if c is None else f"c{i}" for i, c in enumerate(case.constants)]
    nodes = []
    source = "x"
    if case.before == "bool":
        initializers.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
        nodes.append(helper.make_node("Greater", ["x", "zero"], ["converted"]))
    elif case.before is not None:
        nodes.append(helper.make_node("Cast", ["x"], ["converted"], to=getattr(TensorProto, case.before)))
    source = "converted" if case.before else "x"
    results = [f"r{i}" for i in range(case.outputs)]
    inputs = [] if case.op in {"Constant", "Range", "ConstantOfShape"} else [source]
    nodes.append(helper.make_node(case.op, [*inputs, *operands], results, name="subject", **case.attributes))
    nodes += [helper.make_node("Cast", [r], [f"f{r}"], to=TensorProto.FLOAT) for r in results]
    outputs = [f"f{r}" for r in results]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, case.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)


def _inputs(case: Case) -> NDArray[np.float32]:
    generator = np.random.default_rng(7)
    values = generator.standard_normal((SAMPLES, *case.shape)) * 2
    if case.before is not None and case.before != "bool":
        values = np.round(values * 2)
        values[values == 0] = 3
    return (np.abs(values) + 0.1 if case.positive else values).astype(np.float32)


def results_of_onnxruntime(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> list[list[Array]]:
    """What onnxruntime computes, sample by sample.

    Args:
        model: The network.
        inputs: Samples.

    Returns:
        Results of each sample.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [[np.asarray(r) for r in session.run(None, {"x": sample})] for sample in inputs]


def _stacked(x: torch.Tensor) -> dict[str, batching.Value]:
    return {"x": batching.Value(x, batching.Layout.STACKED)}


def results_of_torch(model: onnx.ModelProto, inputs: NDArray[np.float32], merge: bool) -> list[list[Array]]:
    """Results of each sample, by a run on all samples at once.

    Args:
        model: The network.
        inputs: Samples.
        merge: Whether a first axis of one is taken for the batch.

    Returns:
        Results of each sample.
    """
    results: list[list[Array]] = [[] for _ in inputs]
    x = torch.from_numpy(inputs)
    for output in list(model.graph.output):
        single = onnx.ModelProto()
        single.CopyFrom(model)
        del single.graph.output[:]
        single.graph.output.append(output)
        graph = TorchGraph(ir.from_proto(single))
        if not merge:  # hold the input as one that does not begin with a batch of one, which TorchGraph never does
            setattr(graph, "_initial", _stacked)  # noqa: B010 # mypy refuses a plain assignment to a method
        steps = graph.evaluate(x[:, 0] if merge else x)
        value = next(values[0] for node, values in steps if node.outputs[0].name == output.name)
        for i, kept in enumerate(results):
            constant = value.layout is batching.Layout.CONSTANT
            kept.append((value.data if constant else value.data[i]).reshape(value.sample_shape).numpy())
    return results


def check(case: Case, tolerance: float = 1e-5) -> None:
    """Compares a case with onnxruntime, sample by sample.

    Args:
        case: The case.
        tolerance: Relative to each number, and to the largest of a result.
    """
    model, inputs = model_of(case), _inputs(case)
    expected = results_of_onnxruntime(model, inputs)
    ways = [
        results_of_torch(model, inputs, merge)
        for merge in ([True, False] if case.shape and case.shape[0] == 1 else [False])
    ]
    for got in ways:
        for mine, theirs in zip(got, expected, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                assert a.shape == b.shape
                np.testing.assert_allclose(
                    a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0)))
                )


def f32(*values: float) -> Array:
    """Numbers as float32.

    Args:
        *values: The numbers.

    Returns:
        `[n]`.
    """
    return np.array(values, np.float32)


def i64(*values: int) -> Array:
    """Numbers as int64.

    Args:
        *values: The numbers.

    Returns:
        `[n]`.
    """
    return np.array(values, np.int64)


def draw(*shape: int, low: float | None = None) -> Array:
    """Normal numbers, the same for the same sizes.

    Args:
        *shape: Sizes.
        low: Where it is given, sizes of the numbers above it.

    Returns:
        The numbers in float32.
    """
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    return (values if low is None else np.abs(values) + low).astype(np.float32)
