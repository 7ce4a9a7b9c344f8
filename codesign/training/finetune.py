"""Further training of one network at its widths."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codesign.files import digest_of
from codesign.progress import Progress
from codesign.quantization.straight_through import fake_quantize_weights
from codesign.training.dataset import Dataset
from codesign.training.epochs import Epochs, run_epochs, threads
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.trainer import check_runs, cross_entropy_step, training_key


def finetune(
    module: nn.Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    bits: Mapping[str, int],
    folder: Path,
    progress: Progress,
    seed: int,
) -> Path:
    """Trains a network with its weights quantised in every forward pass (`straight_through`).

    Checkpoints and resuming are as in `trainer.train`. What is trained and written are the weights before quantisation.

    Args:
        module: The network with the weights to start from; changed in place, and put in evaluation mode.
        dataset: What to train on, at the network's resolution.
        preprocessing: How it is prepared.
        options: How to train.
        bits: Widths by parameter name; other weights stay in floating point.
        folder: Holds `checkpoint.safetensors` and, at the end, `weights.safetensors`.
        progress: Told of every step.
        seed: Source of all randomness.

    Returns:
        Path of the weights: parameters and buffers of the module by name.
    """

    def run(images: Tensor) -> Tensor:
        weights = fake_quantize_weights(dict(module.named_parameters()), bits)
        logits: Tensor = functional_call(module, weights, (images,))
        return logits

    with torch.random.fork_rng(devices=[]), threads(options.threads):
        check_runs(module, run, dataset, preprocessing)
        description = digest_of(repr(module), dict(bits))
        key = training_key(module, description, dataset, preprocessing, options, seed)
        step = cross_entropy_step(run, options)
        weights = run_epochs(Epochs(module, step, dataset, preprocessing, options, folder, key, seed), progress)
    module.eval()
    return weights
