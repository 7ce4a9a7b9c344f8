import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import find, read
from codesign.ir.annotations import FisherDiagonal
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.fisher_diagonal import FisherDiagonalPass
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder, small_program

PASS = FisherDiagonalPass(dtype="float64")


def _data(samples: int = 5, labelled: bool = True) -> CalibrationData:
    random = np.random.default_rng(0)
    images = random.normal(size=(samples, 3, 8, 8)).astype(np.float32)
    labels = random.integers(0, 5, samples)
    return CalibrationData(images, labels if labelled else None)


def _squared_gradients(program: Program, data: CalibrationData) -> dict[str, Tensor]:
    """Mean over samples, one backward pass each."""
    graph = TorchGraph(program.graph, torch.float64)
    weights = {node: graph.constants[name].requires_grad_() for node, name in graph.weight_name_of.items()}
    assert data.labels is not None
    total = {node: torch.zeros_like(weight) for node, weight in weights.items()}
    for image, label in zip(torch.from_numpy(data.images).double(), torch.from_numpy(data.labels), strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(graph.run(image[None])[0], label), list(weights.values()))
        for node, gradient in zip(weights, gradients, strict=True):
            total[node] += gradient.square() / len(data.images)
    return total


def test_channels_are_those_of_the_output_whatever_the_layout() -> None:
    program, data = small_program(), _data()
    PASS.run(program, PassContext(data))
    for node in program.weighted_nodes:
        fact, wanted = read(node, FisherDiagonal), _squared_gradients(program, data)[name_of(node)]
        assert fact.total == pytest.approx(float(wanted.sum()), rel=1e-10)
        assert fact.by_output_channel == pytest.approx(wanted.flatten(1).sum(1).tolist(), rel=1e-10)  # all [out, ...]
        assert fact.samples == 5


@pytest.mark.parametrize(("op_type", "channels"), [("MatMul", 3), ("Gemm", 3)])
def test_matrices_that_are_not_transposed_have_channels_last(op_type: str, channels: int) -> None:
    build = GraphBuilder((1, 4))
    program = build.finish(build.add(op_type, "dense", [build.input, build.weight("w", 4, channels)]))
    random = np.random.default_rng(0)
    data = CalibrationData(random.normal(size=(6, 4)).astype(np.float32), random.integers(0, channels, 6))
    PASS.run(program, PassContext(data))
    fact, wanted = read(program.weighted_nodes[0], FisherDiagonal), _squared_gradients(program, data)["dense"]
    assert fact.by_output_channel == pytest.approx(wanted.sum(0).tolist(), rel=1e-10)


def test_a_zero_layer_and_what_is_behind_it_are_zero() -> None:
    program = small_program()
    weight = program.graph.graph.initializers["head.weight"]
    weight.const_value = ir.tensor(np.zeros((5, 4), np.float32))
    PASS.run(program, PassContext(_data()))
    totals = {name_of(node): read(node, FisherDiagonal).total for node in program.weighted_nodes}
    assert totals["stem"] == totals["branch"] == 0
    assert totals["head"] > 0


def test_conforms() -> None:
    check_pass(lambda: FisherDiagonalPass(samples=4), small_program, PassContext(_data()))


def test_a_network_without_weights_has_no_facts() -> None:
    build = GraphBuilder((1, 3))
    program = build.finish(build.add("Relu", "relu", [build.input]))
    PASS.run(program, PassContext())
    assert all(find(node, FisherDiagonal) is None for node in program.graph.graph)


def test_labels_are_required() -> None:
    with pytest.raises(InputError, match=r"fisher-diagonal.*labels.*give labelled data"):
        PASS.run(small_program(), PassContext(_data(labelled=False)))


def test_bad_data_is_refused() -> None:
    data = _data()
    data.images[1, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="image 1 holds NaN"):
        PASS.run(small_program(), PassContext(data))
    with pytest.raises(InputError, match="needs calibration data"):
        PASS.run(small_program(), PassContext())
    with pytest.raises(InputError, match="allowed are 0 to 4"):
        PASS.run(small_program(), PassContext(CalibrationData(_data().images, np.full(5, 5))))
    with pytest.raises(InputError, match="allowed are 1 or more"):
        FisherDiagonalPass(samples=0)
