"""What validation measures, against definitions."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.flow.analysis_samples import unseen
from codesign.flow.analysis_validation import draw_assignments, kendall_tau
from codesign.flow.analyze_request import bytes_of
from codesign.flow.held_out import Meter
from codesign.ir.loading import load_program
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.progress import Silent
from codesign.training.dataset import Dataset
from codesign.training.evaluation import cross_entropy, sample_kl_divergence


def _tau_by_definition(a: list[int], b: list[int]) -> float | None:
    """tau-b = (concordant - discordant) / sqrt(pairs not tied in a * pairs not tied in b)."""
    pairs = [((a[i] > a[j]) - (a[i] < a[j]), (b[i] > b[j]) - (b[i] < b[j])) for i, j in combinations(range(len(a)), 2)]
    untied = [sum(1 for pair in pairs if pair[side]) for side in (0, 1)]
    if not all(untied):
        return None
    return sum(x * y for x, y in pairs) / float(np.sqrt(untied[0] * untied[1]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_kendalls_tau_is_that_of_the_definition(points: list[tuple[int, int]]) -> None:
    a, b = [x for x, _ in points], [y for _, y in points]
    expected = _tau_by_definition(a, b)
    found = kendall_tau([float(x) for x in a], [float(y) for y in b])
    assert found == (None if expected is None else pytest.approx(expected))


def test_assignments_are_seeded_and_tie_layers_of_one_weight() -> None:
    weight_of = {"a": "u", "b": "v", "c": "u"}
    drawn = draw_assignments(weight_of, (2, 3, 8), 300, seed=1)
    assert drawn == draw_assignments(weight_of, (2, 3, 8), 300, seed=1)
    assert drawn != draw_assignments(weight_of, (2, 3, 8), 300, seed=2)
    assert drawn[:10] == draw_assignments(weight_of, (2, 3, 8), 10, seed=1)
    assert all(bits["a"] == bits["c"] for bits in drawn)
    for layer in ("a", "b"):
        for width in (2, 3, 8):
            assert 70 < sum(bits[layer] == width for bits in drawn) < 130  # 100 are expected, sigma is 8
    assert any(bits["a"] != bits["b"] for bits in drawn)


def _dataset(values: list[int]) -> Dataset:
    images = np.array(values, np.uint8).reshape(-1, 1, 1) * np.ones((1, 2, 2), np.uint8)
    return Dataset.of(images, np.zeros(len(values), np.int64), "some.npz")


def test_images_that_the_analysis_sees_are_not_held_out() -> None:
    notes: list[str] = []
    kept = unseen(_dataset([5, 1, 6, 2, 7]), _dataset([1, 2, 3]), Silent(notes.append))
    assert kept.images[:, 0, 0].tolist() == [5, 6, 7]
    assert notes == ["2 held-out samples are among the analysed ones: left out"]
    with pytest.raises(InputError, match=r"some.npz has 1 held-out samples beside the 3 .* at least 2 are needed"):
        unseen(_dataset([5, 1, 2]), _dataset([1, 2, 3]), Silent())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GB", 4 * 10**9), ("512MiB", 2**29), ("2500.5 kB", 2_500_500), ("1048576", 2**20), ("1gib", 2**30)],
)
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "0", "1000kB", "4 G B", "nan", "1e9"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--memory-limit: got"):
        bytes_of(text)


def test_what_is_measured_of_one_layer_and_of_an_assignment(tiny: Path) -> None:
    program = load_program("net.py:tiny", "weights.safetensors", (1, 1, 8, 8), tiny)
    with np.load(tiny / "train.npz") as archive:
        images = np.ascontiguousarray(archive["images"].transpose(0, 3, 1, 2))
        data = CalibrationData(images, archive["labels"])
    context = PassContext(data)
    PassManager(parse_pipeline("observe-activations")).run(program, context)
    meter = Meter(program, data, context)
    single = meter.layers((2, 8), Silent())
    for (layer, bits), found in single.items():
        whole = meter.assignment({layer: bits})
        assert whole.kl == pytest.approx(found.kl, rel=1e-4, abs=1e-9)
        assert whole.loss == pytest.approx(found.loss, rel=1e-4, abs=1e-6)
    network = meter._network
    bits_of = dict.fromkeys(network.layers.nodes, 2)
    plain = network.graph.run(torch.from_numpy(images)).numpy()
    constants = {k: v for name in bits_of for k, v in network.constants(name, 2).items()}
    logits = network.graph.run(torch.from_numpy(images), constants).numpy()
    found = meter.assignment(bits_of)
    assert found.kl == pytest.approx(sample_kl_divergence(plain, logits), abs=1e-6)
    assert data.labels is not None
    increase = cross_entropy(logits, data.labels).mean - cross_entropy(plain, data.labels).mean
    assert found.loss.mean() == pytest.approx(increase, abs=1e-6)
