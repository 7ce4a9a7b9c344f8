"""Cost on a device that was calibrated: latency by terms fitted to measured kernels, energy as the roofline model's.

    latency_s = (sum over terms of count x seconds) x exp(the correction of kernels like this one)
                x (measured / fitted, for the shapes of networks at hand: measured_shapes)
                + seconds of the call + bytes of weights that left the caches x seconds of one (cold_weights)
                + for the first node that multiplies, seconds of a run

Counts are those of `kernel_terms`. What a calibration did not measure (a class of kernels, a width) is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import exp

from codesign.cost.base import NodeCost
from codesign.cost.cold_weights import cold_bytes
from codesign.cost.kernel_features import features_of
from codesign.cost.kernel_terms import OPTIONAL, arithmetic_of, class_of, terms_of
from codesign.cost.measured_shapes import ShapeFactors
from codesign.cost.operators import kind_of
from codesign.cost.roofline import RooflineModel
from codesign.cost.similar_kernels import SimilarKernels
from codesign.errors import InputError
from codesign.hardware.calibration import Arithmetic, Calibration, KernelClass, KernelFit
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths

MEMORY_TERMS = frozenset({
    "weights_l2",
    "inputs_l2",
    "beyond_l1",
    "beyond_l2",
    "padding",
    "amx_padding",
    "amx_rounding",
    "from_image",
    "read",
    "written",
    "merged_elements",
})
"""Terms of data that moves; the others but `call` are work of the core."""


@dataclass(frozen=True)
class CalibratedModel:
    """Prices nodes with what a calibration measured.

    Attributes:
        profile: The device, with its calibration.
    """

    profile: HardwareProfile

    def __post_init__(self) -> None:
        if self.profile.calibration is None:
            raise InputError(f"profile {self.profile.name!r} has no [calibration]; make one with `codesign calibrate`")

    @property
    def provenance(self) -> Provenance:
        """Fitted to measurements."""
        return "calibrated"

    @property
    def calibration(self) -> Calibration:
        """The profile's calibration."""
        assert self.profile.calibration is not None
        return self.profile.calibration

    @cached_property
    def _similar(self) -> Mapping[tuple[KernelClass, Arithmetic], SimilarKernels]:
        fits = ((fit, fit.correction) for fit in self.calibration.fits)
        return {(fit.kind, fit.arithmetic): SimilarKernels.of(found) for fit, found in fits if found is not None}

    @cached_property
    def _shapes(self) -> ShapeFactors:
        return ShapeFactors.of(self.calibration.shapes)

    def price_node(self, node: NodeFacts, bits: Widths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node; nodes without a weight are priced at the activations' width.
            bits: Widths of its weight and activations.

        Returns:
            Its cost; bound by the largest term: `compute`, `memory` or `dispatch`.
        """
        estimated = RooflineModel(self.profile).price_node(node, bits)
        if kind_of(node) == "free":
            return estimated
        kernel_s, bound = self.kernel_s(node, bits)
        latency_s = kernel_s + self.network_s(node, bits)
        idle_j = self.profile.idle_power_w * (latency_s - estimated.latency_s)
        return NodeCost(latency_s, estimated.energy_j + idle_j, bound)

    def network_s(self, node: NodeFacts, bits: Widths) -> float:
        """Seconds that a network adds to a node's kernel: calls, and weights that are not in the caches any more.

        Args:
            node: A node that is not free.
            bits: Its widths.

        Returns:
            Seconds.
        """
        call_s = 0.0 if node.fused_into is not None else self.calibration.call_s
        if node.is_first:
            call_s += self.calibration.run_s
        cold, far = cold_bytes(node, bits, self.profile.memories)
        return call_s + cold * self.calibration.cold_s_per_weight_byte + far * self.calibration.far_s_per_weight_byte

    def kernel_s(self, node: NodeFacts, bits: Widths) -> tuple[float, str]:
        """Seconds of a node's kernel by itself, and what bounds it.

        Args:
            node: A node that is not free.
            bits: Its widths.

        Returns:
            Seconds, and `compute`, `memory` or `dispatch`.
        """
        calibration = self.calibration
        fit = self._fit(node, bits)
        counts = terms_of(node, bits, calibration.unit, self.profile.memories)
        parts = term_seconds(fit, counts, self.profile.name)
        factor = 1.0
        if node.fused_into is None and fit.correction is not None:
            similar = self._similar[fit.kind, fit.arithmetic]
            factor = exp(similar.logarithm(features_of(counts, node, bits, calibration.unit)))
        if node.fused_into is None:
            factor *= self._shapes.factor(node, bits)
        by_bound = {"compute": 0.0, "memory": 0.0, "dispatch": 0.0}
        for name, seconds in parts.items():
            by_bound["dispatch" if name == "call" else "memory" if name in MEMORY_TERMS else "compute"] += seconds
        return sum(parts.values()) * factor, max(by_bound, key=by_bound.__getitem__)

    def _fit(self, node: NodeFacts, bits: Widths) -> KernelFit:
        merged = node.fused_into is not None  # whichever kernel it is in, residuals are those of convolutions
        kind: KernelClass = "convolution" if merged else class_of(node)
        arithmetic = arithmetic_of(kind, bits, self.calibration.unit)
        for fit in self.calibration.fits:
            if (fit.kind, fit.arithmetic) == (kind, arithmetic):
                return fit
        have = ", ".join(f"{fit.kind} in {fit.arithmetic}" for fit in self.calibration.fits)
        raise InputError(
            f"profile {self.profile.name!r}: calibration: {node.op_type} {node.name!r} is {kind} in {arithmetic}, "
            f"which was not measured (there is {have}); calibrate for longer, or with --model and a network that has it"
        )


def term_seconds(fit: KernelFit, counts: Mapping[str, float], profile: str) -> Mapping[str, float]:
    """Seconds of each term.

    Args:
        fit: Seconds of one.
        counts: How many there are.
        profile: Name of the profile, for messages.

    Returns:
        Seconds by name of the term.

    Raises:
        InputError: A width was not measured.
    """
    seconds = {term.name: term.seconds for term in fit.terms}
    unknown = (name for name, count in counts.items() if count and name not in seconds)
    missing = sorted(name for name in unknown if not name.startswith(OPTIONAL))
    if missing:
        raise InputError(
            f"profile {profile!r}: calibration: {fit.kind} in {fit.arithmetic} has no term {missing[0]!r}, since no "
            f"such kernel was measured; calibrate for longer"
        )
    return {name: count * seconds.get(name, 0.0) for name, count in counts.items() if count}
