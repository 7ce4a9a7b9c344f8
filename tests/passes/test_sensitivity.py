import math
from typing import get_args

import pytest

from codesign.errors import InputError, PassError
from codesign.ir.annotation import Annotation, annotate, find, read
from codesign.ir.annotations import (
    HessianTrace,
    KlSensitivity,
    LossAtBits,
    LossMethod,
    QuadraticLoss,
    QuadraticLossAtBits,
    QuantizationError,
    Sensitivity,
    WeightError,
)
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.passes.sensitivity import SensitivityPass
from codesign.testing.pass_conformance import check_pass
from codesign.testing.programs import small_program

METHODS = get_args(LossMethod)


def _trace(trace: float = 6.0, eigenvalues: tuple[float, ...] = (4.0, 1.0)) -> HessianTrace:
    return HessianTrace(
        trace=trace,
        standard_error=0.6,
        top_eigenvalues=eigenvalues,
        parameter="w",
        parameters=3,
        matrix="hessian",
        exact=True,
        method="packed-gauss-newton",
        weights_of="folded",
        samples=4,
    )


def _kl(**by_bits: float) -> KlSensitivity:
    rows = (
        LossAtBits(
            weight_bits=int(bits[1:]),
            activation_bits=8,
            loss_increase_nats=x,
            standard_error_nats=0.01,
            method="kl",
        )
        for bits, x in by_bits.items()
    )
    return KlSensitivity(by_bits=tuple(rows))


def _quadratic(bits: int, curved: float, slope: float | None) -> QuadraticLossAtBits:
    return QuadraticLossAtBits(
        weight_bits=bits,
        gauss_newton_nats=curved,
        gauss_newton_standard_error_nats=0.02,
        gradient_nats=slope,
        gradient_standard_error_nats=None if slope is None else 0.03,
    )


ERROR = QuantizationError(
    by_bits=(
        WeightError(bits=2, squared_error=0.5, relative_error=0.1),
        WeightError(bits=8, squared_error=0.25, relative_error=0.1),
    )
)
QUADRATIC = QuadraticLoss(by_bits=(_quadratic(4, 0.2, -0.05), _quadratic(2, 0.3, -0.4)))


def _program(*facts: Annotation) -> Program:
    program = small_program()
    for node in program.weighted_nodes:
        for fact in facts:
            annotate(node, fact)
    return program


def _full() -> Program:
    return _program(_trace(), ERROR, QUADRATIC, _kl(b2=0.7))


def _table(program: Program, method: LossMethod) -> dict[int, tuple[float, float, str]]:
    PassManager([SensitivityPass(method=method)]).run(program, PassContext())
    found = read(program.weighted_nodes[0], Sensitivity).by_bits
    assert [e.weight_bits for e in found] == sorted(e.weight_bits for e in found)
    return {e.weight_bits: (e.loss_increase_nats, e.standard_error_nats, e.method) for e in found}


def test_each_method_s_formula() -> None:
    program = _full()
    assert _table(program, "kl") == {2: (0.7, 0.01, "kl")}
    assert _table(program, "gauss-newton")[4] == (0.2, 0.02, "gauss-newton")
    expected: dict[tuple[LossMethod, int], tuple[float, float]] = {
        ("hawq-v2", 2): (0.5 * 6 / 3 * 0.5, 0.5 * 0.6 / 3 * 0.5),
        ("hawq-v2", 8): (0.5 * 6 / 3 * 0.25, 0.5 * 0.6 / 3 * 0.25),
        ("hawq", 2): (0.5 * 4 / 3 * 0.5, 0.0),
        ("gradient-gauss-newton", 4): (0.15, 0.05),
        ("gradient-gauss-newton", 2): (0.0, 0.05),  # -0.1: clipped
    }
    for (method, bits), numbers in expected.items():
        *found, by = _table(program, method)[bits]
        assert found == pytest.approx(numbers)
        assert by == method


def test_a_negative_trace_counts_as_zero() -> None:
    assert [x for x, _, _ in _table(_program(_trace(-6.0), ERROR), "hawq-v2").values()] == [0.0, 0.0]


