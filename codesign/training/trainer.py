"""Training that is the same from run to run and goes on where it was interrupted."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from codesign.errors import CodesignError, InputError
from codesign.files import digest_of
from codesign.progress import Progress
from codesign.training.augmentation import crop_at_random, flip_at_random
from codesign.training.checkpoint import restore_checkpoint, save_checkpoint, save_weights
from codesign.training.dataset import Dataset
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.preprocessing import check_labels_fit, preprocess

DIVERGED = 10.0
"""Training has diverged where the mean loss of an epoch exceeds this many times ln(classes), the loss of guessing."""

Batch = tuple[torch.Tensor, torch.Tensor]


def train(
    module_factory: Callable[[], nn.Module],
    dataset: Dataset,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    folder: Path,
    progress: Progress,
    seed: int,
) -> Path:
    """Trains a network with cross-entropy and writes its weights.

    After each epoch `folder/checkpoint.safetensors` is replaced. A repeated call with the same arguments goes on from
    there, and ends with the same bits as a call that was never interrupted: order, augmentation and dropout of an epoch
    follow from seed and epoch alone. Another number of torch threads may change last bits.

    Args:
        module_factory: Makes the module; its weights may be random (they follow from `seed`) or trained before.
        dataset: What to train on.
        preprocessing: How it is prepared.
        options: How to train.
        folder: Holds `checkpoint.safetensors` and, at the end, `weights.safetensors`.
        progress: Told of every step.
        seed: Source of all randomness.

    Returns:
        Path of the weights: parameters and buffers of the module by name.

    Raises:
        InputError: The data does not fit the module.
        CodesignError: Training diverged.
    """
    with torch.random.fork_rng(devices=[]), _threads(options.threads):
        torch.manual_seed(seed)
        module = module_factory()
        _check_forward(module, dataset, preprocessing)
        optimizer = _optimizer(module, options)
        key = _key(module, dataset, preprocessing, options, seed)
        checkpoint = folder / "checkpoint.safetensors"
        done = restore_checkpoint(module, optimizer, key, checkpoint, progress)
        steps = max(1, len(dataset) // options.batch_size)
        progress.start("training", options.epochs * steps)
        progress.advance(done * steps)
        try:
            for epoch in range(done, options.epochs):
                batches = _batches(dataset, preprocessing, options, np.random.default_rng([seed, epoch]))
                torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
                _run_epoch(module, optimizer, batches, options, epoch, steps, progress)
                save_checkpoint(module, optimizer, epoch + 1, key, checkpoint)
                done = epoch + 1
        except KeyboardInterrupt:
            progress.note(
                f"training stopped after {done} of {options.epochs} epochs; the same command goes on from there"
            )
            raise
        finally:
            progress.finish()
    weights = folder / "weights.safetensors"
    save_weights(module, weights)
    return weights


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learning_rate_at(epochs_done: float, options: TrainingOptions) -> float:
    """The schedule: linear growth during warm-up, then half a cosine down to zero.

    Args:
        epochs_done: Epochs trained so far, with fractions.
        options: Peak rate, warm-up and epochs.

    Returns:
        The learning rate.
    """
    if epochs_done < options.warmup_epochs:
        return options.learning_rate * epochs_done / options.warmup_epochs
    share = (epochs_done - options.warmup_epochs) / (options.epochs - options.warmup_epochs)
    return options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _run_epoch(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    options: TrainingOptions,
    epoch: int,
    steps: int,
    progress: Progress,
) -> None:
    module.train()
    losses = []
    classes = 2
    for step, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(epoch + (step + 0.5) / steps, options)
        logits = module(images)
        classes = logits.shape[-1]
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=options.label_smoothing)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise _divergence(f"the loss became {losses[-1]} at step {step + 1}", epoch, options)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        progress.advance()
    mean = sum(losses) / len(losses)
    if mean > DIVERGED * math.log(classes):
        raise _divergence(f"the mean loss is {mean:.3g} nats, and guessing has {math.log(classes):.3g}", epoch, options)
    for name, tensor in module.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise _divergence(f"{name} holds NaN or infinity", epoch, options)


def _divergence(what: str, epoch: int, options: TrainingOptions) -> CodesignError:
    return CodesignError(
        f"training diverged: {what} of epoch {epoch + 1} of {options.epochs}, with learning_rate = "
        f"{options.learning_rate:g}; lower learning_rate, for example to {options.learning_rate / 10:g}"
    )


def _batches(
    dataset: Dataset, preprocessing: Preprocessing, options: TrainingOptions, generator: np.random.Generator
) -> Iterator[Batch]:
    """One epoch in random order, without an incomplete batch unless it is the only one."""
    order = generator.permutation(len(dataset))
    whole = len(order) - len(order) % options.batch_size or len(order)
    for start in range(0, whole, options.batch_size):
        chosen = order[start : start + options.batch_size]
        images = preprocess(dataset.images[chosen], preprocessing)
        if options.horizontal_flip:
            images = flip_at_random(images, generator)
        if options.crop_padding:
            images = crop_at_random(images, options.crop_padding, generator)
        yield torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(dataset.labels[chosen])


def _optimizer(module: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov)


def _check_forward(module: nn.Module, dataset: Dataset, preprocessing: Preprocessing) -> None:
    images = torch.from_numpy(preprocess(dataset.images[:2], preprocessing))
    module.eval()
    try:
        with torch.no_grad():
            logits = module(images)
    except RuntimeError as error:
        raise InputError(
            f"{dataset.source}: the network does not take images of shape {list(images.shape)} ({error}); "
            "correct data.preprocessing.layout or use a network for this size"
        ) from error
    check_labels_fit(dataset, logits.shape)


def _key(module: nn.Module, dataset: Dataset, preprocessing: Preprocessing, options: TrainingOptions, seed: int) -> str:
    """Digest of all that decides the trained weights."""
    initial = [
        digest_of(name, tensor.numpy(force=True).tobytes(), list(tensor.shape))
        for name, tensor in module.state_dict().items()
    ]
    settings = [preprocessing.model_dump(), options.model_dump(), seed, str(torch.__version__)]
    return digest_of(dataset.digest, repr(module), initial, settings)
