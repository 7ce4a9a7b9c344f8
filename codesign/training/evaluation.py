"""Accuracy, cross-entropy and KL divergence of logits, each with its standard error.

Logits are `[N, ..., K]`: one distribution over K classes per sample, or per position of each sample. Positions of one
sample are not independent, so they are averaged first: all standard errors are those of a mean over N samples,
s / sqrt(N) with the unbiased s.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.progress import Progress
from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing
from codesign.training.preprocessing import preprocess

Floats = NDArray[np.float32] | NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean over samples and its standard error, in the same unit."""

    mean: float
    standard_error: float


def accuracy(logits: Floats, labels: NDArray[np.int64]) -> Estimate:
    """Share of samples (of positions) whose largest logit is the label's.

    Args:
        logits: `[N, ..., K]`.
        labels: `[N, ...]`.

    Returns:
        A share from 0 to 1.
    """
    _check(logits, "logits")
    _check_labels(logits, labels)
    return _mean_over_samples((logits.argmax(axis=-1) == labels).astype(np.float64))


def cross_entropy(logits: Floats, labels: NDArray[np.int64]) -> Estimate:
    """Mean of -log p(label), in nats.

    Args:
        logits: `[N, ..., K]`.
        labels: `[N, ...]`.

    Returns:
        Nats.
    """
    _check(logits, "logits")
    _check_labels(logits, labels)
    chosen = np.take_along_axis(_log_softmax(logits), labels[..., np.newaxis], axis=-1)
    return _mean_over_samples(-chosen[..., 0])


def kl_divergence(reference_logits: Floats, logits: Floats) -> Estimate:
    """Mean of KL(p || q) over samples, in nats, with p from the reference.

    Args:
        reference_logits: `[N, ..., K]`.
        logits: `[N, ..., K]`, of the same samples.

    Returns:
        Nats; the mean is never negative.
    """
    return _mean_over_samples(sample_kl_divergence(reference_logits, logits))


def sample_kl_divergence(reference_logits: Floats, logits: Floats) -> NDArray[np.float64]:
    """KL(p || q) = sum_k p_k (log p_k - log q_k) of each sample, mean over its positions.

    Args:
        reference_logits: Of p, `[N, ..., K]`.
        logits: Of q, `[N, ..., K]`, of the same samples.

    Returns:
        Nats, `[N]`, never negative.

    Raises:
        InputError: The shapes differ, or a value is NaN or infinite.
    """
    if reference_logits.shape != logits.shape:
        raise InputError(
            f"KL divergence: reference logits have shape {reference_logits.shape} and logits {logits.shape}; "
            "give both for the same samples"
        )
    _check(reference_logits, "reference logits")
    _check(logits, "logits")
    reference = _log_softmax(reference_logits)
    terms = (np.exp(reference) * (reference - _log_softmax(logits))).sum(axis=-1)
    per_sample: NDArray[np.float64] = np.maximum(terms, 0.0).reshape(len(terms), -1).mean(axis=1)
    return per_sample  # the maximum takes off what is below 0 by rounding alone


def predict(
    network: Callable[[NDArray[np.float32]], Floats],
    dataset: Dataset,
    preprocessing: Preprocessing,
    progress: Progress,
    batch_size: int = 256,
) -> NDArray[np.float32]:
    """Logits of a whole data set, prepared and run batch by batch.

    Args:
        network: Takes prepared images `[B, ...]` and returns logits `[B, ..., K]`.
        dataset: What to run on.
        preprocessing: How it is prepared.
        progress: Told of every sample.
        batch_size: Largest B; the last batch may be smaller.

    Returns:
        `[N, ..., K]`.
    """
    batches = []
    progress.start("evaluating", len(dataset))
    try:
        for start in range(0, len(dataset), batch_size):
            images = preprocess(dataset.images[start : start + batch_size], preprocessing)
            batches.append(np.asarray(network(images), dtype=np.float32))
            progress.advance(len(images))
    finally:
        progress.finish()
    return np.concatenate(batches)


def _check(logits: Floats, what: str) -> None:
    if logits.ndim < 2 or len(logits) < 2:
        raise InputError(
            f"{what}: shape {logits.shape}; a mean with its standard error needs [N, ..., classes] with N of at least 2"
        )
    finite = np.isfinite(logits).reshape(len(logits), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{what}: sample {int(np.argmin(finite))} has NaN or infinity ({int((~finite).sum())} of {len(logits)} "
            "samples do); check the network's weights and its input"
        )


def _check_labels(logits: Floats, labels: NDArray[np.int64]) -> None:
    if labels.shape != logits.shape[:-1]:
        raise InputError(
            f"labels: shape {labels.shape}, but logits of shape {logits.shape} need {logits.shape[:-1]}; give one per "
            "distribution"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise InputError(
            f"labels: values from {labels.min()} to {labels.max()}, allowed are 0 to {logits.shape[-1] - 1}; "
            "correct the labels"
        )


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    log_probabilities: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return log_probabilities


def _mean_over_samples(values: NDArray[np.float64]) -> Estimate:
    per_sample = values.reshape(len(values), -1).mean(axis=1)
    return Estimate(float(per_sample.mean()), float(per_sample.std(ddof=1) / np.sqrt(len(per_sample))))
