"""Shared weights of a SqueezeNext space on digits: how good each variant is with them, at several widths.

Prints accuracy on test digits of some variants with shared weights (BatchNorm re-calibrated), trained with and without
quantisation-aware sampling, at one width for all layers; of the same variants trained alone in floating point; and of
shared weights finetuned at the narrowest width. Times are of the process (CPU seconds) and of the wall.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from codesign.architecture.space import Variant, largest, smallest, variant_at, variant_count
from codesign.architecture.squeezenext_space import SqueezeNextChoices, SqueezeNextSpace
from codesign.architecture.supernet import Supernet
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions
from codesign.progress import Silent
from codesign.quantization.straight_through import fake_quantize_weights
from codesign.training.elastic import calibrated_network, load_supernet, train_elastic
from codesign.training.finetune import finetune
from codesign.training.loading import load_digits_dataset
from codesign.training.options import FLOAT_BITS, ElasticOptions, Preprocessing, TrainingOptions
from codesign.training.preprocessing import preprocess
from codesign.training.splits import Splits, split_calibration_search_test
from codesign.training.trainer import train

SPACE = SqueezeNextSpace(
    SqueezeNextChoices(
        depths=((1, 2), (1, 2, 4), (1, 2)),
        widths=((16, 32), (32, 48, 64), (64, 96, 128)),
        strides=(1, 2, 2),
        squeeze=(0.25, 0.5),
        pair_orders=("alternating", "vertical-first"),
        groups=(2, 1),
        resolutions=(8,),
        stem_channels=32,
        image_channels=1,
    )
)
PREPROCESSING = Preprocessing(scale=0.0625, mean=(0.3053,), std=(0.3761,))
WIDTHS = (FLOAT_BITS, 4, 3, 2)
ALONE = TrainingOptions(epochs=20, batch_size=64, learning_rate=0.1, weight_decay=5e-4, threads=1)
FINETUNING = TrainingOptions(epochs=5, batch_size=64, learning_rate=0.02, weight_decay=5e-4, threads=1)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        method: How weights came about.
        bits: Width of all weights.
        accuracies: Percent of test digits, by variant.
        cpu_s: Time of the process for training.
        wall_s: Time that passed.
    """

    method: str
    bits: int
    accuracies: tuple[float, ...]
    cpu_s: float
    wall_s: float

    def __str__(self) -> str:
        each = " ".join(f"{value:5.1f}" for value in self.accuracies)
        mean = sum(self.accuracies) / len(self.accuracies)
        return f"{self.method:32} {self.bits:4}  {each}   {mean:6.2f}  {self.cpu_s:7.1f} {self.wall_s:7.1f}"


def timed(action: Callable[[], Path]) -> tuple[Path, float, float]:
    """Runs something, with CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = action()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def widths_of(network: nn.Module, bits: int) -> dict[str, int]:
    """One width for all weights; none for floating point."""
    return {name: bits for name, p in network.named_parameters() if p.ndim > 1 and bits != FLOAT_BITS}


def accuracy(network: nn.Module, bits: Mapping[str, int], splits: Splits) -> float:
    """Percent of test digits with weights at some widths."""
    images = torch.from_numpy(preprocess(splits.test.images, PREPROCESSING))
    weights = fake_quantize_weights(dict(network.named_parameters()), bits)
    with torch.no_grad():
        logits = functional_call(network, weights, (images,))
    return 100 * float((logits.argmax(1).numpy() == splits.test.labels).mean())


def shared_accuracy(supernet: Supernet, variant: Variant, bits: int, splits: Splits) -> float:
    """Percent of test digits of a variant with shared weights."""
    images = torch.from_numpy(preprocess(splits.training.images, PREPROCESSING))
    widths = widths_of(SPACE.network(variant), bits)
    return accuracy(calibrated_network(supernet, variant, images, widths), widths, splits)


def shared(options: ElasticOptions, method: str, chosen: list[Variant], splits: Splits) -> tuple[list[Row], Supernet]:
    """Rows of one elastic training."""
    with tempfile.TemporaryDirectory() as folder:
        path, cpu, wall = timed(
            lambda: train_elastic(SPACE, splits.training, PREPROCESSING, options, Path(folder), Silent(), 0)
        )
        supernet = load_supernet(SPACE, path)
    rows = [
        Row(method, bits, tuple(shared_accuracy(supernet, variant, bits, splits) for variant in chosen), cpu, wall)
        for bits in WIDTHS
    ]
    return rows, supernet


def alone(chosen: list[Variant], splits: Splits) -> Row:
    """Each variant trained by itself in floating point."""
    found, cpu, wall = [], 0.0, 0.0
    for variant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            fresh = partial(SPACE.network, variant)
            path, more_cpu, more_wall = timed(
                partial(train, fresh, splits.training, PREPROCESSING, ALONE, Path(folder), Silent(), 0)
            )
            network = SPACE.network(variant)
            network.load_state_dict(load_file(path))
        found.append(accuracy(network.eval(), {}, splits))
        cpu, wall = cpu + more_cpu, wall + more_wall
    return Row(f"alone, {ALONE.epochs} epochs each", FLOAT_BITS, tuple(found), cpu, wall)


def finetuned(supernet: Supernet, bits: int, chosen: list[Variant], splits: Splits) -> Row:
    """Each variant finetuned at one width."""
    found, cpu, wall = [], 0.0, 0.0
    for variant in chosen:
        network = supernet.extract(variant)
        widths = widths_of(network, bits)
        with tempfile.TemporaryDirectory() as folder:
            _, more_cpu, more_wall = timed(
                partial(
                    finetune, network, splits.training, PREPROCESSING, FINETUNING, widths, Path(folder), Silent(), 0
                )
            )
        found.append(accuracy(network, widths, splits))
        cpu, wall = cpu + more_cpu, wall + more_wall
    return Row(f"shared, then {FINETUNING.epochs} epochs each", bits, tuple(found), cpu, wall)


def main() -> None:
    """Trains, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="of elastic training; by default those of ElasticOptions")
    parser.add_argument("--variants", type=int, default=6, help="how many are looked at")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = split_calibration_search_test(
        load_digits_dataset(), None, calibration_samples=256, search_samples=512, seed=0
    )
    places = np.random.default_rng(0).integers(0, variant_count(SPACE), options.variants - 2)
    chosen = [largest(SPACE), smallest(SPACE), *(variant_at(SPACE, int(place)) for place in places)]
    print(f"{machine()}; {versions()}\n{variant_count(SPACE)} variants; columns:")
    print("\n".join(f"  {variant}" for variant in chosen))
    epochs = {} if options.epochs is None else {"epochs": options.epochs}
    plain = ElasticOptions.model_validate({"threads": 1, **epochs})
    aware = ElasticOptions.model_validate({"threads": 1, "weight_bits": (2, 3, 4, 8, FLOAT_BITS), **epochs})
    rows = []
    for method, chosen_options in (("shared", plain), ("shared, widths sampled", aware)):
        more, supernet = shared(chosen_options, f"{method}, {plain.epochs} epochs", chosen, splits)
        rows += more
        print(*more, sep="\n", flush=True)
    for more_rows in (finetuned(supernet, WIDTHS[-1], chosen, splits), alone(chosen, splits)):
        rows.append(more_rows)
        print(more_rows, flush=True)
    if options.json:
        write_json(
            options.json,
            {
                "machine": machine(),
                "versions": versions(),
                "variants": list(map(str, chosen)),
                "rows": list(map(asdict, rows)),
            },
        )


if __name__ == "__main__":
    main()
