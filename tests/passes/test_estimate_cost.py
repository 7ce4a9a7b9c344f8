import math
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from codesign.architecture.squeezenext import squeezenext_digits
from codesign.cost.base import price
from codesign.cost.operators import FREE, MEMORY_BOUND
from codesign.cost.select import cost_model_for
from codesign.errors import InputError, PassError, UnsupportedOperatorError
from codesign.hardware.catalog import load_target, profile_of, target_names
from codesign.ir.annotation import read
from codesign.ir.annotations import CostEstimate, Work, is_weighted
from codesign.ir.lowering import lower_module
from codesign.ir.operators import SUPPORTED_OPERATORS
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.count_work import CountWorkPass, work_of
from codesign.passes.estimate_cost import EstimateCostPass
from codesign.plan.from_graph import facts_of
from codesign.plan.geometry import geometry_of
from codesign.plan.plan import Plan
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import GraphBuilder, small_program


def _counted() -> Program:
    program = small_program()
    PassManager([CountWorkPass()]).run(program, PassContext())
    return program


def _estimates(program: Program, target: str) -> dict[str, CostEstimate]:
    PassManager([EstimateCostPass(target)]).run(program, PassContext())
    return {str(node.name): read(node, CostEstimate) for node in program.graph.graph}


@pytest.mark.parametrize("target", target_names())
def test_it_keeps_what_a_pass_promises(target: str) -> None:
    check_pass(lambda: EstimateCostPass(target), _counted, PassContext())


@pytest.mark.parametrize("target", target_names())
def test_weighted_nodes_have_every_width_and_others_one(target: str) -> None:
    program = _counted()
    estimates = _estimates(program, target)
    for node in program.graph.graph:
        widths = [(row.weight_bits, row.activation_bits) for row in estimates[str(node.name)].by_bits]
        rates = profile_of(load_target(target)).bit_widths
        assert widths == ([(w.weight, w.activation) for w in rates] if is_weighted(node) else [(8, 8)])
        assert set(widths) <= {(bits, 8) for bits in WEIGHT_BITS}


def test_the_target_and_the_origin_of_the_numbers_are_recorded() -> None:
    on_host, on_array = _estimates(_counted(), "host-cpu"), _estimates(_counted(), "squeezelerator-16x16")
    assert {(e.target, e.provenance) for e in on_host.values()} == {("host-cpu", "estimated")}
    assert {(e.target, e.provenance) for e in on_array.values()} == {("squeezelerator-16x16", "simulated")}


@pytest.mark.parametrize("target", target_names())
def test_the_sum_over_nodes_is_the_price_of_the_plan(target: str) -> None:
    program = _counted()
    estimates = _estimates(program, target)
    facts = facts_of(program)
    bits = profile_of(load_target(target)).bit_widths[0].weight
    plan = Plan("base", tuple((node.name, BitWidths(bits, 8)) for node in facts.weighted))
    cost = price(cost_model_for(profile_of(load_target(target))), facts, plan)
    rows = [next(r for r in e.by_bits if r.weight_bits == bits or len(e.by_bits) == 1) for e in estimates.values()]
    assert cost.latency_s == pytest.approx(math.fsum(row.latency_s for row in rows))
    assert cost.energy_j == pytest.approx(math.fsum(row.energy_j for row in rows))


def test_what_a_kernel_does_on_the_way_out_is_free() -> None:
    estimates = _estimates(_counted(), "squeezelerator-16x16")
    assert estimates["relu"].by_bits[0].bound == "free"
    assert estimates["flatten"].by_bits[0].bound == "free"
    assert estimates["join"].by_bits[0].latency_s == pytest.approx(256 / 8e9)


def test_a_lowered_network_is_priced_whole() -> None:
    program = lower_module(squeezenext_digits().eval(), (1, 1, 8, 8))
    PassManager([CountWorkPass()]).run(program, PassContext())
    for target in target_names():
        total = sum(e.by_bits[-1].latency_s for e in _estimates(program, target).values())
        assert 1e-6 < total < 2e-2  # a microcontroller takes 11 ms
    facts = facts_of(program)
    assert sum(node.macs for node in facts.nodes) == sum(read(node, Work).macs for node in program.graph.graph)
    for node in facts.weighted:
        assert node.live_elements >= node.input_elements
        assert node.geometry is not None
        assert node.macs == _macs(
            node.geometry.kernel, node.weight_elements, node.output_elements, node.output_channels
        )


