"""Optimizers and their learning rate."""

import math

import torch
from torch import nn

from codesign.training.options import TrainingOptions


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


def optimizer_of(module: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """The optimizer that options ask for.

    Args:
        module: What is trained; weights of two or more dimensions decay.
        options: Which optimizer.

    Returns:
        The optimizer.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.learning_rate)
    nesterov = options.momentum > 0
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov)
