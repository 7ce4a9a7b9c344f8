"""Rounds of products for one or several trace estimators, until each is accurate enough."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from codesign.curvature.probing import Probing, ProbingOf, StoppingRule, TraceEstimate, generator_of
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.data_parallel import Shard
from codesign.progress import Progress, Silent

_COLUMNS_OF_THE_IDENTITY_AT_ONCE = 64


class UnitVectors:
    """The exact trace, by products with all unit vectors.

    Args:
        dimension: Rows of the matrix, n; also the number of products.
        dtype: Of the vectors.
        device: Of the vectors.
    """

    def __init__(self, dimension: int, dtype: torch.dtype, device: torch.device) -> None:
        self._identity = torch.eye(dimension, dtype=dtype, device=device)
        self._done = 0
        self._trace = 0.0

    @property
    def estimate(self) -> TraceEstimate | None:
        """None before the last product."""
        if self._done < len(self._identity):
            return None
        return TraceEstimate(self._trace, 0.0, self._done, torch.empty(0, dtype=torch.float64))

    def ask(self) -> Tensor | None:
        """Some columns of the identity.

        Returns:
            `[n, B]`; None after the last.
        """
        columns = self._identity[:, self._done : self._done + _COLUMNS_OF_THE_IDENTITY_AT_ONCE]
        return columns if columns.shape[1] else None

    def tell(self, products: Tensor) -> None:
        """Adds their diagonal elements.

        Args:
            products: `[n, B]`.
        """
        self._trace += float(products.double().diagonal(-self._done).sum())
        self._done += products.shape[1]


Multiply = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Products `[n, B]` of several matrices with their own vectors `[n, B]`, by name."""


def run_probings(
    probings: Mapping[str, Probing], multiply: Multiply, rule: StoppingRule, progress: Progress, shard: Shard
) -> dict[str, TraceEstimate]:
    """Feeds estimators with products until each meets the rule, uses up its products, or time runs out.

    Args:
        probings: By name; each is done at its own time.
        multiply: Makes the products.
        rule: When to stop.
        progress: Told about products, those that are not needed included.
        shard: Processes that take part; they stop together.

    Returns:
        By name.
    """
    deadline = math.inf if rule.seconds is None else time.monotonic() + rule.seconds
    active, spent = dict(probings), dict.fromkeys(probings, 0)
    progress.start("traces by random probes", rule.max_probes * len(probings))
    try:
        while active:
            asked = {name: vectors for name, probing in active.items() if (vectors := probing.ask()) is not None}
            products = multiply(asked) if asked else {}
            for name, found in products.items():
                active[name].tell(found)
                spent[name] += found.shape[1]
                progress.advance(found.shape[1])
            late = rule.seconds is not None and _is_any(time.monotonic() > deadline, shard, products)
            for name, probing in list(active.items()):
                known = probing.estimate
                if name not in asked or (known is not None and (late or rule.is_met(known))):
                    del active[name]
                    progress.advance(max(0, rule.max_probes - spent[name]))
    finally:
        progress.finish()
    return {name: _finished(probing) for name, probing in probings.items()}


def probing_for(
    method: ProbingOf,
    dimension: int,
    rule: StoppingRule,
    generator: torch.Generator,
    kind: torch.dtype,
    device: torch.device,
) -> Probing:
    """An estimator for one matrix.

    Args:
        method: How a matrix is estimated that is too large to be found exactly.
        dimension: Rows of the matrix.
        rule: Says what is too large.
        generator: Of the random vectors.
        kind: Type of the vectors.
        device: Of the vectors.

    Returns:
        The estimator.
    """
    if rule.wants_exact(dimension):
        return UnitVectors(dimension, kind, device)
    return method(dimension, rule, generator, kind, device)


def trace_by(
    method: ProbingOf,
    operator: SymmetricOperator,
    rule: StoppingRule | None,
    seed: int,
    progress: Progress | None,
    shard: Shard | None,
) -> TraceEstimate:
    """The trace of one matrix.

    Args:
        method: How it is estimated unless it is small.
        operator: The matrix.
        rule: When to stop.
        seed: Of the random vectors.
        progress: Told about products.
        shard: Processes that take part in the operator's products.

    Returns:
        The estimate.
    """
    rule = rule or StoppingRule()
    probing = probing_for(method, operator.dimension, rule, generator_of(seed), operator.dtype, operator.device)
    found = run_probings(
        {"": probing}, lambda asked: {"": operator @ asked[""]}, rule, progress or Silent(), shard or Shard()
    )
    return found[""]


def _finished(probing: Probing) -> TraceEstimate:
    assert probing.estimate is not None  # every method takes enough products for one, or refuses the rule
    return probing.estimate


def _is_any(condition: bool, shard: Shard, products: Mapping[str, Tensor]) -> bool:
    """Whether it holds in any process: clocks differ, but all must leave together."""
    device = next(iter(products.values())).device if products else None
    return float(shard.sum(torch.tensor(float(condition), device=device))) > 0
