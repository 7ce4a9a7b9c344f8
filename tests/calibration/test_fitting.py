"""Fits to kernels whose cost is known exactly."""

from math import exp, log

import numpy as np
import pytest

from codesign.calibration.fitting import MeasuredKernel, fit_classes, non_negative_seconds, predicted_seconds
from codesign.hardware.calibration import VectorUnit
from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths
from codesign.testing.cost_conformance import move_node, multiply_node

FLOAT = Widths(32, 32)
KNOWN = {"call": 40e-9, "products": 0.27e-9, "epilogues": 1.5e-9, "tiles": 3e-9, "padding": 0.4e-9, "unpack_4": 2e-11}
Memories = tuple[MemoryLevel, ...]


def _kernels(count: int, bits: Widths, unit: VectorUnit, memories: Memories, seed: int = 0) -> list[MeasuredKernel]:
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size, kernel = int(random.integers(7, 33)), int(random.choice([1, 3]))
        before, after = (int(random.integers(8, 200)) for _ in range(2))
        shape = (size, size)
        geometry = ConvGeometry(1, before, after, (kernel, kernel), (1, 1), shape, shape, 1)
        bare = MeasuredKernel(multiply_node(f"conv{number}", "Conv", geometry), (), bits, 1.0)
        counts = bare.counts(unit, memories)
        seconds = sum(KNOWN.get(name, 0.0) * value for name, value in counts.items())
        found.append(MeasuredKernel(bare.node, (), bits, seconds))
    return found


def test_known_seconds_are_recovered(unit: VectorUnit, memories: Memories) -> None:
    kernels = _kernels(60, Widths(4, 8), unit, memories)
    (fitted,) = fit_classes(kernels, unit, memories, "made up", seed=0)
    assert (fitted.fit.kind, fitted.fit.arithmetic, fitted.fit.samples) == ("convolution", "int8", 60)
    found = {term.name: term.seconds for term in fitted.fit.terms}
    for name, seconds in KNOWN.items():
        assert found[name] == pytest.approx(seconds, rel=5e-3)
    assert np.abs(fitted.held_out_errors).max() < 1e-2
    assert fitted.fit.within_10_percent == 1.0
    for kernel in kernels[:5]:
        assert predicted_seconds(fitted.fit, kernel, unit, memories) == pytest.approx(kernel.seconds, rel=1e-2)


def test_held_out_error_shows_noise_and_a_correction_learns_what_terms_cannot(
    unit: VectorUnit, memories: Memories
) -> None:
    random = np.random.default_rng(1)
    kernels = [
        MeasuredKernel(
            k.node,
            (),
            k.bits,
            k.seconds * exp(random.normal(0, 0.01)) * (1.6 if k.node.geometry.kernel == (3, 3) else 1),
        )
        for k in _kernels(150, FLOAT, unit, memories)
        if k.node.geometry is not None
    ]
    (fitted,) = fit_classes(kernels, unit, memories, "made up", seed=0)
    assert fitted.fit.correction is not None
    assert 0.001 < fitted.fit.relative_error < 0.2  # terms alone cannot tell 1.6 from 1
    again = fit_classes(kernels, unit, memories, "made up", seed=0)[0]
    assert again.fit == fitted.fit  # the same seed gives the same fit
    logs = [log(predicted_seconds(fitted.fit, k, unit, memories) / k.seconds) for k in kernels]
    assert float(np.quantile(np.abs(logs), 0.9)) < 0.05


def test_all_widths_of_a_shape_are_held_out_together(unit: VectorUnit, memories: Memories) -> None:
    """A kernel that is unlike all others is predicted badly, although the same shape is there at another width."""
    usual = _kernels(40, Widths(8, 8), unit, memories)
    odd = usual[0]
    twins = [MeasuredKernel(odd.node, (), Widths(bits, 8), odd.seconds * 50) for bits in (8, 4)]
    (fitted,) = fit_classes([*usual[1:], *twins], unit, memories, "made up", seed=0)
    assert np.all(np.abs(fitted.held_out_errors[-2:]) > 0.5)


def test_classes_with_too_few_kernels_are_left_out(unit: VectorUnit, memories: Memories) -> None:
    pools = [MeasuredKernel(move_node(f"add{i}", "Add", 200 * i, 100 * i), (), FLOAT, 1e-7 * i) for i in range(1, 5)]
    fits = fit_classes([*pools, *_kernels(10, FLOAT, unit, memories)], unit, memories, "made up", seed=0)
    assert [fit.fit.kind for fit in fits] == ["convolution"]


def test_one_shape_in_many_widths_is_left_out_since_nothing_can_be_held_out(
    unit: VectorUnit, memories: Memories
) -> None:
    widths = [Widths(bits, 8) for bits in (2, 3, 4, 5, 6, 8)]
    same = [_kernels(1, bits, unit, memories)[0] for bits in widths]
    assert fit_classes(same, unit, memories, "made up", seed=0) == ()
    (fitted,) = fit_classes([*same, *_kernels(9, widths[-1], unit, memories, 1)], unit, memories, "made up", seed=0)
    assert np.isfinite(fitted.fit.relative_error)
    assert np.isfinite(fitted.held_out_errors).all()


def test_no_term_is_ever_negative() -> None:
    counts = np.array([[1.0, 2.0], [1.0, 1.0], [1.0, 3.0]])
    assert np.all(non_negative_seconds(counts, np.array([2.0, 3.0, 1.0])) >= 0)


def test_merged_nodes_are_part_of_their_kernel(unit: VectorUnit, memories: Memories) -> None:
    conv = _kernels(1, FLOAT, unit, memories)[0].node
    add = move_node("add", "Add", 2 * conv.output_elements, conv.output_elements, fused_into=conv.name)
    counts = MeasuredKernel(conv, (add,), FLOAT, 1.0).counts(unit, memories)
    assert counts["merged_elements"] == conv.output_elements
    assert counts["call"] == 1
