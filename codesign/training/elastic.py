"""Training weights that all variants of a space share."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from codesign.architecture.space import ArchitectureSpace, Variant, largest, smallest
from codesign.architecture.supernet import Supernet
from codesign.data_parallel import Shard
from codesign.errors import InputError, first_line
from codesign.progress import Progress
from codesign.quantization.straight_through import fake_quantize_weights
from codesign.training.batch_norm import recalibrate
from codesign.training.dataset import Dataset
from codesign.training.epochs import Epochs, Place, StepLoss, run_epochs, threads
from codesign.training.options import ElasticOptions, Preprocessing
from codesign.training.resolution import at_resolution
from codesign.training.sandwich import draw_widths, sandwich
from codesign.training.synchronized_batch_norm import SynchronizedBatchNorm
from codesign.training.trainer import check_runs, training_key


def train_elastic(
    space: ArchitectureSpace,
    dataset: Dataset,
    preprocessing: Preprocessing,
    options: ElasticOptions,
    folder: Path,
    progress: Progress,
    seed: int,
) -> Path:
    """Trains the weights that all variants share by the sandwich rule with in-place distillation (arXiv 2003.11142).

    Each batch trains the largest variant on the labels, and the smallest and some random ones on the soft outputs of
    the largest, at widths drawn for each layer. Checkpoints and resuming are as in `trainer.train`. Where torch's
    processes are joined (torchrun), they share each batch, BatchNorm included: the result is that of one process up to
    rounding.

    Args:
        space: The variants.
        dataset: What to train on.
        preprocessing: How it is prepared.
        options: How to train.
        folder: Holds `checkpoint.safetensors` and, at the end, `weights.safetensors`.
        progress: Told of every step.
        seed: Source of all randomness.

    Returns:
        Path of the shared weights; see `load_supernet`.
    """
    shard = Shard.of_process_group()
    device = _device(options, shard)
    together = SynchronizedBatchNorm(shard) if shard.parts > 1 else nullcontext()
    with torch.random.fork_rng(devices=[]), threads(options.threads), together:
        supernet = Supernet(space, seed)
        for variant in (largest(space), smallest(space)):
            check_runs(supernet, _runner(supernet, variant), dataset, preprocessing)
        described = [space.name, [[axis.name, list(axis.values)] for axis in space.axes]]
        key = training_key(supernet, repr(described), dataset, preprocessing, options, seed)
        supernet.to(device)
        step = _Step(supernet, options, shard, seed)
        training = Epochs(supernet, step, dataset, preprocessing, options, folder, key, seed, shard)
        return run_epochs(training, progress)


def load_supernet(space: ArchitectureSpace, weights: Path) -> Supernet:
    """Shared weights as `train_elastic` wrote them.

    Args:
        space: The space that they were trained for.
        weights: What `train_elastic` returned.

    Returns:
        The weights, on the CPU.

    Raises:
        InputError: The file cannot be read or belongs to another space.
    """
    supernet = Supernet(space, seed=0)
    try:
        supernet.load_state_dict(load_file(weights), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{weights}: holds no weights of space {space.name!r} ({first_line(error)}); train them again"
        ) from error
    return supernet


def calibrated_network(
    supernet: Supernet, variant: Variant, images: Tensor, bits: Mapping[str, int] | None = None
) -> nn.Module:
    """A network of its own with a variant's shared weights and BatchNorm statistics that fit them.

    Args:
        supernet: Trained weights.
        variant: Which network.
        images: Prepared training images, `[N, ...]`, at any resolution.
        bits: Widths of weights, by parameter name, for which the statistics shall be; see `recalibrate`.

    Returns:
        The network in evaluation mode, with weights in floating point.
    """
    network = supernet.extract(variant)
    recalibrate(network, at_resolution(images, supernet.space.input_shape(variant)), bits)
    return network


class _Step:
    """One batch: gradients of the largest variant's loss and of the others'."""

    def __init__(self, supernet: Supernet, options: ElasticOptions, shard: Shard, seed: int) -> None:
        self._supernet, self._options, self._shard, self._seed = supernet, options, shard, seed
        wanted = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
        self._narrow = wanted == "bfloat16"

    def __call__(self, images: Tensor, labels: Tensor, place: Place) -> StepLoss:
        generator = np.random.default_rng([self._seed, place.epoch, place.step])
        teacher, *students = sandwich(self._supernet.space, self._options.random_variants, generator)
        count = float(self._shard.sum(torch.tensor([float(labels.numel())])))
        targets = labels.flatten()
        logits = self._logits(teacher, images, self._supernet.weights_of(teacher))
        smoothing = self._options.label_smoothing
        loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing) / count
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        soft = logits.detach().softmax(-1) if self._options.distillation else targets
        finite = torch.isfinite(loss.detach())
        for variant in students:
            weights = self._supernet.weights_of(variant)
            names = [name for name, weight in weights.items() if weight.ndim > 1]
            bits = draw_widths(names, self._options.weight_bits, generator)
            quantized = fake_quantize_weights(weights, bits)
            other = F.cross_entropy(self._logits(variant, images, quantized), soft, reduction="sum") / count
            other.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
            finite &= torch.isfinite(other.detach())
        return StepLoss(loss.item() if bool(finite) else float("nan"), logits.shape[-1])

    def _logits(self, variant: Variant, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """`[M, K]` in float32, with M samples or positions."""
        fitting = at_resolution(images, self._supernet.space.input_shape(variant))
        if fitting.ndim == 4:
            fitting = fitting.contiguous(memory_format=torch.channels_last)  # a third faster on CPUs
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._narrow):
            logits = self._supernet.run(variant, fitting, weights)
        return logits.float().flatten(0, -2)


def _runner(supernet: Supernet, variant: Variant) -> Callable[[Tensor], Tensor]:
    shape = supernet.space.input_shape(variant)
    return lambda images: supernet.run(variant, at_resolution(images, shape))


def _device(options: ElasticOptions, shard: Shard) -> torch.device:
    if options.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("device = 'cuda': torch finds no GPU here; set device = 'cpu'")
    return torch.device("cuda", shard.rank % torch.cuda.device_count())
