"""Exactness, reproducibility and memory."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from curvature_resnet50 import SAMPLES, SIDE
from curvature_setup import ROOT, Bar, Part, module_of, print_table, reference_images, reference_values

from codesign.curvature.block_traces import block_traces
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_blocks
from codesign.curvature.probing import StoppingRule

EIGENVALUES = 5
MEMORY_LIMIT = "2GB"
"""For values held at once; the process holds the network and torch beside them."""
ANALYZE = ("--metric", "trace", "--metric", "eigenvalues", "--metric", "auto", "--bits", "4", "--drop", "0.9")
"""One width, and most of the 64,000 pairs sampled: this part measures memory, and time only by the way."""
MOST_BYTES = 4e9
KIB = 1024
PROBED = ("layer2.0.conv1.weight", "layer3.2.conv2.weight", "linear.weight")


def exact() -> Part:
    """Traces and five largest eigenvalues of ResNet-20's module weights against the float64 reference."""
    part = Part()
    for dtype, most in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        network = ModuleNetwork(module_of("resnet20"), dtype)
        wanted = reference_values()
        options = PackingOptions(drop=0.0, eigenvalues=EIGENVALUES)
        blocks = gauss_newton_blocks(network, reference_images(dtype)[0], list(wanted), options=options).blocks
        rows = [
            [
                name,
                abs(blocks[name].trace / reference.trace - 1),
                max(
                    abs(found / value - 1)
                    for found, value in zip(blocks[name].eigenvalues, reference.eigenvalues, strict=True)
                ),
            ]
            for name, reference in wanted.items()
        ]
        kind = str(dtype).removeprefix("torch.")
        print_table(f"Relative errors, {kind}, nothing dropped", ["layer", "trace", "5 eigenvalues"], rows)
        part.numbers[kind] = rows
        for column, what in ((1, "traces"), (2, "five largest eigenvalues")):
            largest = max(float(str(row[column])) for row in rows)
            part.bars.append(Bar(f"exact: {kind}, largest relative error of {what}", largest, most=most))
    return part


def _estimates(small_chunks: bool) -> dict[str, float]:
    """Everything that is drawn at random, with one seed; runs in a process of its own."""
    module = module_of("resnet20")
    network = ModuleNetwork(module, torch.float32)
    images, labels = reference_images(torch.float32)
    options = PackingOptions(pairs_at_once=7 if small_chunks else 64, eigenvalues=1)
    packed = gauss_newton_blocks(network, images, list(network.geometries), options=options, seed=3)
    weights = {name: network.weights[name] for name in PROBED}
    rule = StoppingRule(relative_error=0.0, min_probes=8, max_probes=8)
    at_once = 33 if small_chunks else 200
    probed = block_traces(network.with_weights, weights, images, labels, rule=rule, seed=3, samples_at_once=at_once)
    found = {f"packed trace of {name}": block.trace for name, block in packed.blocks.items()}
    found |= {f"packed eigenvalue of {name}": block.eigenvalues[0] for name, block in packed.blocks.items()}
    return found | {f"Hutchinson trace of {name}": block.trace for name, block in probed.blocks.items()}


def reproducible() -> Part:
    """The same seed here, in another process, and there with other chunk sizes."""
    part = Part()
    here = _estimates(False)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as elsewhere:
        again, chunked = (elsewhere.submit(_estimates, small).result() for small in (False, True))
    rows = []
    for what, other in (("another process", again), ("another process and other chunks", chunked)):
        for kind in ("packed trace", "packed eigenvalue", "Hutchinson trace"):
            rows.append([what, kind, _largest_difference(here, other, kind)])
        largest = _largest_difference(here, other, "")
        part.bars.append(Bar(f"reproducible: {what}, largest relative difference", largest, most=1e-6))
    print_table("Largest relative differences, fp32", ["against", "estimates", "difference"], rows)
    part.numbers["differences"] = rows
    return part


def _largest_difference(here: Mapping[str, float], there: Mapping[str, float], kind: str) -> float:
    return max(abs(there[name] / value - 1) for name, value in here.items() if name.startswith(kind))


def memory() -> Part:
    """Peak memory of `codesign analyze` on a network of ResNet-50's shape, in a process of its own."""
    part = Part()
    source = Path(__file__).parent / "curvature_resnet50.py"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "analysis.json"
        command = [sys.executable, "-m", "codesign", "analyze", f"{source}:resnet50", "--data", f"{source}:images"]
        command += ["--input-shape", f"1,3,{SIDE},{SIDE}", "--mean", "0.5", "--std", "0.25"]
        command += ["--samples", str(SAMPLES), *ANALYZE, "--memory-limit", MEMORY_LIMIT, "--json", str(result)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        report = json.loads(result.read_text())
    peak = usage.ru_maxrss * KIB  # of the larger of the child and of this process when it started the child
    parameters = sum(layer["parameters"] for layer in report["layers"])
    numbers = {key: report[key] for key in ("seconds", "peak_memory_bytes", "passes_over_data")}
    part.numbers = {**numbers, "ru_maxrss_bytes": peak, "parameters": parameters, "command": command[1:]}
    print_table(
        f"codesign analyze, ResNet-50 shape, {parameters / 1e6:.1f} M weights, {SAMPLES} images of {SIDE}x{SIDE}",
        ["", "value"],
        [
            ["peak memory, GB", peak / 1e9],
            ["as it says itself, GB", report["peak_memory_bytes"] / 1e9],
            ["seconds", float(report["seconds"])],
            ["passes over the data", float(report["passes_over_data"])],
        ],
    )
    part.bars.append(Bar("memory: peak of codesign analyze, bytes", float(peak), most=MOST_BYTES))
    return part
