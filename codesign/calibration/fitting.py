"""Fits seconds of terms, and a correction, to measured kernels.

For each class of kernels: the least sum of |ln((sum_k n_k c_k) / t)| over c >= 0, so that a fast kernel counts as much
as a slow one, an erratic one hardly counts, and no term can make another one cheaper. A Gaussian process of
ln(t / prediction) follows if it lowers the held-out error: kernels like those that were measured are corrected as these
would have been. Held out is by shape, five-fold: all widths of one shape are
in the same fold, and each kernel is predicted once by a fit that never saw its shape. What is shipped is fitted to all
of them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from codesign.calibration.gaussian_process import fit_process
from codesign.cost.calibrated import term_seconds
from codesign.cost.kernel_features import features_of
from codesign.cost.kernel_terms import arithmetic_of, class_of, terms_of
from codesign.cost.similar_kernels import SimilarKernels
from codesign.hardware.calibration import Arithmetic, KernelClass, KernelFit, Similarity, Term, VectorUnit
from codesign.hardware.profile import MemoryLevel
from codesign.plan.facts import NodeFacts
from codesign.progress import Progress, Silent
from codesign.quantization.scheme import Widths

SILENT = Silent()
FOLDS = 5
LEAST_TO_CORRECT = 40
"""Fewer kernels are not corrected: they say too little of one another."""
LARGEST_LOGARITHM = 0.7
"""What is off by more says nothing of its neighbours."""
LARGEST_ERROR = 0.3
"""An error above counts as this much when a correction is judged: erratic kernels shall not decide."""
LEAST_SPREAD, DIGITS = 1e-9, 3
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
    kernels: Sequence[MeasuredKernel],
    unit: VectorUnit,
    memories: tuple[MemoryLevel, ...],
    source: str,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[FittedClass, ...]:
    """Fits every class that has at least as many kernels as there are folds, of shapes in more than one fold.

    Args:
        kernels: What was measured.
        unit: Vectors that kernels were compiled for.
        memories: Caches, nearest first.
        source: Where the measurements come from.
        seed: Of the folds and the correction.
        progress: Told about long work; a step is a kernel.

    Returns:
        One fit for each class and arithmetic, in alphabetical order.
    """
    groups: dict[tuple[KernelClass, Arithmetic], list[MeasuredKernel]] = defaultdict(list)
    for kernel in kernels:
        kind = class_of(kernel.node)
        groups[kind, arithmetic_of(kind, kernel.bits, unit)].append(kernel)
    tables = {key: _Table.of(group, unit, memories) for key, group in sorted(groups.items()) if len(group) >= FOLDS}
    tables = {
        key: table for key, table in tables.items() if len(np.unique(table.folds)) > 1
    }  # else nothing is held out
    fits = []
    progress.start("Fitting", sum(len(table.kernels) for table in tables.values()))
    try:
        for key, table in tables.items():
            fits.append(_fit_class(key, table, source, seed))
            progress.advance(len(table.kernels))
    finally:
        progress.finish()
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
    errors, is_corrected = _held_out(table, is_corrected=False, seed=seed), False
    if len(table.kernels) >= LEAST_TO_CORRECT:
        corrected = _held_out(table, is_corrected=True, seed=seed)
        if _mean_size(corrected) < _mean_size(errors):
            errors, is_corrected = corrected, True
    seconds, correction = _fit(table, is_corrected, seed)
    fit = KernelFit(
        kind=key[0],
        arithmetic=key[1],
        terms=tuple(Term(name=name, seconds=float(s)) for name, s in zip(table.terms, seconds, strict=True)),
        correction=correction,
        samples=len(table.kernels),
        relative_error=float(np.quantile(np.abs(errors), 0.9)),
        within_10_percent=float(np.mean(np.abs(errors) <= TOLERANCE)),
        source=source,
    )
    return FittedClass(fit, table.kernels, errors)


def _mean_size(errors: Array) -> float:
    return float(np.mean(np.minimum(np.abs(errors), LARGEST_ERROR)))


def _held_out(table: _Table, is_corrected: bool, seed: int) -> Array:
    errors, folds = np.empty(len(table.kernels)), table.folds
    for fold in np.unique(folds):
        inside = folds == fold
        seconds, correction = _fit(table.rows(~inside), is_corrected, seed)
        held = table.rows(inside)
        factors = np.ones(len(held.kernels))
        if correction is not None:
            rows = (dict(zip(held.features, row, strict=True)) for row in held.values.tolist())
            similar = SimilarKernels.of(correction)
            factors = np.exp([similar.logarithm(row) for row in rows])
        errors[inside] = held.counts @ seconds * factors / held.seconds - 1
    return errors


def _fit(table: _Table, is_corrected: bool, seed: int) -> tuple[Array, Similarity | None]:
    seconds = non_negative_seconds(table.counts, table.seconds)
    if not is_corrected:
        return seconds, None
    predicted = np.maximum(table.counts @ seconds, 1e-12)
    return seconds, _similarity(table, np.log(table.seconds / predicted), seed)


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


def _similarity(table: _Table, logarithms: Array, seed: int) -> Similarity:
    """A Gaussian process of what is left."""
    spreads = table.values.std(axis=0)
    kept = spreads > LEAST_SPREAD
    names = tuple(name for name, keep in zip(table.features, kept, strict=True) if keep)
    means, spreads = table.values[:, kept].mean(axis=0), spreads[kept]
    values = (table.values[:, kept] - means) / spreads
    targets = np.clip(logarithms, -LARGEST_LOGARITHM, LARGEST_LOGARITHM)
    process = fit_process(values, targets, seed, DIGITS)
    points = np.round(values / process.lengths, DIGITS)  # short numbers in the profile
    return Similarity(
        features=names,
        means=tuple(float(value) for value in means),
        lengths=tuple(float(value) for value in spreads * process.lengths),
        points=tuple(tuple(float(value) for value in row) for row in points),
        weights=tuple(float(value) for value in process.weights),
        variance=process.variance,
    )


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
    total = sum(term_seconds(fit, kernel.counts(unit, memories), "fit").values())
    if fit.correction is None:
        return total
    terms = terms_of(kernel.node, kernel.bits, unit, memories)
    features = features_of(terms, kernel.node, kernel.bits, unit)
    return total * exp(SimilarKernels.of(fit.correction).logarithm(features))
