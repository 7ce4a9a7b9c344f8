"""Training at given widths."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from codesign.errors import InputError
from codesign.progress import Silent
from codesign.quantization.straight_through import fake_quantize_weights
from codesign.training.finetune import finetune
from codesign.training.loading import load_digits_dataset
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.preprocessing import preprocess

PREPROCESSING = Preprocessing(scale=1 / 16, mean=(0.3,), std=(0.4,))
DIGITS = load_digits_dataset().subset(np.arange(200))
OPTIONS = TrainingOptions(epochs=6, batch_size=20, learning_rate=0.05)
BITS = {"0.weight": 2, "4.weight": 2}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def _loss_at_two_bits(module: nn.Module) -> float:
    images = torch.from_numpy(preprocess(DIGITS.images, PREPROCESSING))
    weights = fake_quantize_weights(dict(module.named_parameters()), BITS)
    with torch.no_grad():
        logits = functional_call(module.eval(), weights, (images,))
    return float(nn.functional.cross_entropy(logits, torch.from_numpy(DIGITS.labels)))


def _finetuned(folder: Path, bits: dict[str, int]) -> nn.Module:
    module = _network()
    weights = finetune(module, DIGITS, PREPROCESSING, OPTIONS, bits, folder, Silent(), 1)
    written = load_file(weights)
    assert all(torch.equal(value, written[name]) for name, value in module.state_dict().items())
    assert not module.training
    return module


def test_training_at_its_widths_serves_these_widths(tmp_path: Path) -> None:
    narrow, wide = _finetuned(tmp_path / "narrow", BITS), _finetuned(tmp_path / "wide", {})
    assert _loss_at_two_bits(narrow) < 0.5 * _loss_at_two_bits(wide)


class _Stop(Silent):
    def advance(self, steps: int = 1) -> None:
        """Stops in the second epoch."""
        self.left = getattr(self, "left", 13) - steps
        if steps and self.left == 0:
            raise KeyboardInterrupt


def test_interrupted_finetuning_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = _finetuned(tmp_path / "whole", BITS)
    with pytest.raises(KeyboardInterrupt):
        finetune(_network(), DIGITS, PREPROCESSING, OPTIONS, BITS, tmp_path / "parts", _Stop(), 1)
    again = _finetuned(tmp_path / "parts", BITS)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_other_widths_are_another_training(tmp_path: Path) -> None:
    _finetuned(tmp_path, BITS)
    notes: list[str] = []
    finetune(_network(), DIGITS, PREPROCESSING, OPTIONS, {}, tmp_path, Silent(notes.append), 1)
    assert "another training" in notes[0]


def test_unknown_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no parameter '1\.wieght'"):
        finetune(_network(), DIGITS, PREPROCESSING, OPTIONS, {"1.wieght": 4}, tmp_path, Silent(), 1)
