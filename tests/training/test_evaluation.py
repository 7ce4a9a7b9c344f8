"""Measures of logits against plain sums in float64, and against torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.progress import Silent
from codesign.training.dataset import Dataset
from codesign.training.evaluation import accuracy, cross_entropy, kl_divergence, predict
from codesign.training.options import Preprocessing

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(7, 4))
OTHER = LOGITS + 0.3 * GENERATOR.normal(size=(7, 4))
LABELS = np.array([0, 1, 2, 3, 0, 1, 2])


def _probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return result


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def test_kl_divergence_by_plain_sums() -> None:
    p, q = _probabilities(LOGITS), _probabilities(OTHER)
    per_sample = [sum(p[n, k] * math.log(p[n, k] / q[n, k]) for k in range(4)) for n in range(7)]
    assert kl_divergence(LOGITS, OTHER) == pytest.approx(_mean_and_error(per_sample), rel=1e-10)


def test_cross_entropy_by_plain_sums() -> None:
    p = _probabilities(LOGITS)
    per_sample = [-math.log(p[n, LABELS[n]]) for n in range(7)]
    assert cross_entropy(LOGITS, LABELS) == pytest.approx(_mean_and_error(per_sample), rel=1e-12)


def test_accuracy_by_hand() -> None:
    logits = np.eye(3)[[0, 1, 2, 2]]
    got = accuracy(logits, np.array([0, 1, 2, 0]))
    assert got == pytest.approx((0.75, 0.25))  # s^2 = (3 * 0.25^2 + 0.75^2) / 3, over 4


def test_positions_are_averaged_within_a_sample_first() -> None:
    logits, other = GENERATOR.normal(size=(5, 6, 3)), GENERATOR.normal(size=(5, 6, 3))
    labels = GENERATOR.integers(0, 3, size=(5, 6))
    per_sample = [
        torch.nn.functional.cross_entropy(torch.from_numpy(logits[n]), torch.from_numpy(labels[n])).item()
        for n in range(5)
    ]
    assert cross_entropy(logits, labels) == pytest.approx(_mean_and_error(per_sample))
    flat = kl_divergence(logits.reshape(30, 3), other.reshape(30, 3))
    assert kl_divergence(logits, other).mean == pytest.approx(flat.mean)
    shares = [float((logits[n].argmax(-1) == labels[n]).mean()) for n in range(5)]
    assert accuracy(logits, labels) == pytest.approx(_mean_and_error(shares))


@settings(max_examples=50, deadline=None)
@given(scale=st.floats(0, 100), shift=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
def test_kl_divergence_is_never_negative_and_blind_to_shifts(scale: float, shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = scale * generator.normal(size=(3, 5)), scale * generator.normal(size=(3, 5))
    value = kl_divergence(first, second).mean
    assert value >= 0
    assert kl_divergence(first, first + shift).mean == pytest.approx(0, abs=1e-9)
    assert kl_divergence(first + shift, second).mean == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_standard_error_covers_the_true_mean() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        correct = generator.random(200) < 0.8
        logits = np.where(np.arange(2) == (~correct)[:, None], 1.0, 0.0)
        got = accuracy(logits, np.zeros(200, dtype=np.int64))
        inside += abs(got.mean - 0.8) < 1.96 * got.standard_error
    assert 0.9 < inside / 300 < 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    broken = LOGITS.copy()
    broken[3, 1] = bad
    with pytest.raises(InputError, match=r"logits: sample 3 has NaN or infinity \(1 of 7"):
        accuracy(broken, LABELS)
    with pytest.raises(InputError, match=r"logits: sample 3 has NaN or infinity \(1 of 7"):
        kl_divergence(LOGITS, broken)


def test_shapes_and_labels_must_fit() -> None:
    with pytest.raises(InputError, match="give both for the same samples"):
        kl_divergence(LOGITS, OTHER[:6])
    with pytest.raises(InputError, match=r"labels: shape \(6,\)"):
        accuracy(LOGITS, LABELS[:6])
    with pytest.raises(InputError, match="values from 0 to 3, allowed are 0 to 2"):
        cross_entropy(LOGITS[:, :3], LABELS)
    with pytest.raises(InputError, match="N of at least 2"):
        accuracy(LOGITS[:1], LABELS[:1])


def test_prediction_runs_all_samples_in_order_and_prepares_them() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None]
    dataset = Dataset.of(images, np.zeros(10, dtype=int), "d")
    sizes = []

    def network(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(batch))
        return batch[:, 0, 0]

    logits = predict(network, dataset, Preprocessing(scale=2.0), Silent(), batch_size=4)
    assert logits[:, 0].tolist() == [2.0 * i for i in range(10)]
    assert sizes == [4, 4, 2]
