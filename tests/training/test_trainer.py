"""Training: the same bits whatever interrupts it, it learns, and it says when it diverges."""

import itertools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from codesign.errors import CodesignError, InputError
from codesign.progress import Silent
from codesign.training.dataset import Dataset
from codesign.training.evaluation import accuracy, cross_entropy, predict
from codesign.training.loading import load_digits_dataset
from codesign.training.optimizers import learning_rate_at
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.splits import split_calibration_search_test
from codesign.training.trainer import train

PREPROCESSING = Preprocessing(scale=1 / 16, mean=(0.3,), std=(0.4,))
SGD = TrainingOptions(epochs=4, batch_size=16, learning_rate=0.05, crop_padding=1)
ADAMW = TrainingOptions(epochs=4, batch_size=16, learning_rate=0.01, optimizer="adamw", horizontal_flip=True)
STEPS_PER_EPOCH = 6  # 100 digits in batches of 16


def tiny_network() -> nn.Module:
    """A network with BatchNorm and dropout, both of which depend on more than the weights."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
    )


def digits(count: int) -> Dataset:
    """The first digits."""
    return load_digits_dataset().subset(np.arange(count))


class StopAt(Silent):
    """Does something at one step of training."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        super().__init__()
        self.left, self.action = step, action

    def advance(self, steps: int = 1) -> None:
        """Counts steps.

        Args:
            steps: How many.
        """
        self.left -= steps
        if steps and self.left == 0:
            self.action()


class Recorder(Silent):
    """Remembers every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def advance(self, steps: int = 1) -> None:
        """Remembers.

        Args:
            steps: How many.
        """
        self.steps.append(steps)


def _train(folder: Path, options: TrainingOptions = SGD, progress: Silent | None = None, seed: int = 5) -> Path:
    return train(tiny_network, digits(100), PREPROCESSING, options, folder, progress or Silent(), seed)


def _interrupt() -> None:
    raise KeyboardInterrupt


def kill_this_process() -> None:
    """Leaves no time for anything, as when the power fails."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("options", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("step", [2, STEPS_PER_EPOCH + 1, 3 * STEPS_PER_EPOCH])
def test_interrupted_training_ends_with_the_same_bits(tmp_path: Path, options: TrainingOptions, step: int) -> None:
    whole = _train(tmp_path / "whole", options).read_bytes()
    progress = StopAt(step, _interrupt)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", options, progress)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    recorder = Recorder()
    assert _train(tmp_path / "parts", options, recorder).read_bytes() == whole
    done_before = (step - 1) // STEPS_PER_EPOCH * STEPS_PER_EPOCH
    assert recorder.steps == [done_before] + [1] * (4 * STEPS_PER_EPOCH - done_before)


def test_killed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole").read_bytes()
    script = (
        "import importlib.util, pathlib, sys, torch\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "spec = importlib.util.spec_from_file_location('trainer_test', sys.argv[1])\n"
        "test = importlib.util.module_from_spec(spec); spec.loader.exec_module(test)\n"
        f"stop = test.StopAt({2 * STEPS_PER_EPOCH + 2}, test.kill_this_process)\n"
        "test._train(pathlib.Path(sys.argv[2]), progress=stop)\n"
    )
    command = [sys.executable, "-c", script, __file__, str(tmp_path / "parts"), str(torch.get_num_threads())]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"checkpoint.safetensors"}
    assert _train(tmp_path / "parts").read_bytes() == whole


def test_the_seed_decides_and_other_randomness_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = _train(tmp_path / "a", seed=1).read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert _train(tmp_path / "b", seed=1).read_bytes() == first
    assert _train(tmp_path / "c", seed=2).read_bytes() != first


def test_checkpoint_of_another_training_is_not_gone_on_from(tmp_path: Path) -> None:
    _train(tmp_path / "parts")
    notes: list[str] = []
    changed = SGD.model_copy(update={"learning_rate": 0.02})
    again = _train(tmp_path / "parts", changed, Silent(notes.append)).read_bytes()
    assert again == _train(tmp_path / "whole", changed).read_bytes()
    assert len(notes) == 1
    assert "another training" in notes[0]


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_damaged_checkpoint_is_noticed_and_training_starts_anew(tmp_path: Path, keep: int) -> None:
    whole = _train(tmp_path / "parts").read_bytes()
    checkpoint = tmp_path / "parts" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    notes: list[str] = []
    assert _train(tmp_path / "parts", progress=Silent(notes.append)).read_bytes() == whole
    assert "damaged checkpoint" in notes[0]


