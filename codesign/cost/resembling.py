"""A cost model put right kernel by kernel: kernels like those that were measured are off as these were.

    latency of a kernel = predicted x exp(b + m),    m = k(x, X) (k(X, X) + noise)^-1 (ln(measured / predicted) - b)

where `b` is the median of ln(measured / predicted), and `m` the mean of a Gaussian process with a Matern 3/2 kernel
over sizes on a logarithmic scale (Rasmussen and Williams 2006, 2.2 and 4.2), whose variance, length and noise make the
measurements most likely. Far from all measured kernels `m` is 0.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.cost.base import CostModel, NodeCost, kernel_latency_s, with_latency
from codesign.cost.operators import kind_of
from codesign.cost.similar_kernels import alikeness
from codesign.cost.table import Workload, workload_of
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import BitWidths

LEAST_KERNELS = 20
"""Fewer measured kernels say too little of one another."""
LARGEST_LOGARITHM = 1.0
"""What is off by more says nothing of its neighbours."""
LEAST_SPREAD = 0.05
"""Features that hardly vary are not blown up."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimedKernel:
    """A kernel, what it was expected to take and what it took.

    Attributes:
        workload: What it computes.
        predicted_s: By the model that is to be put right.
        seconds: Of one call.
    """

    workload: Workload
    predicted_s: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Resemblance:
    """What measured kernels say of others.

    Attributes:
        means: Of the features, `[f]`.
        spreads: Of the features, `[f]`.
        points: The kernels, `[n, f]`.
        weights: `(k(X, X) + noise)^-1 (ln(measured / predicted) - b)`, `[n]`.
        bias: `b`.
        variance: Of the logarithm, between kernels that have nothing in common.
        length: Over which kernels resemble one another, in spreads.
    """

    means: Array
    spreads: Array
    points: Array
    weights: Array
    bias: float
    variance: float
    length: float

    def logarithm(self, workload: Workload) -> float:
        """The natural logarithm of the factor on one kernel.

        Args:
            workload: What it computes.

        Returns:
            `b + m`.
        """
        place = (np.asarray(sizes(workload)) - self.means) / self.spreads
        squares = np.sum((self.points - place) ** 2, axis=1) / self.length**2
        return self.bias + float(self.variance * (self.weights @ alikeness(squares)))


def sizes(workload: Workload) -> tuple[float, ...]:
    """What kernels are compared by.

    Widths are not among it: a few networks have their narrow weights in alike layers, so that what is peculiar to these
    would be taken for what narrow weights do. The base model says what these cost.

    Args:
        workload: What a kernel computes.

    Returns:
        Numbers of equal count for every kernel, sizes as logarithms.
    """
    merged = math.log1p(sum(other.output_elements for other in workload.merged)) / 10
    moved = (math.log1p(workload.output_elements), math.log1p(workload.input_elements), merged)
    geometry = workload.geometry
    if geometry is None:
        return (*moved, *[0.0] * 7, 1.0)
    channels = geometry.input_channels / geometry.groups
    return (
        *moved,
        math.log(workload.output_elements * channels * math.prod(geometry.kernel)),
        math.log(channels),
        math.log(geometry.output_channels),
        *(math.log(size) for size in geometry.kernel),
        math.log(geometry.groups),
        math.log(geometry.stride[0]),
        0.0,
    )


def fit_resemblance(kernels: Iterable[TimedKernel], seed: int) -> Resemblance | None:
    """Compares measured kernels with what was expected of them.

    Args:
        kernels: What was measured; a workload may occur several times. Those that took or were expected to take
            nothing are left out.
        seed: Of the search for the most likely numbers.

    Returns:
        What they say of others; None for fewer than `LEAST_KERNELS`.
    """
    timed = [kernel for kernel in kernels if kernel.predicted_s > 0 and kernel.seconds > 0]
    if len(timed) < LEAST_KERNELS:
        return None
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    logarithms = np.array([math.log(kernel.seconds / kernel.predicted_s) for kernel in timed])
    bias = float(np.median(logarithms))
    values = np.array([sizes(kernel.workload) for kernel in timed])
    means, spreads = values.mean(axis=0), np.maximum(values.std(axis=0), LEAST_SPREAD)
    points = (values - means) / spreads
    shape = ConstantKernel(0.1, (1e-3, 3.0)) * Matern(3.0, (0.5, 30.0), nu=1.5)
    model = GaussianProcessRegressor(shape + WhiteKernel(0.005, (1e-4, 0.1)), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a hyperparameter lies at its bound
        model.fit(points, np.clip(logarithms - bias, -LARGEST_LOGARITHM, LARGEST_LOGARITHM))
    found = model.kernel_.k1
    variance, length = float(found.k1.constant_value), float(found.k2.length_scale)
    return Resemblance(means, spreads, points, np.asarray(model.alpha_), bias, variance, length)


@dataclass(frozen=True)
class ResemblingModel:
    """Prices kernels by another model and by what kernels like them took.

    All seconds of a kernel are on its first node; merged nodes take none, and neither does a run beyond its kernels.
    Energy follows: what a device draws while it is idle is paid for the other time.

    Attributes:
        base: The other model.
        resemblance: What measured kernels say.
    """

    base: CostModel
    resemblance: Resemblance

    @property
    def profile(self) -> HardwareProfile:
        """The device."""
        return self.base.profile

    @property
    def provenance(self) -> Provenance:
        """Fitted to measurements."""
        return "calibrated"

    def price_node(self, node: NodeFacts, bits: BitWidths) -> NodeCost:
        """Prices one node.

        Args:
            node: The node.
            bits: Widths of its weight and activations.

        Returns:
            Its cost; of a node that begins a kernel, the latency of the whole kernel.
        """
        cost = self.base.price_node(node, bits)
        if kind_of(node) == "free":
            return cost
        latency_s = 0.0
        if node.fused_into is None:
            factor = math.exp(self.resemblance.logarithm(workload_of(node, bits)))
            latency_s = kernel_latency_s(self.base, node, bits) * factor
        return with_latency(cost, latency_s, self.profile)
