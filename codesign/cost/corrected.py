"""A cost model that was put right by whole networks measured on the device at hand.

    latency of a node = scale x predicted + seconds of a call        (nothing for nodes that cost nothing)

so that the latency of a network is scale x prediction + calls x seconds. Two numbers are what a handful of measured
networks can tell; both change which architecture is best, because deep and narrow networks make more calls.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from codesign.cost.base import CostModel, NodeCost
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import BitWidths

FOR_BOTH = 3
"""Networks from which on the seconds of a call are fitted too; fewer give the scale alone."""
PRIOR = 0.3
"""How strongly the scale is held to that which explains the networks alone: a misfit of the whole scale weighs as much
as a relative error of 0.3 in one network. Networks of about equal depth cannot tell a call from the rest, and without
this the scale may become 0, after which all networks of one depth would seem equally fast."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network whose latency was predicted and measured.

    Attributes:
        predicted_s: By the model that is to be corrected.
        calls: Nodes that cost something.
        measured_s: On the device.
    """

    predicted_s: float
    calls: int
    measured_s: float


@dataclass(frozen=True)
class Correction:
    """What measured networks say of a model.

    Attributes:
        scale: Factor on every predicted latency.
        call_s: Seconds on top for every node that costs something.
        networks: How many networks it was fitted to.
    """

    scale: float = 1.0
    call_s: float = 0.0
    networks: int = 0


def fit_correction(measured: Sequence[MeasuredNetwork]) -> Correction:
    """The correction with the least sum of squared relative errors and of the prior's; neither number is negative.

    Args:
        measured: Networks; without any nothing is corrected.

    Returns:
        The correction.

    Raises:
        InputError: A latency is not positive.
    """
    if not measured:
        return Correction()
    if min(min(m.predicted_s, m.measured_s) for m in measured) <= 0:
        raise InputError("a predicted or measured latency is not above 0; measure networks that take time")
    rows = np.array([[m.predicted_s / m.measured_s, m.calls / m.measured_s] for m in measured])
    alone = float(rows[:, 0].sum() / (rows[:, 0] @ rows[:, 0]))
    if len(measured) < FOR_BOTH:
        return Correction(alone, 0.0, len(measured))
    units = rows.max(axis=0)
    held = np.array([PRIOR / alone, 0.0])
    scale, call_s = nnls(np.vstack([rows, held]) / units, np.array([*np.ones(len(measured)), PRIOR]))[0] / units
    return Correction(float(scale), float(call_s), len(measured))


@dataclass(frozen=True)
class CorrectedModel:
    """Prices nodes by another model and corrects the latency.

    Energy follows: what a device draws while it is idle is paid for the corrected time.

    Attributes:
        base: The other model.
        correction: What to do to its latencies.
    """

    base: CostModel
    correction: Correction

    @property
    def profile(self) -> HardwareProfile:
        """The device."""
        return self.base.profile

    @property
    def provenance(self) -> Provenance:
        """Fitted to measurements, as soon as there are any."""
        return "calibrated" if self.correction.networks else self.base.provenance

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node.
            bits: Widths of its weight and activations.

        Returns:
            Its corrected cost.
        """
        cost = self.base.price_node(node, bits)
        if cost.latency_s == 0:
            return cost
        latency_s = self.correction.scale * cost.latency_s + self.correction.call_s
        energy_j = cost.energy_j + self.profile.idle_power_w * (latency_s - cost.latency_s)
        return dataclasses.replace(cost, latency_s=latency_s, energy_j=max(0.0, energy_j))