def test_auto_takes_the_best_estimate_of_each_width_and_says_which() -> None:
    found = _table(_full(), "auto")
    assert {bits: method for bits, (_, _, method) in found.items()} == {2: "kl", 4: "gauss-newton", 8: "hawq-v2"}
    assert found[2][0] == 0.7


def test_auto_brings_a_quadratic_model_to_the_level_of_what_was_measured() -> None:
    """At 2 bits 0.7 was measured, and the models say 0.3 (Gauss-Newton) and 0.5 (HAWQ-V2, with 0.7 again: measured)."""
    found = _table(_full(), "auto")
    assert [found[4][:2], found[8][:2]] == [
        pytest.approx((0.2 * 0.7 / 0.3, 0.02 * 0.7 / 0.3)),
        pytest.approx((0.25 * 0.7 / 0.5, 0.025 * 0.7 / 0.5)),
    ]
    alone = _table(_program(_trace(), ERROR), "auto")
    assert alone == _table(_program(_trace(), ERROR), "hawq-v2")
    nothing_moves = _table(_program(_trace(), ERROR, _kl(b2=0.0)), "auto")
    assert [nothing_moves[2][0], nothing_moves[8][0]] == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize(
    ("facts", "methods"),
    [
        ((KlSensitivity(by_bits=()), _trace(), ERROR), {2: "hawq-v2", 8: "hawq-v2"}),
        ((_kl(b2=0.1, b8=0.0),), {2: "kl", 8: "kl"}),
        ((QUADRATIC, _trace()), {2: "gauss-newton", 4: "gauss-newton"}),
    ],
)
def test_auto_works_with_any_one_kind_of_fact(facts: tuple[Annotation, ...], methods: dict[int, str]) -> None:
    program = _program(*facts)
    PassManager([SensitivityPass()]).run(program, PassContext())
    for node in program.weighted_nodes:
        assert {e.weight_bits: e.method for e in read(node, Sensitivity).by_bits} == methods


@pytest.mark.parametrize("facts", [(), (_trace(),), (ERROR,), (KlSensitivity(by_bits=()),)])
def test_auto_without_any_estimate_is_refused_with_the_node(facts: tuple[Annotation, ...]) -> None:
    with pytest.raises(PassError, match=r"node 'stem' \(Conv\) carries no estimate; schedule kl-sensitivity, or"):
        PassManager([SensitivityPass()]).run(_program(*facts), PassContext())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "auto"])
def test_conformance(method: LossMethod) -> None:
    check_pass(lambda: SensitivityPass(method=method), _full, PassContext())


@pytest.mark.parametrize("method", METHODS)
def test_every_node_gets_finite_numbers_that_are_not_negative(method: LossMethod) -> None:
    program = _full()
    PassManager([SensitivityPass(method=method)]).run(program, PassContext())
    for node in program.weighted_nodes:
        assert all(0 <= e.loss_increase_nats < math.inf for e in read(node, Sensitivity).by_bits)


@pytest.mark.parametrize("trace", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["auto", "hawq-v2"])
def test_nan_and_infinity_never_reach_the_table(trace: float, method: LossMethod) -> None:
    program = _program(_trace(trace), ERROR)
    with pytest.raises(InputError, match=r"node 'stem' at 2 bits: the loss increase by hawq-v2 is (nan|inf)"):
        SensitivityPass(method=method).run(program, PassContext())
    assert find(program.weighted_nodes[0], Sensitivity) is None


def test_missing_parts_are_refused_with_the_cure() -> None:
    with pytest.raises(InputError, match=r"holds no top eigenvalue; give hessian-trace the option eigenvalues=1"):
        SensitivityPass(method="hawq").run(_program(_trace(eigenvalues=()), ERROR), PassContext())
    unlabelled = QuadraticLoss(by_bits=(_quadratic(4, 0.2, None),))
    with pytest.raises(InputError, match=r"no first-order term.*give labelled data"):
        SensitivityPass(method="gradient-gauss-newton").run(_program(unlabelled), PassContext())
    with pytest.raises(PassError, match="requires 'kl-sensitivity'"):
        PassManager([SensitivityPass(method="kl")]).run(_program(), PassContext())
