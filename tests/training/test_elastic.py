"""Training shared weights: the same bits whatever interrupts it, the same result with two processes, and it learns."""

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from codesign.architecture.resnet_space import ResNetChoices, ResNetSpace
from codesign.architecture.shared_weight import SharedWeight, same_names
from codesign.architecture.space import Axis, StagePicture, Variant, largest, smallest, variants
from codesign.architecture.supernet import Supernet
from codesign.errors import CodesignError, InputError
from codesign.progress import Silent
from codesign.quantization.straight_through import fake_quantize_weights
from codesign.training.dataset import Dataset
from codesign.training.elastic import calibrated_network, load_supernet, train_elastic
from codesign.training.loading import load_digits_dataset
from codesign.training.options import ElasticOptions, Preprocessing
from codesign.training.preprocessing import preprocess
from codesign.training.resolution import at_resolution

PREPROCESSING = Preprocessing(scale=1 / 16, mean=(0.3,), std=(0.4,))
SPACE = ResNetSpace(
    ResNetChoices(((1, 2), (1,), (1,)), ((4, 8), (8,), (8, 16)), (6, 8), stem_channels=4, image_channels=1)
)
OPTIONS = ElasticOptions(epochs=3, batch_size=40, learning_rate=0.05, weight_bits=(2, 4, 32), threads=1)
STEPS_PER_EPOCH = 3


def digits(count: int) -> Dataset:
    """The first digits."""
    return load_digits_dataset().subset(np.arange(count))


def _train(folder: Path, options: ElasticOptions = OPTIONS, progress: Silent | None = None, count: int = 120) -> Path:
    return train_elastic(SPACE, digits(count), PREPROCESSING, options, folder, progress or Silent(), 5)


class _StopAt(Silent):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def advance(self, steps: int = 1) -> None:
        """Stops at a step."""
        self.left -= steps
        if steps and self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("step", [2, 2 * STEPS_PER_EPOCH + 1])
def test_interrupted_training_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    whole = _train(tmp_path / "whole").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "parts", progress=_StopAt(step))
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert _train(tmp_path / "parts").read_bytes() == whole


