"""Fits seconds of terms, and a correction, to measured kernels.

For each class of kernels: the least sum of |ln((sum_k n_k c_k) / t)| over c >= 0, so that a fast kernel counts as much
as a slow one, an erratic one hardly counts, and no term can make another one cheaper. Gradient-boosted trees on
ln(t / prediction) follow if they lower the held-out error. Held out is by shape, five-fold: all widths of one shape are
in the same fold, and each kernel is predicted once by a fit that never saw its shape. What is shipped is fitted to all
of them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from codesign.cost.calibrated import correction, term_seconds
from codesign.cost.kernel_terms import arithmetic_of, class_of, features_of, terms_of
from codesign.hardware.calibration import Arithmetic, KernelClass, KernelFit, Term, Tree, VectorUnit
from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths

FOLDS = 5
TREES, DEPTH, LEARNING_RATE, LEAST_IN_LEAF = 150, 3, 0.08, 4
LEAST_FOR_TREES = 40
"""Fewer kernels are not corrected: the trees would learn them by heart."""
TOLERANCE = 0.1
ROUNDS = 12
RIDGE = 1e-5
"""Weight of the squares of the terms' usual shares in a prediction, against the squares of its errors: a term that few
kernels have is not blown up to explain these."""
LARGEST_FACTOR, SMALLEST_ERROR = 3.0, 0.01
"""Of a prediction against a measurement, when rows are weighted anew."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredKernel:
    """A kernel and how long it takes.

    Attributes:
        node: What it computes.
        merged: Further nodes that it computes on the way out.
        bits: Widths.
        seconds: Of one call.
    """

    node: NodeFacts
    merged: tuple[NodeFacts, ...]
    bits: Widths
    seconds: float

    @cached_property
    def shape_key(self) -> str:
        """Names the shape, whatever the widths."""
        node = self.node
        parts = (node.op_type, node.input_elements, node.output_elements, node.geometry, node.window, len(self.merged))
        return repr(parts)

    def counts(self, unit: VectorUnit, memories: tuple[MemoryLevel, ...]) -> Mapping[str, float]:
        """Terms of all its nodes together.

        Args:
            unit: Vectors that kernels were compiled for.
            memories: Caches, nearest first.

        Returns:
            Counts by name.
        """
        total: dict[str, float] = defaultdict(float)
        for node in (self.node, *self.merged):
            for name, count in terms_of(node, self.bits, unit, memories).items():
                total[name] += count
        return {name: count for name, count in total.items() if count}


@dataclass(frozen=True)
class FittedClass:
    """A fit and how well it predicts kernels that it did not see.

    Attributes:
        fit: Fitted to all kernels.
        kernels: The kernels.
        held_out_errors: Relative error of each, predicted by a fit without its shape, `predicted / measured - 1`.
    """

    fit: KernelFit
    kernels: tuple[MeasuredKernel, ...]
    held_out_errors: Array


def fit_classes(
    kernels: Sequence[MeasuredKernel], unit: VectorUnit, memories: tuple[MemoryLevel, ...], source: str, seed: int
) -> tuple[FittedClass, ...]:
    """Fits every class that has at least as many kernels as there are folds.

    Args:
        kernels: What was measured.
        unit: Vectors that kernels were compiled for.
        memories: Caches, nearest first.
        source: Where the measurements come from.
        seed: Of the folds and the trees.

    Returns:
        One fit for each class and arithmetic, in alphabetical order.
    """
    groups: dict[tuple[KernelClass, Arithmetic], list[MeasuredKernel]] = defaultdict(list)
    for kernel in kernels:
        groups[class_of(kernel.node), arithmetic_of(kernel.bits)].append(kernel)
    fits = [
        _fit_class(key, _Table.of(group, unit, memories), source, seed)
        for key, group in sorted(groups.items())
        if len(group) >= FOLDS
    ]
    return tuple(_with_unpacking(fitted, fits) for fitted in fits)


