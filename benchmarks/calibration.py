"""The bars of calibration: held-out kernels, whole networks, and the order of mixed plans, predicted and measured.

    python benchmarks/calibration.py [--budget 10m] [--folder runs/calibration] [--assignments 50] [--json F]

Calibrates `host-cpu` with ResNet-20, a SqueezeNext and a MobileNetV2-like network at hand, all for 32x32 images. The
networks are measured in the same session. Beside the predictions of the calibration stand those of one that never saw a
layer of these networks ("unseen"). Then random bit assignments of ResNet-20 are compiled, measured and ranked.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.stats import kendalltau, spearmanr
from torch import nn

from codesign.backend.base import Artifact
from codesign.backend.rounds import RoundSettings, measure_in_rounds, undisturbed
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.calibration.probes import Probe
from codesign.calibration.quantized_probe import quantized_copy
from codesign.console import ConsoleProgress
from codesign.cost.calibrated import CalibratedModel
from codesign.durations import seconds_of
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.calibrate import (
    CalibrateRequest,
    CalibrationResult,
    calibrate,
    calibrated_profile,
    check_networks,
)
from codesign.flow.prepare import versions
from codesign.hardware.catalog import load_profile
from codesign.ir.serialization import save_graph
from codesign.progress import Silent
from codesign.quantization.scheme import BitWidths
from codesign.testing.networks import InvertedResidual, randomize

INPUT_SHAPE = (1, 3, 32, 32)
RESNET = "codesign.architecture.resnet_cifar:resnet20"
MODELS = (RESNET, "codesign.architecture.squeezenext:squeezenext_cifar", f"{__file__}:mobilenet_cifar")
WITHIN = 0.10
LEAST_DRAWN = 2
"""Drawn networks without which no fit is made of them alone."""


def mobilenet_cifar() -> nn.Module:
    """MobileNetV2 of ten blocks for 32x32 images, up to 96 channels."""
    settings = [(24, 1), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (96, 1), (96, 1)]
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    channels = 16
    for after, stride in settings:
        layers.append(InvertedResidual(channels, after, stride, 6))
        channels = after
    head = [nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return randomize(nn.Sequential(*layers, *head, nn.Flatten(), nn.Linear(256, 10)))


def kernel_rows(result: CalibrationResult) -> list[dict[str, object]]:
    """Held-out errors by class, and of all kernels, with and without the cost of the call."""
    call_s = result.measured.profile.dispatch_s
    calibration = load_profile(str(result.profile)).calibration
    if calibration is not None:
        call_s = calibration.call_s
    rows, everything = [], []
    for fitted in result.fits:
        seconds = np.asarray([kernel.seconds for kernel in fitted.kernels])
        inside = fitted.held_out_errors * seconds / (seconds + call_s)
        everything.append(np.stack([fitted.held_out_errors, inside, seconds]))
        rows.append(_quantiles(f"{fitted.fit.kind}, {fitted.fit.arithmetic}", everything[-1]))
    rows.append(_quantiles("all kernels", np.concatenate(everything, axis=1)))
    return rows


def _quantiles(name: str, table: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> dict[str, object]:
    alone, inside, seconds = np.abs(table)
    return {
        "class": name,
        "kernels": int(seconds.size),
        "within_10_percent": float(np.mean(alone <= WITHIN)),
        "within_10_percent_with_call": float(np.mean(inside <= WITHIN)),
        "within_10_percent_by_time": float(np.sum(seconds * (alone <= WITHIN)) / np.sum(seconds)),
        "median_error": float(np.median(alone)),
        "q90_error": float(np.quantile(alone, 0.9)),
    }


def network_rows(result: CalibrationResult, seed: int) -> list[dict[str, object]]:
    """Whole networks in float32 and 8 bits, predicted with and without their own layers among the samples."""
    drawn = tuple(probe for probe in result.measured.probes if probe.is_drawn)
    own = [probe for probe in result.measured.probes if not probe.is_drawn]
    file = result.measured.file
    unseen = {}
    if len(drawn) > LEAST_DRAWN:
        profile = calibrated_profile(dataclasses.replace(result.measured, probes=drawn), "unseen", seed, Silent())[0]
        unseen = {check.network: check for check in check_networks(profile, own, file)}
    rows: list[dict[str, object]] = []
    for check in result.networks:
        if check.network.startswith("drawn") or check.network not in {probe.name for probe in own}:
            continue
        known = unseen.get(check.network)
        rows.append({
            "network": Path(check.network).name,
            "measured_s": check.measured_s,
            "fastest_s": check.fastest_s,
            "predicted_s": check.predicted_s,
            "error": check.predicted_s / check.measured_s - 1,
            "error_unseen": None if known is None else known.predicted_s / known.measured_s - 1,
            "counts": "mixed" not in check.network,
        })
    return rows


def assignment_rows(result: CalibrationResult, count: int, seed: int) -> list[tuple[float, float]]:
    """Predicted and measured seconds of random bit assignments of ResNet-20."""
    profile = load_profile(str(result.profile))
    model, target = CalibratedModel(profile), result.measured.target
    base = next(probe for probe in result.measured.probes if RESNET in probe.name)
    random = np.random.default_rng(seed)
    plans = []
    for number in range(count):
        allowed = list(random.choice(len(profile.bit_widths), size=2, replace=False))
        bits = {n.name: profile.bit_widths[int(random.choice(allowed))] for n in base.facts.weighted}
        plans.append(Probe(f"assignment {number}", base.model, base.facts, bits))
    predicted = [sum(model.price_node(n, p.widths(n.name)).latency_s for n in p.facts.nodes) for p in plans]
    with tempfile.TemporaryDirectory() as folder:

        def compiled(number: int) -> Artifact:
            work = Path(folder) / str(number)
            work.mkdir()
            bits: dict[str, BitWidths] = dict(plans[number].bits or {})
            save_graph(quantized_copy(base.model, bits), work / "net.onnx")
            return IsolatedTvmCompiler().compile(work / "net.onnx", target, "plan", work)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            artifacts = list(pool.map(compiled, range(count)))
        # plans differ by a few percent while the machine's speed changes by a third: only turns can rank them
        samples = undisturbed(measure_in_rounds(artifacts, RoundSettings(target.threads)))
    return list(zip(predicted, np.median(samples, axis=(0, 2)).tolist(), strict=True))


def _print_table(title: str, rows: Sequence[dict[str, object]]) -> None:
    print(f"\n{title}")
    for row in rows:
        print("  ".join(f"{key}={_text(value)}" for key, value in row.items()))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Prints the tables and the bars, and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--assignments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    out = options.folder / "host-cpu-calibrated.toml"
    request = CalibrateRequest("host-cpu", seconds_of(options.budget), out, MODELS, INPUT_SHAPE, options.seed)
    with ConsoleProgress(Console(stderr=True, markup=False)).live() as progress:
        result = calibrate(request, progress)
    print(f"{machine()}; {versions()}")
    print(f"{result.kernels} kernels, {result.disturbed} disturbed, {result.clock}")
    kernels, networks = kernel_rows(result), network_rows(result, options.seed)
    _print_table("Held-out kernels, five-fold by shape", kernels)
    _print_table("Whole networks, at the clock of the kernels", networks)
    pairs = assignment_rows(result, options.assignments, options.seed)
    predicted, measured = zip(*pairs, strict=True)
    counted = [row for row in networks if row["counts"]]
    good = sum(abs(float(str(row["error"]))) <= WITHIN for row in counted)
    bars: list[dict[str, object]] = [
        {"bar": "held-out kernels within 10 %", "value": kernels[-1]["within_10_percent"], "at_least": 0.9},
        {"bar": "networks within 10 %", "value": good, "at_least": 2 * len(MODELS)},
        {"bar": "Spearman of assignments", "value": float(spearmanr(predicted, measured)[0]), "at_least": 0.9},
        {"bar": "Kendall of assignments", "value": float(kendalltau(predicted, measured)[0]), "at_least": None},
        {"bar": "median error of assignments", "value": _median_error(pairs), "at_least": None},
    ]
    _print_table("Bars", bars)
    if options.json is not None:
        found = {
            "machine": machine(),
            "versions": versions(),
            "kernels": kernels,
            "networks": networks,
            "assignments": pairs,
            "bars": bars,
        }
        write_json(options.json, found)


def _median_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Of predictions brought to the clock at which the assignments were measured."""
    clock = statistics.median(measured / predicted for predicted, measured in pairs)
    return statistics.median(abs(clock * predicted / measured - 1) for predicted, measured in pairs)


if __name__ == "__main__":
    main()
