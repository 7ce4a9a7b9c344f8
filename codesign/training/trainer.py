"""Training that is the same from run to run and goes on where it was interrupted."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from codesign.errors import InputError
from codesign.files import digest_of
from codesign.progress import Progress
from codesign.training.dataset import Dataset
from codesign.training.epochs import Epochs, Place, Step, StepLoss, run_epochs, threads
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.training.preprocessing import check_labels_fit, preprocess


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
    """
    with torch.random.fork_rng(devices=[]), threads(options.threads):
        torch.manual_seed(seed)
        module = module_factory()
        check_runs(module, module, dataset, preprocessing)
        key = training_key(module, repr(module), dataset, preprocessing, options, seed)
        step = cross_entropy_step(module, options)
        return run_epochs(Epochs(module, step, dataset, preprocessing, options, folder, key, seed), progress)


def cross_entropy_step(run: Callable[[torch.Tensor], torch.Tensor], options: TrainingOptions) -> Step:
    """One step of training with cross-entropy.

    Args:
        run: Computes logits `[N, ..., K]` of images.
        options: Label smoothing.

    Returns:
        The step.
    """

    def step(images: torch.Tensor, labels: torch.Tensor, _: Place) -> StepLoss:
        logits = run(images)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=options.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        return StepLoss(loss.item(), logits.shape[-1])

    return step


def check_runs(
    module: nn.Module,
    run: Callable[[torch.Tensor], torch.Tensor],
    dataset: Dataset,
    preprocessing: Preprocessing,
) -> None:
    """Refuses data that a network cannot take.

    Args:
        module: Is put in evaluation mode.
        run: Computes logits of images.
        dataset: The data.
        preprocessing: How it is prepared.

    Raises:
        InputError: The network does not take images of this shape, or has too few logits for the labels.
    """
    images = torch.from_numpy(preprocess(dataset.images[:2], preprocessing))
    module.eval()
    try:
        with torch.no_grad():
            logits = run(images)
    except RuntimeError as error:
        raise InputError(
            f"{dataset.source}: the network does not take images of shape {list(images.shape)} ({error}); "
            "correct data.preprocessing.layout or use a network for this size"
        ) from error
    check_labels_fit(dataset, logits.shape)


def training_key(
    module: nn.Module,
    description: str,
    dataset: Dataset,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    seed: int,
) -> str:
    """Digest of all that decides the trained weights.

    Args:
        module: In its initial state.
        description: What else distinguishes this training.
        dataset: The data.
        preprocessing: How it is prepared.
        options: How to train.
        seed: Source of all randomness.

    Returns:
        Hexadecimal digits.
    """
    initial = [
        digest_of(name, tensor.numpy(force=True).tobytes(), list(tensor.shape))
        for name, tensor in module.state_dict().items()
    ]
    settings = [preprocessing.model_dump(), options.model_dump(), seed, str(torch.__version__)]
    return digest_of(dataset.digest, description, initial, settings)