def _with_unpacking(fitted: FittedClass, fits: Sequence[FittedClass]) -> FittedClass:
    """Dense layers unpack weights as convolutions do; a width that was measured in these alone is taken from them."""
    convolutions = [other for other in fits if (other.fit.kind, other.fit.arithmetic) == ("convolution", "int8")]
    if (fitted.fit.kind, fitted.fit.arithmetic) != ("dense", "int8") or not convolutions:
        return fitted
    have = {term.name for term in fitted.fit.terms}
    missing = [t for t in convolutions[0].fit.terms if t.name.startswith("unpack_") and t.name not in have]
    return replace(fitted, fit=fitted.fit.model_copy(update={"terms": (*fitted.fit.terms, *missing)}))


@dataclass(frozen=True)
class _Table:
    """Kernels as matrices.

    Attributes:
        kernels: The kernels, `[n]`.
        terms: Names, `[k]`.
        counts: `[n, k]`.
        features: Names, `[f]`.
        values: `[n, f]`.
        seconds: `[n]`.
    """

    kernels: tuple[MeasuredKernel, ...]
    terms: tuple[str, ...]
    counts: Array
    features: tuple[str, ...]
    values: Array
    seconds: Array

    @classmethod
    def of(cls, kernels: Sequence[MeasuredKernel], unit: VectorUnit, memories: tuple[MemoryLevel, ...]) -> "_Table":
        own = [terms_of(k.node, k.bits, unit, memories) for k in kernels]
        counts = [kernel.counts(unit, memories) for kernel in kernels]
        values = [features_of(terms, k.node, k.bits, unit) for terms, k in zip(own, kernels, strict=True)]
        terms, features = (tuple(sorted({name for row in rows for name in row})) for rows in (counts, values))
        return cls(
            tuple(kernels),
            terms,
            np.asarray([[row.get(name, 0.0) for name in terms] for row in counts]),
            features,
            np.asarray([[row.get(name, 0.0) for name in features] for row in values]),
            np.asarray([kernel.seconds for kernel in kernels]),
        )

    def rows(self, chosen: NDArray[np.bool_]) -> "_Table":
        kept = tuple(kernel for kernel, take in zip(self.kernels, chosen, strict=True) if take)
        return _Table(kept, self.terms, self.counts[chosen], self.features, self.values[chosen], self.seconds[chosen])

    @property
    def folds(self) -> NDArray[np.intp]:
        digests = [hashlib.sha256(kernel.shape_key.encode()).digest() for kernel in self.kernels]
        return np.asarray([int.from_bytes(digest[:4], "big") % FOLDS for digest in digests])


def _fit_class(key: tuple[KernelClass, Arithmetic], table: _Table, source: str, seed: int) -> FittedClass:
    plain = _held_out(table, with_trees=False, seed=seed)
    errors, with_trees = plain, False
    if len(table.kernels) >= LEAST_FOR_TREES:
        corrected = _held_out(table, with_trees=True, seed=seed)
        if np.mean(np.abs(corrected)) < np.mean(np.abs(plain)):
            errors, with_trees = corrected, True
    seconds, trees = _fit(table, with_trees, seed)
    fit = KernelFit(
        kind=key[0],
        arithmetic=key[1],
        terms=tuple(Term(name=name, seconds=float(s)) for name, s in zip(table.terms, seconds, strict=True)),
        features=table.features if trees else (),
        correction=trees,
        samples=len(table.kernels),
        relative_error=float(np.quantile(np.abs(errors), 0.9)),
        within_10_percent=float(np.mean(np.abs(errors) <= TOLERANCE)),
        source=source,
    )
    return FittedClass(fit, table.kernels, errors)


def _held_out(table: _Table, with_trees: bool, seed: int) -> Array:
    errors, folds = np.empty(len(table.kernels)), table.folds
    for fold in np.unique(folds):
        inside = folds == fold
        if inside.all():
            errors[inside] = np.inf  # a single shape: nothing is left to learn from
            continue
        seconds, trees = _fit(table.rows(~inside), with_trees, seed)
        held = table.rows(inside)
        errors[inside] = held.counts @ seconds * np.exp(_corrections(trees, held.values)) / held.seconds - 1
    return errors


def _fit(table: _Table, with_trees: bool, seed: int) -> tuple[Array, tuple[Tree, ...]]:
    seconds = non_negative_seconds(table.counts, table.seconds)
    if not with_trees:
        return seconds, ()
    predicted = np.maximum(table.counts @ seconds, 1e-12)
    return seconds, _boosted_trees(table.values, np.log(table.seconds / predicted), seed)


