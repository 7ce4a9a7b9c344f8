"""The loop that every training shares: epochs, checkpoints, and the same bits wherever it was interrupted."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from codesign.data_parallel import Shard
from codesign.errors import CodesignError, InputError
from codesign.progress import Progress
from codesign.training.batches import batches, steps_per_epoch
from codesign.training.checkpoint import restore_checkpoint, save_checkpoint, save_weights
from codesign.training.dataset import Dataset
from codesign.training.optimizers import learning_rate_at, optimizer_of
from codesign.training.options import Preprocessing, TrainingOptions

DIVERGED = 10.0
"""Training has diverged where the mean loss of an epoch exceeds this many times ln(classes), the loss of guessing."""


@dataclass(frozen=True)
class Place:
    """Where training is.

    Attributes:
        epoch: Epochs done.
        step: Steps of this epoch done.
    """

    epoch: int
    step: int


class StepLoss(NamedTuple):
    """What one step found.

    Attributes:
        nats: Mean loss over the batch; where several processes share it, this one's share of that mean.
        classes: Number of classes.
    """

    nats: float
    classes: int


Step = Callable[[torch.Tensor, torch.Tensor, Place], StepLoss]
"""Adds gradients of the loss of a batch (images, labels) to the parameters."""


@dataclass(frozen=True)
class Epochs:
    """What is trained, on what and how.

    Attributes:
        module: Its parameters are trained; parameters and buffers are its state.
        step: How gradients come about.
        dataset: What to train on.
        preprocessing: How it is prepared.
        options: How to train.
        folder: Holds `checkpoint.safetensors` and, at the end, `weights.safetensors`; all processes see the same one.
        key: Digest of all that decides the result.
        seed: Source of all randomness.
        shard: This process's part of each batch.
    """

    module: nn.Module
    step: Step
    dataset: Dataset
    preprocessing: Preprocessing
    options: TrainingOptions
    folder: Path
    key: str
    seed: int
    shard: Shard = field(default_factory=Shard)


def run_epochs(training: Epochs, progress: Progress) -> Path:
    """Trains and writes the weights.

    After each epoch `checkpoint.safetensors` is replaced. A repeated call goes on from there, and ends with the same
    bits as a call that was never interrupted: order and augmentation of an epoch, and torch's random numbers in it,
    follow from seed and epoch alone.

    Args:
        training: What to do.
        progress: Told of every step.

    Returns:
        Path of the weights: parameters and buffers of the module by name.
    """
    module, options, seed = training.module, training.options, training.seed
    optimizer = optimizer_of(module, options)
    checkpoint = training.folder / "checkpoint.safetensors"
    done = restore_checkpoint(module, optimizer, training.key, checkpoint, progress)
    _check_same(done, training)
    steps = steps_per_epoch(training.dataset, options)
    progress.start("training", options.epochs * steps)
    progress.advance(done * steps)
    try:
        for epoch in range(done, options.epochs):
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
            _run_epoch(training, optimizer, epoch, steps, progress)
            if training.shard.rank == 0:
                save_checkpoint(module, optimizer, epoch + 1, training.key, checkpoint)
            done = epoch + 1
    except KeyboardInterrupt:
        progress.note(f"training stopped after {done} of {options.epochs} epochs; the same command goes on from there")
        raise
    finally:
        progress.finish()
    weights = training.folder / "weights.safetensors"
    if training.shard.rank == 0:
        save_weights(module, weights)
    training.shard.sum(torch.zeros(1))  # nobody returns before the file is there
    return weights


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """Runs a block with some number of torch's threads.

    Args:
        wanted: None for as many as before.

    Yields:
        Nothing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_same(done: int, training: Epochs) -> None:
    shard = training.shard
    if shard.parts > 1 and int(shard.sum(torch.tensor([float(done)]))) != done * shard.parts:
        raise InputError(
            f"{training.folder}: process {shard.rank} found a checkpoint of {done} epochs and others did not; give all "
            "processes the same folder, on a file system that they share"
        )


def _run_epoch(training: Epochs, optimizer: torch.optim.Optimizer, epoch: int, steps: int, progress: Progress) -> None:
    module, options = training.module, training.options
    module.train()
    device = next(module.parameters()).device
    losses: list[float] = []
    classes = 2
    generator = np.random.default_rng([training.seed, epoch])
    for index, batch in enumerate(batches(training.dataset, training.preprocessing, options, generator)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch + (index + 0.5) / steps, options)
        optimizer.zero_grad()
        mine = training.shard.bounds(len(batch[0]))
        images, labels = (part[mine].to(device, non_blocking=True) for part in batch)
        found = training.step(images, labels, Place(epoch, index))
        classes = found.classes
        losses.append(float(training.shard.sum(torch.tensor([found.nats], dtype=torch.float64))))
        if not math.isfinite(losses[-1]):
            raise _divergence(f"the loss became {losses[-1]} at step {index + 1}", epoch, options)
        _sum_gradients(module, training.shard)
        optimizer.step()
        progress.advance()
    mean = sum(losses) / len(losses)
    if mean > DIVERGED * math.log(classes):
        raise _divergence(f"the mean loss is {mean:.3g} nats, and guessing has {math.log(classes):.3g}", epoch, options)
    for name, tensor in module.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise _divergence(f"{name} holds NaN or infinity", epoch, options)


def _sum_gradients(module: nn.Module, shard: Shard) -> None:
    """Each process has the gradient of its share of the mean loss; all have the same parameters in use."""
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    if shard.parts > 1:
        for name, total in shard.sum_all(gradients).items():
            gradients[name].copy_(total)


def _divergence(what: str, epoch: int, options: TrainingOptions) -> CodesignError:
    return CodesignError(
        f"training diverged: {what} of epoch {epoch + 1} of {options.epochs}, with learning_rate = "
        f"{options.learning_rate:g}; lower learning_rate, for example to {options.learning_rate / 10:g}"
    )
