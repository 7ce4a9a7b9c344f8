"""Shapes of networks at hand are priced by what was measured of them."""

import dataclasses
from math import sqrt

import pytest

from codesign.cost.calibrated import CalibratedModel
from codesign.cost.measured_shapes import ShapeFactors, shape_of
from codesign.hardware.calibration import Calibration, KernelFit, MeasuredShape, Term, VectorUnit
from codesign.hardware.catalog import load_profile
from codesign.plan.facts import ConvGeometry, NodeFacts
from codesign.quantization.scheme import Widths
from codesign.testing.cost_conformance import move_node, multiply_node

CONV = multiply_node("conv", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (8, 8), (8, 8), 1))


def _row(node: NodeFacts, bits: int, factor: float) -> MeasuredShape:
    return MeasuredShape(shape=shape_of(node), weight_bits=bits, activation_bits=8, factor=factor)


def test_a_shape_is_what_is_computed_and_no_name() -> None:
    assert shape_of(dataclasses.replace(CONV, name="another")) == shape_of(CONV)
    add = move_node("add", "Add", 2048, 1024, fused_into="conv")
    assert shape_of(dataclasses.replace(CONV, merged=(add,))) != shape_of(CONV)
    assert shape_of(dataclasses.replace(CONV, output_elements=CONV.output_elements // 2)) != shape_of(CONV)


def test_other_widths_of_a_shape_take_the_mean() -> None:
    factors = ShapeFactors.of([_row(CONV, 8, 1.2), _row(CONV, 4, 0.9)])
    assert factors.factor(CONV, Widths(8, 8)) == pytest.approx(1.2)
    assert factors.factor(CONV, Widths(4, 8)) == pytest.approx(0.9)
    assert factors.factor(CONV, Widths(2, 8)) == pytest.approx(sqrt(1.2 * 0.9))
    assert factors.factor(CONV, Widths(32, 32)) == 1.0  # another arithmetic
    assert factors.factor(dataclasses.replace(CONV, output_elements=1), Widths(8, 8)) == 1.0
    assert ShapeFactors.of([]).factor(CONV, Widths(8, 8)) == 1.0


def test_the_factor_is_on_the_kernel_and_not_on_its_call() -> None:
    terms = ("call", "products", "epilogues", "padding", "padded_pixels")
    unknown = {"steps", "loads", "stalls", "tiles", "conflicts", "inputs_l2", "weights_l2", "beyond_l1", "beyond_l2"}
    fit = KernelFit(
        kind="convolution", arithmetic="int8", samples=10, relative_error=0.1, within_10_percent=1.0, source="made up",
        terms=tuple(Term(name=name, seconds=1e-9 if name in terms else 0.0) for name in (*terms, *sorted(unknown))),
    )  # fmt: skip
    calibration = Calibration(
        source="made up", unit=VectorUnit(registers=31, lanes=16, dot_channels=4), call_s=3e-7, fits=(fit,)
    )
    plain = load_profile("host-cpu").model_copy(update={"calibration": calibration})
    shaped = plain.model_copy(update={"calibration": calibration.model_copy(update={"shapes": (_row(CONV, 8, 1.5),)})})
    before, after = (CalibratedModel(p).price_node(CONV, Widths(8, 8)).latency_s - 3e-7 for p in (plain, shaped))
    assert after == pytest.approx(1.5 * before)
