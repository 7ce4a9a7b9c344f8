from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotation import read
from codesign.ir.annotations import ActivationSensitivity
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, Pass, PassContext
from codesign.passes.activation_sensitivity import ActivationSensitivityPass
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.quantization.quantizer import activation_scale
from codesign.quantization.simulation import activation_ranges, activation_scales, fake_quantize
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder

Make = Callable[[], Program]
RunTogether = Callable[[Pass, Sequence[Program], PassContext], None]
EXACT = ActivationSensitivityPass(bits=(2, 8), dtype="float64")


def _facts(program: Program) -> dict[str, ActivationSensitivity]:
    return {name_of(node): read(node, ActivationSensitivity) for node in program.weighted_nodes}


def _values(program: Program) -> list[list[float]]:
    return [
        [x for e in fact.by_bits for x in (e.kl_nats, e.kl_standard_error_nats, e.squared_error)]
        for fact in _facts(program).values()
    ]


def _rounded_where_it_is_computed(program: Program, name: str, bits: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and squared error of one sample, when a value is rounded as soon as it exists."""
    to = activation_scale(*activation_ranges(program.graph)[name], bits)
    graph, errors = TorchGraph(program.graph, torch.float64), [torch.zeros(())]

    def hook(node: ir.Node, _: object, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if name not in {value.name for value in node.outputs}:
            return results
        rounded = fake_quantize(results[0], to)
        errors.append((rounded - results[0]).square().sum() / len(x))
        return (rounded,)

    if name == program.graph.graph.inputs[0].name:
        rounded = fake_quantize(x, to)
        return graph.run(rounded).log_softmax(-1), (rounded - x).square().sum() / len(x)
    return graph.run(x, on_node=hook).log_softmax(-1), errors[-1]


def test_values_are_those_of_rounding_one_tensor_for_all_its_readers(observed: Make, data: CalibrationData) -> None:
    """The tensor that enters `branch` is also read by the residual addition."""
    program, x = observed(), torch.from_numpy(data.images).double()
    EXACT.run(program, PassContext(data))
    facts = _facts(program)
    assert {name: fact.value for name, fact in facts.items()} == {
        "stem": "input",
        "branch": "relu_out",
        "head": "flatten_out",
    }
    reference = TorchGraph(program.graph, torch.float64).run(x).log_softmax(-1)
    for fact in facts.values():
        for entry in fact.by_bits:
            log_q, error = _rounded_where_it_is_computed(program, fact.value, entry.activation_bits, x)
            expected = (reference.exp() * (reference - log_q)).sum(-1).mean()
            assert entry.kl_nats == pytest.approx(float(expected), rel=1e-9)
            assert entry.squared_error == pytest.approx(float(error), rel=1e-9)


def test_more_bits_have_less_error(observed: Make, data: CalibrationData) -> None:
    program = observed()
    ActivationSensitivityPass().run(program, PassContext(data))
    for fact in _facts(program).values():
        assert [e.activation_bits for e in fact.by_bits] == [2, 3, 4, 5, 6, 8]
        errors = [e.squared_error for e in fact.by_bits]
        assert errors == sorted(errors, reverse=True)
        assert fact.by_bits[0].kl_nats > fact.by_bits[-1].kl_nats


def test_nodes_that_share_a_tensor_share_its_numbers(data: CalibrationData) -> None:
    build = GraphBuilder((1, 3, 8, 8))
    x = build.add("Flatten", "flat", [build.input])
    one = build.add("Gemm", "one", [x, build.weight("one.weight", 192, 5)])
    other = build.add("Gemm", "other", [x, build.weight("other.weight", 192, 5)])
    program = build.finish(build.add("Add", "sum", [one, other]))
    ObserveActivationsPass().run(program, PassContext(data))
    EXACT.run(program, PassContext(data))
    assert _facts(program)["one"] == _facts(program)["other"]


def test_eight_bits_are_the_scales_of_the_integer_network(observed: Make) -> None:
    model = observed().graph
    ranges = activation_ranges(model)
    assert {name: activation_scale(*span, 8) for name, span in ranges.items()} == activation_scales(model)
    assert activation_scale(-1.0, 2.0, 2).levels == 3
    grid = fake_quantize(torch.linspace(-2, 3, 101), activation_scale(-1.0, 2.0, 2))
    assert sorted(set(grid.tolist())) == [-1.0, 0.0, 1.0, 2.0]


def test_processes_and_memory_do_not_change_the_values(
    observed: Make, data: CalibrationData, run_together: RunTogether
) -> None:
    alone = observed()
    EXACT.run(alone, PassContext(data))
    narrow = observed()
    EXACT.run(narrow, PassContext(data, memory_bytes=1))
    together = [observed() for _ in range(2)]
    run_together(EXACT, together, PassContext(data))
    for program in (narrow, *together):
        np.testing.assert_allclose(_values(program), _values(alone), rtol=1e-9, atol=1e-18)


def test_conformance(observed: Make, data: CalibrationData) -> None:
    check_pass(lambda: ActivationSensitivityPass(bits=(4,), samples=5), observed, PassContext(data))


def test_bad_input_is_refused(observed: Make, data: CalibrationData) -> None:
    with pytest.raises(InputError, match=r"bits are \[0, 17\], allowed are 1 to 16"):
        ActivationSensitivityPass(bits=(0, 4, 17))
    with pytest.raises(InputError, match="needs calibration data"):
        EXACT.run(observed(), PassContext())
    broken = replace(data, images=np.full_like(data.images, np.inf))
    with pytest.raises(InputError, match="calibration image 0 holds NaN or infinity"):
        EXACT.run(observed(), PassContext(broken))
