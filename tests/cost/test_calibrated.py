"""Prices of a calibrated model."""

from math import exp, log, sqrt

import pytest

from codesign.cost.calibrated import CalibratedModel
from codesign.cost.roofline import RooflineModel
from codesign.cost.similar_kernels import SimilarKernels
from codesign.errors import InputError
from codesign.hardware.calibration import Calibration, KernelFit, Similarity, Term, VectorUnit
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import HardwareProfile
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths
from codesign.testing.cost_conformance import move_node, multiply_node

SECONDS = {
    "call": 5e-8, "products": 2.7e-10, "steps": 0.0, "loads": 0.0, "stalls": 0.0, "tiles": 0.0, "epilogues": 1e-9,
    "padded_pixels": 0.0, "padding": 0.0,
    "weights_l2": 0.0, "inputs_l2": 0.0, "beyond_l2": 0.0, "unpack_4": 1.28e-9, "merged_elements": 1e-10,
}  # fmt: skip
LIKE = Similarity(
    features=("weight_bits", "stride"), means=(8.0, log(2)), lengths=(10.0, 5.0), points=((0.0, 0.0), (-0.6, 0.8)),
    weights=(0.5, -0.25), variance=2.0,
)  # fmt: skip
CONV = multiply_node("conv", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (8, 8), (8, 8), 1))


def _profile(correction: Similarity | None = None) -> HardwareProfile:
    fit = KernelFit(
        kind="convolution",
        arithmetic="int8",
        terms=tuple(Term(name=name, seconds=seconds) for name, seconds in SECONDS.items()),
        correction=correction,
        samples=10,
        relative_error=0.05,
        within_10_percent=1.0,
        source="made up",
    )
    unit = VectorUnit(registers=31, lanes=16, dot_channels=4)
    calibration = Calibration(source="made up", unit=unit, call_s=3e-7, fits=(fit,))
    return load_profile("host-cpu").model_copy(update={"calibration": calibration})


def test_terms_add_up() -> None:
    cost = CalibratedModel(_profile()).price_node(CONV, Widths(4, 8))
    products = 64 * 9 * 16 * 16 / (16 * 4)
    expected = 5e-8 + products * 2.7e-10 + 64 * 1e-9 + 9 * 256 / 64 * 1.28e-9 + 3e-7
    assert cost.latency_s == pytest.approx(expected)
    assert cost.bound == "compute"


def test_a_correction_is_a_factor_on_the_kernel() -> None:
    model, plain = CalibratedModel(_profile(LIKE)), CalibratedModel(_profile())
    kernel_s = plain.kernel_s(CONV, Widths(8, 8))[0]
    far = (1 + sqrt(3)) * exp(-sqrt(3))
    logarithm = 2.0 * (0.5 - 0.25 * far)  # the layer itself, and a kernel at a distance of 1
    assert model.kernel_s(CONV, Widths(8, 8))[0] == pytest.approx(kernel_s * exp(logarithm))
    assert SimilarKernels.of(LIKE).logarithm({"weight_bits": 1e6}) == pytest.approx(0.0)  # unlike all that was measured


def test_energy_is_the_rooflines_with_the_measured_latency() -> None:
    profile = _profile()
    ours, theirs = (m.price_node(CONV, Widths(8, 8)) for m in (CalibratedModel(profile), RooflineModel(profile)))
    assert ours.energy_j - theirs.energy_j == pytest.approx(profile.idle_power_w * (ours.latency_s - theirs.latency_s))


def test_merged_and_free_nodes_pay_no_call() -> None:
    model = CalibratedModel(_profile())
    add = move_node("add", "Add", 2048, 1024, fused_into="conv")
    assert model.price_node(add, Widths(8, 8)).latency_s == pytest.approx(1024 * 1e-10)
    relu = move_node("relu", "Relu", 1024, 1024, fused_into="conv")
    assert model.price_node(relu, Widths(8, 8)).latency_s == 0.0
    assert model.price_node(move_node("flat", "Flatten", 64, 64), Widths(8, 8)).latency_s == 0.0


def test_what_was_not_measured_is_an_error() -> None:
    model = CalibratedModel(_profile())
    with pytest.raises(InputError, match="pooling in int8, which was not measured"):
        model.price_node(move_node("pool", "MaxPool", 1024, 256), Widths(8, 8))
    with pytest.raises(InputError, match="convolution in float32, which was not measured"):
        model.price_node(CONV, Widths(32, 32))
    with pytest.raises(InputError, match="no term 'unpack_2'"):
        model.price_node(CONV, Widths(2, 8))


def test_provenance_and_missing_calibration() -> None:
    assert CalibratedModel(_profile()).provenance == "calibrated"
    with pytest.raises(InputError, match=r"has no \[calibration\]"):
        CalibratedModel(load_profile("host-cpu"))