def test_training_learns_digits(tmp_path: Path) -> None:
    splits = split_calibration_search_test(load_digits_dataset(), None, calibration_samples=1, search_samples=1, seed=0)
    weights = train(tiny_network, splits.training, PREPROCESSING, SGD, tmp_path, Silent(), 0)
    module = tiny_network()
    module.load_state_dict(load_file(weights), strict=True)
    module.eval()
    with torch.no_grad():
        logits = predict(lambda x: module(torch.from_numpy(x)).numpy(), splits.test, PREPROCESSING, Silent())
    assert accuracy(logits, splits.test.labels).mean > 0.9
    assert cross_entropy(logits, splits.test.labels).mean < 0.4


def test_per_position_labels_are_learned(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(64, 5, 3)).astype(np.float32)
    labels = (features[..., 0] > 0).astype(np.int64)
    options = TrainingOptions(epochs=20, batch_size=16, learning_rate=0.5)
    dataset = Dataset.of(features, labels, "tokens")
    as_it_is = Preprocessing(layout="NCHW")
    weights = load_file(train(lambda: nn.Linear(3, 2), dataset, as_it_is, options, tmp_path, Silent(), 0))
    logits = features @ weights["weight"].numpy().T + weights["bias"].numpy()
    assert accuracy(logits, labels).mean > 0.97


def test_divergence_is_an_error_with_a_cure(tmp_path: Path) -> None:
    wild = TrainingOptions(epochs=3, batch_size=16, learning_rate=1e6)
    factory = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))  # noqa: E731
    with pytest.raises(CodesignError, match=r"training diverged: .* of epoch 1 of 3, .*lower learning_rate"):
        train(factory, digits(100), PREPROCESSING, wild, tmp_path, Silent(), 0)
    assert list(tmp_path.iterdir()) == []


class _Broken(nn.Module):
    """Its buffer becomes NaN although the loss stays finite."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.register_buffer("average", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fills the buffer with NaN.

        Args:
            x: `[N, 1, 8, 8]`.

        Returns:
            Logits, `[N, 10]`.
        """
        self.average = torch.full((1,), math.nan)
        logits: torch.Tensor = self.linear(x.flatten(1))
        return logits


def test_nan_in_the_state_is_never_saved(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match="average holds NaN"):
        train(_Broken, digits(100), PREPROCESSING, SGD, tmp_path, Silent(), 0)
    assert list(tmp_path.iterdir()) == []


def test_data_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not take images of shape"):
        train(lambda: nn.Linear(3, 2), digits(20), PREPROCESSING, SGD, tmp_path, Silent(), 0)
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(InputError, match="sample 5 has label 5, allowed are 0 to 4"):
        train(lambda: few, digits(20), PREPROCESSING, SGD, tmp_path, Silent(), 0)


def test_schedule_warms_up_and_falls_to_zero() -> None:
    options = TrainingOptions(epochs=10, learning_rate=0.2, warmup_epochs=2.0)
    rates = [learning_rate_at(epoch, options) for epoch in np.linspace(0, 10, 101)]
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.2)
    assert rates[60] == pytest.approx(0.1)  # half way down the cosine
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))


def test_one_step_is_nesterov_momentum_with_decay_of_weights_only(tmp_path: Path) -> None:
    """By hand: v = g + decay * w; w -= rate * (g + decay * w + momentum * v), and for biases without decay."""
    images = np.array([[1.0, 2.0], [3.0, -1.0]], dtype=np.float32)
    start = nn.Linear(2, 2)
    options = TrainingOptions(epochs=1, batch_size=2, learning_rate=0.1, weight_decay=0.5)
    dataset = Dataset.of(images, [0, 1], "two")

    def factory() -> nn.Module:
        module = nn.Linear(2, 2)
        module.load_state_dict(start.state_dict())
        return module

    trained = load_file(train(factory, dataset, Preprocessing(layout="NCHW"), options, tmp_path, Silent(), 0))
    loss = nn.functional.cross_entropy(start(torch.from_numpy(images)), torch.tensor([0, 1]))
    weight_gradient, bias_gradient = torch.autograd.grad(loss, [start.weight, start.bias])
    rate = learning_rate_at(0.5, options)
    decayed = weight_gradient + 0.5 * start.weight
    torch.testing.assert_close(trained["weight"], start.weight - rate * (decayed + 0.9 * decayed))
    torch.testing.assert_close(trained["bias"], start.bias - rate * (bias_gradient + 0.9 * bias_gradient))
