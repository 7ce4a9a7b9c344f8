"""A cost model that was put right by whole networks measured on the device at hand.

    latency of a node = scale x predicted + seconds of a call        (nothing for nodes that cost nothing)

so that the latency of a network is scale x prediction + calls x seconds. Convolutions with groups have a scale of their
own: models are furthest from the truth where kernels see few channels at a time. Three numbers are what a handful of
measured networks can tell; all change which architecture is best, because deep and narrow networks make more calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from codesign.cost.base import CostModel, NodeCost, with_latency
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import BitWidths

FOR_ALL = 3
"""Networks from which on all numbers are fitted; fewer give one scale alone."""
PRIOR = 0.3
"""How strongly the scale is held to that which explains the networks alone: a misfit of the whole scale weighs as much
as a relative error of 0.3 in one network. Networks of about equal depth cannot tell a call from the rest, and without
this the scale may become 0, after which all networks of one depth would seem equally fast."""
WEAK_PRIOR = 0.01
"""The same for convolutions with groups, which may be many times slower than predicted; keeps the scale of the others
only where no network has any."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network whose latency was predicted and measured.

    Attributes:
        predicted_s: By the model that is to be corrected.
        grouped_s: The part of it that convolutions with groups take.
        calls: Nodes that cost something.
        measured_s: On the device.
    """

    predicted_s: float
    grouped_s: float
    calls: int
    measured_s: float


@dataclass(frozen=True)
class Correction:
    """What measured networks say of a model.

    Attributes:
        scale: Factor on every predicted latency but those of convolutions with groups.
        grouped_scale: Factor on these.
        call_s: Seconds on top for every node that costs something.
        networks: How many networks it was fitted to.
    """

    scale: float = 1.0
    grouped_scale: float = 1.0
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
    parts = [(m.predicted_s - m.grouped_s, m.grouped_s, m.calls) for m in measured]
    rows = np.array(parts) / np.array([[m.measured_s] for m in measured])
    whole = rows[:, 0] + rows[:, 1]
    alone = float(np.median(1 / whole))  # one network far off must not move the others
    if len(measured) < FOR_ALL:
        alone = float(whole.sum() / (whole @ whole))
        return Correction(alone, alone, 0.0, len(measured))
    units = np.where(rows.max(axis=0) > 0, rows.max(axis=0), 1.0)
    held = np.array([[PRIOR / alone, 0.0, 0.0], [0.0, WEAK_PRIOR / alone, 0.0]])
    wanted = np.array([*np.ones(len(measured)), PRIOR, WEAK_PRIOR])
    scale, grouped_scale, call_s = nnls(np.vstack([rows, held]) / units, wanted)[0] / units
    return Correction(float(scale), float(grouped_scale), float(call_s), len(measured))


def is_grouped(node: NodeFacts) -> bool:
    """Whether a node is a convolution with groups.

    Args:
        node: Any node.

    Returns:
        True for depthwise ones too.
    """
    return node.geometry is not None and node.geometry.groups > 1


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
        grouped = is_grouped(node)
        scale = self.correction.grouped_scale if grouped else self.correction.scale
        latency_s = scale * cost.latency_s + self.correction.call_s
        return with_latency(cost, latency_s, self.profile)