def _macs(kernel: tuple[int, int], weights: int, outputs: int, channels: int) -> int:
    assert weights % (kernel[0] * kernel[1] * channels) == 0
    return outputs * (weights // channels)


@pytest.mark.parametrize(
    "build",
    [
        lambda b: b.add("Conv", "n", [b.input, b.weight("w", 8, 2, 3, 3), None], {"group": 4, "strides": (2, 2)}),
        lambda b: b.add("Conv", "n", [b.input, b.weight("w", 8, 8, 3, 3), None], {"dilations": (2, 2)}),
        lambda b: b.add("MatMul", "n", [b.input, b.weight("w", 16, 5)]),
        lambda b: b.add("MatMul", "n", [b.input, b.weight("w", 8, 16, 5)]),
        lambda b: b.add("MatMul", "n", [b.input, b.input]),
        lambda b: b.add("MatMul", "n", [b.input, b.weight("w", 16)]),
    ],
)
def test_geometry_and_counted_work_agree(build: Callable[[GraphBuilder], ir.Value]) -> None:
    builder = GraphBuilder((1, 8, 16, 16))
    node = builder.finish(build(builder)).graph.graph[0]
    geometry = geometry_of(node)
    assert geometry is not None
    positions = geometry.batch * geometry.output_size[0] * geometry.output_size[1]
    per_output = geometry.kernel[0] * geometry.kernel[1] * geometry.input_channels // geometry.groups
    assert work_of(node).macs == positions * geometry.output_channels * per_output


def test_every_operator_that_a_network_may_hold_is_priced_but_these() -> None:
    unpriced = SUPPORTED_OPERATORS - FREE - MEMORY_BOUND - {"Conv", "Gemm", "MatMul"}
    assert unpriced == {"Attention", "Einsum", "QuantizeLinear", "DequantizeLinear"}


def test_operators_without_a_price_are_all_named() -> None:
    build = GraphBuilder((1, 4, 4))
    x = build.add("Einsum", "first", [build.input, build.input], {"equation": "bij,bjk->bik"})
    x = build.add("Relu", "between", [x])
    program = build.finish(build.add("Einsum", "second", [x, x], {"equation": "bij,bjk->bik"}))
    PassManager([CountWorkPass()]).run(program, PassContext())
    with pytest.raises(UnsupportedOperatorError, match=r"Einsum \(node 'first'\), Einsum \(node 'second'\)"):
        EstimateCostPass().run(program, PassContext())


def test_without_counted_work_the_pass_is_refused() -> None:
    with pytest.raises(PassError, match="work"):
        PassManager([EstimateCostPass()]).run(small_program(), PassContext())


def test_an_unknown_target_tells_the_closest() -> None:
    with pytest.raises(InputError, match="did you mean 'host-cpu'"):
        EstimateCostPass("host-gpu").run(_counted(), PassContext())


def test_a_profile_without_a_rate_for_8_bits_is_refused(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    text = (root / "hw_profiles" / "squeezelerator-16x16.toml").read_text()
    text = text.replace('name = "squeezelerator-16x16"', 'name = "poor"', 1)
    blocks = text.split("[[compute]]")
    kept = [block for block in blocks if "weight_bits = 8\n" not in block]
    (tmp_path / "poor.toml").write_text("[[compute]]".join(kept))
    target = tmp_path / "mine.toml"
    target.write_text(f'name = "mine"\ndescription = "d"\nprofile = "{tmp_path / "poor.toml"}"\nrunner = "simulated"\n')
    build = GraphBuilder((1, 4, 4))
    program = build.finish(build.add("MatMul", "product", [build.input, build.input]))
    PassManager([CountWorkPass()]).run(program, PassContext())
    with pytest.raises(InputError, match=r"node 'product' .*profile 'poor': compute has no rate for 8-bit weights"):
        EstimateCostPass(str(target)).run(program, PassContext())