def non_negative_seconds(counts: Array, seconds: Array) -> Array:
    """Seconds of each term, none negative, with the least sum of |ln(prediction / measured)|.

    Least squares weighted anew in each of `ROUNDS` rounds: residuals relative to the last prediction make them
    logarithms near the solution, and dividing by their size makes squares absolute values, so that the erratic kernels
    that every compiler makes now and then do not bend the fit of all others.

    Args:
        counts: Counts of terms, `[n, k]`.
        seconds: Measured, `[n]`.

    Returns:
        Seconds of one of each, `[k]`.
    """
    base, weight = seconds, np.ones(len(seconds))
    best, least = np.zeros(counts.shape[1]), np.inf
    for _ in range(ROUNDS):
        rows = counts * (weight / base)[:, None]
        norm = np.maximum(np.sqrt(np.mean(rows**2, axis=0) / np.mean(weight**2)), 1e-300)  # they span many magnitudes
        shrinking = np.sqrt(RIDGE * np.sum(weight**2)) * np.eye(counts.shape[1])
        wanted = np.concatenate([weight * seconds / base, np.zeros(counts.shape[1])])
        scaled, _ = nnls(np.concatenate([rows / norm, shrinking]), wanted)
        solution = np.asarray(scaled / norm)
        base = np.clip(counts @ solution, seconds / LARGEST_FACTOR, seconds * LARGEST_FACTOR)
        off = np.abs(np.log(base / seconds))
        if off.sum() < least:
            best, least = solution, float(off.sum())
        weight = 1 / np.sqrt(np.maximum(off, SMALLEST_ERROR))
    return best


def _boosted_trees(values: Array, logarithms: Array, seed: int) -> tuple[Tree, ...]:
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(
        n_estimators=TREES, max_depth=DEPTH, learning_rate=LEARNING_RATE, min_samples_leaf=LEAST_IN_LEAF,
        subsample=0.6, max_features=0.5, loss="huber", init="zero", random_state=seed,
    )  # fmt: skip
    model.fit(values, logarithms)
    return tuple(_as_plain_numbers(row[0].tree_) for row in model.estimators_)


def _as_plain_numbers(tree: "object") -> Tree:
    """A tree of scikit-learn's as tuples."""
    feature, threshold = getattr(tree, "feature"), getattr(tree, "threshold")  # noqa: B009  # scikit-learn has no types
    left, right = getattr(tree, "children_left"), getattr(tree, "children_right")  # noqa: B009
    value = getattr(tree, "value")  # noqa: B009
    leaf = left < 0
    return Tree(
        feature=tuple(int(f) for f in np.where(leaf, -1, feature)),
        threshold=tuple(float(t) for t in np.where(leaf, 0.0, threshold)),
        left=tuple(int(child) for child in left),
        right=tuple(int(child) for child in right),
        value=tuple(float(v) for v in np.where(leaf, LEARNING_RATE * value[:, 0, 0], 0.0)),
    )


def _corrections(trees: tuple[Tree, ...], values: Array) -> Array:
    """Sum of the trees for each row, `[n]`."""
    total = np.zeros(len(values))
    for tree in trees:
        node = np.zeros(len(values), np.intp)
        feature, threshold = np.asarray(tree.feature), np.asarray(tree.threshold)
        left, right = np.asarray(tree.left), np.asarray(tree.right)
        for _ in range(DEPTH):
            inside = feature[node] >= 0
            goes_left = values[np.arange(len(values)), feature[node]] <= threshold[node]
            node = np.where(inside, np.where(goes_left, left[node], right[node]), node)
        total += np.asarray(tree.value)[node]
    return total


def predicted_seconds(
    fit: KernelFit, kernel: MeasuredKernel, unit: VectorUnit, memories: tuple[MemoryLevel, ...]
) -> float:
    """What a fit says of a kernel, merged nodes included.

    Args:
        fit: The fit of its class.
        kernel: The kernel.
        unit: Vectors that kernels were compiled for.
        memories: Caches, nearest first.

    Returns:
        Seconds.
    """
    terms = terms_of(kernel.node, kernel.bits, unit, memories)
    total = sum(term_seconds(fit, kernel.counts(unit, memories), "fit").values())
    return total * float(np.exp(correction(fit, features_of(terms, kernel.node, kernel.bits, unit))))
