"""What a joint search trades: names, units and how numbers are written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.report.quantities import joules, nats, seconds, size
from codesign.report.search_contents import SearchSpace, TargetResult
from codesign.report.search_point import PointPrediction, ShadowPrice, VariantShown


@dataclass(frozen=True)
class Metric:
    """A number that every point has.

    Attributes:
        label: In words.
        unit: As axes show it behind an SI prefix; empty for nats.
        show: Writes a value with its unit.
        predicted: Its expected value.
    """

    label: str
    unit: str
    show: Callable[[float], str]
    predicted: Callable[[PointPrediction], float]


COSTS: Mapping[str, Metric] = {
    "latency_s": Metric("latency", "s", seconds, lambda p: p.latency_s),
    "energy_j": Metric("energy", "J", joules, lambda p: p.energy_j),
    "peak_memory_bytes": Metric("peak memory", "B", size, lambda p: p.peak_memory_bytes),
    "weight_bytes": Metric("weights", "B", size, lambda p: p.weight_bytes),
}
"""Costs by the name that limits and objectives use."""

_OTHERS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "loss_nats": ("loss", lambda value: f"{nats(value)} nats"),
    "memory_bytes": ("memory", size),
    "power_w": ("power", lambda value: f"{value:.3g} W"),
    "period_s": ("time between inputs", seconds),
    "bops": ("bit operations", lambda value: f"{value:.3g}"),
}
"""What else is limited or made small: label, and how a value is written; memory is weights and activations."""


def metric_label(name: str) -> str:
    """What a metric is called.

    Args:
        name: Of the metric.

    Returns:
        In words; one that is not known keeps its name.
    """
    return COSTS[name].label if name in COSTS else _OTHERS.get(name, (name,))[0]


def metric_text(name: str, value: float) -> str:
    """A value with its unit.

    Args:
        name: Of the metric.
        value: In the metric's unit.

    Returns:
        Such as `1.2 ms`; without a unit for a metric that is not known.
    """
    if name in COSTS:
        return COSTS[name].show(value)
    return _OTHERS[name][1](value) if name in _OTHERS else f"{value:.4g}"


def limits_text(limits: Mapping[str, float]) -> str:
    """A budget in words.

    Args:
        limits: By metric.

    Returns:
        Such as `latency ≤ 2 ms, energy ≤ 1 mJ`.
    """
    return ", ".join(f"{metric_label(n)} ≤ {metric_text(n, v)}" for n, v in sorted(limits.items())) or "no limit"


def price_text(price: ShadowPrice) -> str:
    """What a hundredth of a limit is worth.

    Args:
        price: The shadow price.

    Returns:
        In nats; a price for a whole second or byte would be hard to read.
    """
    return nats(price.nats_per_unit * price.limit / 100)


def choices_text(space: SearchSpace, variant: VariantShown) -> str:
    """A variant in words.

    Args:
        space: That it is of.
        variant: The architecture.

    Returns:
        Its values along axes that have several, such as `depth1=2 width1=32`; `the only variant` where none has.
    """
    varied = [axis.name for axis in space.axes if len(axis.values) > 1]
    return " ".join(f"{name}={variant.choices[name]}" for name in varied) or "the only variant"


def count_text(count: int) -> str:
    """A number of things.

    Args:
        count: Not negative; may be too large for a float.

    Returns:
        Exact below ten million, else such as `3.2e12`.
    """
    if count < 10_000_000:
        return f"{count:,}"
    digits = str(count)
    return f"{digits[0]}.{digits[1]}e{len(digits) - 1}"


def joint_points_text(target: TargetResult) -> str:
    """How many combinations there were to choose from.

    Args:
        target: For which they were counted.

    Returns:
        Such as `≥ 3.2e12`.
    """
    return ("≥ " if target.joint_points_at_least else "") + count_text(target.joint_points)
