"""The pairwise problem with limits on further sums, and these sums as whole numbers, which add up without error."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from codesign.solver.pairwise import Array

Integers = NDArray[np.int64]
BITS = 61
"""A limit is below 2^BITS quanta. Terms above 1/128 of the limit then lie on the grid, and rounding the others errs by
less than the last digit of the limit as a float, for as many as 200 terms."""
OVER = (1 << 62) - 1
"""Stands for what is above the limit by itself; twice as much still fits into 64 bits."""


@dataclass(frozen=True)
class Sum:
    """`sum_v nodes[v][s_v] + sum_(u,v) edges[u,v][s_u, s_v]`.

    Attributes:
        nodes: Terms of the options of some nodes.
        edges: Terms of pairs of options, by pair `u < v`; infinite terms forbid.
    """

    nodes: Mapping[int, Array]
    edges: Mapping[tuple[int, int], Array] = field(default_factory=dict)

    def terms(self, picks: Sequence[int]) -> list[float]:
        """The terms of a choice.

        Args:
            picks: Position of the option of each node.

        Returns:
            One number for each node and edge of the sum.
        """
        own = [float(values[picks[v]]) for v, values in self.nodes.items()]
        return own + [float(table[picks[u], picks[v]]) for (u, v), table in self.edges.items()]

    def tables(self) -> Iterator[tuple[tuple[int, ...], Array]]:
        """All tables with the nodes that they depend on."""
        for v, values in self.nodes.items():
            yield (v,), values
        yield from self.edges.items()


@dataclass(frozen=True)
class Limited:
    """`constant + sum <= limit`, where the correctly rounded left side counts.

    Attributes:
        sum: Terms from 0 up.
        limit: Right-hand side.
        constant: What is there in any case.
        name: What is limited.
    """

    sum: Sum
    limit: float
    constant: float = 0.0
    name: str = ""

    @property
    def slack(self) -> Fraction:
        """What the sum may be at most, exactly: what rounds to the limit keeps it."""
        limit = Fraction(self.limit)
        half = (Fraction(math.nextafter(self.limit, math.inf)) - limit) / 2
        if float(limit + half) > self.limit:  # the tie itself is rounded up
            half -= half / 2**BITS
        return limit + half - Fraction(self.constant)

    def holds(self, picks: Sequence[int]) -> bool:
        """Whether a choice keeps the limit, without tolerance.

        Args:
            picks: Position of the option of each node.

        Returns:
            True if so.
        """
        return math.fsum([self.constant, *self.sum.terms(picks)]) <= self.limit


@dataclass(frozen=True)
class Excluded:
    """Combinations of options that are not allowed.

    Attributes:
        nodes: In ascending order.
        table: `[options of each node]`, True where the combination is not allowed.
    """

    nodes: tuple[int, ...]
    table: NDArray[np.bool_]


@dataclass(frozen=True)
class ConstrainedProblem:
    """Minimise a sum under limits on others.

    Attributes:
        sizes: How many options each node has.
        objective: The sum; it may have terms below 0.
        limits: Sums that are limited.
        excluded: What else is not allowed.
    """

    sizes: tuple[int, ...]
    objective: Sum
    limits: tuple[Limited, ...] = ()
    excluded: tuple[Excluded, ...] = ()

    def allows(self, picks: Sequence[int]) -> bool:
        """Whether a choice keeps all limits and is nowhere excluded.

        Args:
            picks: Position of the option of each node.

        Returns:
            True if so.
        """
        return all(limit.holds(picks) for limit in self.limits) and not any(
            item.table[tuple(picks[v] for v in item.nodes)] for item in self.excluded
        )

    def value(self, picks: Sequence[int]) -> float:
        """The objective of a choice, correctly rounded.

        Args:
            picks: Position of the option of each node.

        Returns:
            The sum.
        """
        return math.fsum(self.objective.terms(picks))


@dataclass(frozen=True)
class WholeSum:
    """A sum in whole quanta of a power of two.

    Attributes:
        tables: Nodes, and quanta for their options; `OVER` for what no choice can afford.
        most: Quanta that a choice may have.
        quantum: What one is worth.
        is_exact: Whether no term had to be rounded.
        offset: Value of no quanta.
    """

    tables: tuple[tuple[tuple[int, ...], Integers], ...]
    most: int
    quantum: float
    is_exact: bool
    offset: float = 0.0


def whole_sum(terms: Sum, most: Fraction) -> WholeSum:
    """Puts a sum on a grid so fine that its largest value has 61 bits; terms that do not lie on it are rounded.

    Args:
        terms: From 0 up.
        most: The largest value that a choice may have, from 0 up.

    Returns:
        The sum.
    """
    shift = BITS - (math.frexp(float(most))[1] if most > 0 else 0)
    tables, exact = [], True
    for nodes, values in terms.tables():
        affordable = values <= float(most) * (1 + 2.0**-50)
        scaled = np.ldexp(np.where(affordable, values, 0.0), shift)
        quanta = np.rint(scaled)
        exact &= bool((quanta == scaled).all())
        tables.append((nodes, np.where(affordable, quanta, float(OVER)).astype(np.int64)))
    return WholeSum(tuple(tables), math.floor(most * Fraction(2) ** shift), math.ldexp(1.0, -shift), exact)


def whole_objective(terms: Sum) -> WholeSum:
    """Puts a sum on a grid, each table above its least term.

    Args:
        terms: Of either sign; infinite ones forbid.

    Returns:
        The sum; `most` is what no choice exceeds.
    """
    largest = [np.abs(values[np.isfinite(values)]).max(initial=0.0) for _, values in terms.tables()]
    shift = BITS - 2 - math.frexp(math.fsum(largest))[1]
    tables, exact, most, least = [], True, 0, 0
    for nodes, values in terms.tables():
        allowed = np.isfinite(values)
        scaled = np.ldexp(np.where(allowed, values, np.inf), shift)
        quanta = np.rint(scaled)
        exact &= bool((quanta == scaled).all())
        above = np.where(allowed, quanta, 0.0).astype(np.int64)
        low = int(above[allowed].min()) if allowed.any() else 0
        least += low
        above -= low
        most += int(above[allowed].max(initial=0))
        tables.append((nodes, np.where(allowed, above, OVER)))
    return WholeSum(tuple(tables), most, math.ldexp(1.0, -shift), exact, math.ldexp(float(least), -shift))