def _one_of_two(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    _train(folder)
    torch.distributed.destroy_process_group()


def test_two_processes_train_the_same_weights_as_one(tmp_path: Path) -> None:
    """Over few steps, so that rounding has no time to grow."""
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    one, two = load_file(_train(tmp_path / "one")), load_file(tmp_path / "weights.safetensors")
    start = load_file(_train(tmp_path / "start", OPTIONS.model_copy(update={"learning_rate": 1e-9})))
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert apart < 2e-3 * moved


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after enough epochs to be of use."""
    options = OPTIONS.model_copy(update={"epochs": 8, "learning_rate": 0.1})
    return _train(tmp_path_factory.mktemp("trained"), options, count=600)


def _accuracy(supernet: Supernet, variant: Variant, bits: int | None) -> float:
    data = digits(900)
    images = torch.from_numpy(preprocess(data.images, PREPROCESSING))
    fitting = at_resolution(images[600:], SPACE.input_shape(variant))
    names = [name for name, parameter in SPACE.network(variant).named_parameters() if parameter.ndim > 1]
    widths = dict.fromkeys(names, bits) if bits else {}
    network = calibrated_network(supernet, variant, images[:600], widths)
    with torch.no_grad():
        logits = functional_call(network, fake_quantize_weights(dict(network.named_parameters()), widths), fitting)
    return float((logits.argmax(1) == torch.from_numpy(data.labels[600:])).float().mean())


def test_every_variant_has_learned_at_every_width(trained: Path) -> None:
    supernet = load_supernet(SPACE, trained)
    accuracies = {bits: [_accuracy(supernet, variant, bits) for variant in variants(SPACE)] for bits in (None, 4, 2)}
    assert min(accuracies[None]) > 0.6  # guessing has 0.1
    assert min(accuracies[4]) > 0.6
    assert min(accuracies[2]) > 0.4


def test_weights_load_for_their_own_space_only(trained: Path, tmp_path: Path) -> None:
    other = ResNetSpace(ResNetChoices(((1, 3), (1,), (1,)), ((4,), (8,), (8,)), (8,), stem_channels=4))
    with pytest.raises(InputError, match="holds no weights of space 'resnet'"):
        load_supernet(other, trained)
    with pytest.raises(InputError, match="holds no weights"):
        load_supernet(SPACE, tmp_path / "missing.safetensors")


def test_bfloat16_learns_too(tmp_path: Path) -> None:
    weights = load_file(_train(tmp_path / "narrow", OPTIONS.model_copy(update={"precision": "bfloat16"})))
    wide = load_file(_train(tmp_path / "wide"))
    assert all(value.dtype == torch.float32 for value in weights.values())
    change = max(float((value - wide[name]).abs().max()) for name, value in weights.items())
    assert 0 < change < 0.5


def test_options_decide_what_is_trained(tmp_path: Path) -> None:
    same = _train(tmp_path / "a").read_bytes()
    changes: tuple[dict[str, object], ...] = ({"distillation": False}, {"random_variants": 1}, {"weight_bits": ()})
    for number, change in enumerate(changes):
        assert _train(tmp_path / str(number), OPTIONS.model_copy(update=change)).read_bytes() != same


def test_divergence_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(CodesignError, match=r"training diverged: .* of epoch 1 of 3, .*lower learning_rate"):
        _train(tmp_path, OPTIONS.model_copy(update={"learning_rate": 1e20}))
    assert list(tmp_path.iterdir()) == []


class _BrokenSmall(ResNetSpace):
    """Its smallest variant returns NaN."""

    def network(self, variant: Variant) -> nn.Module:  # type: ignore[override]  # any module will do
        """A network with a flaw."""
        network = super().network(variant)
        if variant == smallest(self):
            network.linear.register_forward_hook(lambda _module, _inputs, output: output * math.nan)
        return network


def test_nan_in_any_variant_is_an_error(tmp_path: Path) -> None:
    space = _BrokenSmall(ResNetChoices(((1, 2), (1,), (1,)), ((4,), (8,), (8,)), (8,), 4, image_channels=1))
    with pytest.raises(CodesignError, match="training diverged: the loss became nan at step 1"):
        train_elastic(space, digits(80), PREPROCESSING, OPTIONS, tmp_path, Silent(), 0)


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    space = ResNetSpace(ResNetChoices(((1, 2), (1,), (1,)), ((4,), (8,), (8,)), (8,), 4, image_channels=3))
    with pytest.raises(InputError, match="does not take images of shape"):
        train_elastic(space, digits(80), PREPROCESSING, OPTIONS, tmp_path, Silent(), 0)
    few = ResNetSpace(ResNetChoices(((1, 2), (1,), (1,)), ((4,), (8,), (8,)), (8,), 4, classes=5, image_channels=1))
    with pytest.raises(InputError, match="has label 5, allowed are 0 to 4"):
        train_elastic(few, digits(80), PREPROCESSING, OPTIONS, tmp_path, Silent(), 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device = 'cuda': torch finds no GPU"):
        _train(tmp_path, OPTIONS.model_copy(update={"device": "cuda"}))


class _Positions:
    """Networks that classify every position of a sequence."""

    name = "positions"
    axes = (Axis("width", (4, 8)),)

    def network(self, variant: Variant) -> nn.Module:
        """A perceptron."""
        width = int(variant.values["width"])
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """Five positions."""
        return (1, 5, 3)

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """Leading neurons."""
        return same_names(self.network(variant))

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """One part."""
        return (StagePicture("hidden", int(variant.values["width"]), 1, 1),)


def test_labels_per_position_are_learned(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(64, 5, 3)).astype(np.float32)
    dataset = Dataset.of(features, (features[..., 0] > 0).astype(np.int64), "tokens")
    options = ElasticOptions(epochs=20, batch_size=16, learning_rate=0.2)
    as_it_is = Preprocessing(layout="NCHW")
    supernet = load_supernet(
        _Positions(), train_elastic(_Positions(), dataset, as_it_is, options, tmp_path, Silent(), 0)
    )
    for variant in (largest(_Positions()), smallest(_Positions())):
        predicted: Tensor = supernet.extract(variant)(torch.from_numpy(features)).argmax(-1)
        assert float((predicted == torch.from_numpy(dataset.labels)).float().mean()) > 0.95


if __name__ == "__main__":
    _one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
