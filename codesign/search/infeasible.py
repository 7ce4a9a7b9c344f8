"""What can be reached where no choice keeps the limits."""

import math
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Context, Decimal

from codesign.errors import InfeasibleBudgetError

LeastTotal = Callable[[str, Mapping[str, float]], float | None]
"""Least total of a metric under limits on others, None if these cannot be kept."""

PREFIXES = tuple(
    (Decimal(10) ** power, prefix)
    for power, prefix in zip(range(12, -12, -3), ["T", "G", "M", "k", "", "m", "u", "n"], strict=True)
)


def infeasible(
    limits: Mapping[str, float],
    alone: Mapping[str, float],
    least: LeastTotal,
    choices: str = "bits",
    cure: str = "fewer bits",
) -> InfeasibleBudgetError:
    """The error that names the tightest values that can be reached.

    Args:
        limits: Limits that no choice keeps.
        alone: The least total of each limited metric that any choice has.
        least: Solves for the least total under the other limits.
        choices: What is chosen.
        cure: What to offer instead.

    Returns:
        The error: if limits cannot be kept even alone, with what each of these can reach; else with what each limited
        metric can reach while the others are kept.
    """
    beyond = [metric for metric in limits if alone[metric] > limits[metric]]
    if beyond:
        lines = [f"{m}: at most {shown(m, limits[m])} allowed, least possible {shown(m, alone[m])}" for m in beyond]
        others = [f"{m}: least possible {shown(m, alone[m])}" for m in limits if m not in beyond]
        return InfeasibleBudgetError(
            f"no choice of {choices} keeps the budget ({'; '.join(lines + others)}); raise the limit or offer {cure}"
        )
    lines = []
    for metric in limits:
        rest = {other: limit for other, limit in limits.items() if other != metric}
        joint = least(metric, rest)
        reach = f"least possible {shown(metric, alone[metric])} alone"
        if joint is not None:
            reach += f", {shown(metric, joint)} while the other limits are kept"
        lines.append(f"{metric}: at most {shown(metric, limits[metric])} allowed, {reach}")
    return InfeasibleBudgetError(
        f"no choice of {choices} keeps all limits at once ({'; '.join(lines)}); raise one of them or offer {cure}"
    )


def shown(metric: str, value: float) -> str:
    """A value with a readable unit, taken from the metric's name; rounded up, so that it is reachable as written.

    Args:
        metric: Such as `latency_s` or `weight_bytes`.
        value: In that unit.

    Returns:
        Such as `3.14942 ms` or `5578752 bytes (5.57876 MB)`.
    """
    if metric.endswith("_bytes"):
        exact = f"{math.ceil(value)} bytes"
        return exact if value < 1e4 else f"{exact} ({_with_prefix(value, 'B')})"
    unit = {"_s": "s", "_j": "J"}.get(metric[-2:], "")
    return _with_prefix(value, unit)


def _with_prefix(value: float, unit: str) -> str:
    size, prefix = next((pair for pair in PREFIXES if value >= pair[0]), (Decimal(1), ""))
    digits = Context(prec=6, rounding=ROUND_CEILING).divide(Decimal(repr(value)), size)
    return f"{digits.normalize():f} {prefix}{unit}".rstrip()
