"""The bars of generated code: latency beside onnxruntime and OpenVINO, outputs, and time to compile.

    python benchmarks/codegen.py [--only NET]... [--precision P]... [--threads N]... [--rounds 8] [--seconds 0.3]
        [--images 100] [--cpu N] [--tune BUDGET] [--peer-python onnxruntime=PYTHON]... [--json F]

Every system runs each network in a process of its own, with its number of threads fixed before it starts; the processes
take turns, one round after the other. Peers run at their best setting on the same file. `--peer-python` names the
interpreter of an environment that holds a peer; a peer that is not installed is named. `--cpu` pins one-thread
processes to one processor. `--tune` adds our own libraries with tuned kernels, each network tuned for so long at most.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from codegen_networks import BFLOAT16, NETS, PRECISIONS, Net, inputs_of, write_networks
from numpy.typing import NDArray

from codesign.backend.library_cache import LibraryCache
from codesign.backend.onnxruntime_compiler import OnnxruntimeCompiler
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.files import write_json
from codesign.flow.build import machine, output_scale
from codesign.flow.prepare import versions
from codesign.flow.tune import tune_network
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.host import detect_host
from codesign.hardware.target import Target, TvmTarget
from codesign.ir.serialization import load_graph
from codesign.progress import Silent
from codesign.tuning.budget import tuning_budget_s

TUNED = "codesign-tuned"
SYSTEMS = ("codesign", TUNED, "onnxruntime", "openvino")
WORKER = Path(__file__).with_name("codegen_worker.py")
PEER_PRECISIONS = ("int8", "float32", BFLOAT16)
"""Precisions that peers are timed at: none multiplies narrower weights faster than 8 bits. At `bfloat16` onnxruntime
computes in float32, since its CPU provider has nothing else."""


@dataclass(frozen=True)
class Job:
    """One measured process.

    Attributes:
        net: Name of the network.
        precision: Of its weights.
        threads: Threads.
        system: Who runs it.
        file: What it loads.
    """

    net: str
    precision: str
    threads: int
    system: str
    file: Path


class Worker:
    """A running process that answers one line at a time."""

    def __init__(self, job: Job, python: str, images: Path, cpu: int | None) -> None:
        threads = str(job.threads)
        command = [
            python,
            str(WORKER),
            job.system.removesuffix("-tuned"),
            str(job.file),
            threads,
            str(images),
            job.precision,
        ]
        if cpu is not None and job.threads == 1:
            command = ["taskset", "-c", str(cpu), *command]
        environment = os.environ | {"TVM_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        self.job = job
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def answer(self) -> object:
        """The next line of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.job}: the measured process ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, question: str) -> object:
        """Sends a line and waits for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def running(job: Job, python: str, images: Path, cpu: int | None) -> Iterator[Worker]:
    """A worker that is loaded, and ended afterwards."""
    worker = Worker(job, python, images, cpu)
    try:
        worker.answer()
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


def installed_peers(pythons: Mapping[str, str]) -> tuple[str, ...]:
    """Systems that can run; the others are named."""
    present = ["codesign"]
    for system in SYSTEMS[2:]:
        python = pythons.get(system, sys.executable)
        command = [python, "-c", f"import {system}; print({system}.__version__)"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            print(f"{system} {found.stdout.strip()}")
            present.append(system)
        else:
            print(f"{system} is not installed for {python}: its columns are missing (pip install {system})")
    return tuple(present)


def compile_all(
    net: Net,
    networks: Mapping[str, Path],
    threads: Sequence[int],
    systems: Sequence[str],
    folder: Path,
    tune: str | None,
) -> tuple[list[Job], list[dict[str, object]]]:
    """Compiled files of one network, and how long ours took."""
    jobs, rows = [], []
    for count in threads:
        for precision, path in networks.items():
            target = _target(precision, count)
            compiler = IsolatedTvmCompiler(LibraryCache(folder / "cache"))
            seconds = []
            for _ in ("cold", "warm"):
                start = time.perf_counter()
                ours = compiler.compile(path, target, f"{precision}-{count}", folder)
                seconds.append(time.perf_counter() - start)
            stated = {"weight_bytes": ours.weight_bytes, "compile_s": seconds[0], "compile_warm_s": seconds[1]}
            rows.append({"net": net.name, "precision": precision, "threads": count, **stated})
            jobs.append(Job(net.name, precision, count, "codesign", ours.path))
            if tune is not None:
                jobs.append(Job(net.name, precision, count, TUNED, tuned_library(path, target, tune, folder)))
            if precision not in PEER_PRECISIONS:
                continue
            theirs = OnnxruntimeCompiler().compile(path, target, f"{precision}-{count}", folder)
            files = {"onnxruntime": theirs.path, "openvino": path}
            jobs += [Job(net.name, precision, count, peer, files[peer]) for peer in systems if peer in files]
    return jobs, rows


def _target(precision: str, threads: int) -> Target:
    tvm = TvmTarget(float_products="bfloat16" if precision == BFLOAT16 else "float32")
    return Target(name="host-cpu", description="", profile="host-cpu", runner="local", threads=threads, tvm=tvm)


def possible_precisions() -> list[str]:
    """All precisions that this machine has instructions for; the others are named."""
    if request_amx() and "amx_bf16" in detect_host().flags:
        return list(PRECISIONS)
    print("this machine has no AMX-BF16: the rows of bfloat16 are missing")
    return [precision for precision in PRECISIONS if precision != BFLOAT16]


def tuned_library(network: Path, target: Target, budget: str, folder: Path) -> Path:
    """A network with tuned kernels; says how long tuning took."""
    start = time.perf_counter()
    tuned = tune_network(network, target, tuning_budget_s(budget, "--tune"), Silent(print))
    print(f"{network.stem}, {target.threads} thread(s): {tuned.summary} ({time.perf_counter() - start:.0f} s)")
    compiler = IsolatedTvmCompiler(choices=tuned.choices)
    return compiler.compile(network, target, f"{network.stem}-{target.threads}-tuned", folder).path


def time_all(workers: Sequence[Worker], rounds: int, seconds: float) -> list[dict[str, object]]:
    """Minimum and median of each process over all rounds, taken in turns."""
    samples: list[list[float]] = [[] for _ in workers]
    for _ in range(rounds):
        for number, worker in enumerate(workers):
            answer = worker.ask(f"time {seconds}")
            assert isinstance(answer, list)
            samples[number] += answer
    rows: list[dict[str, object]] = []
    for taken, worker in zip(samples, workers, strict=True):
        job = worker.job
        named = {"net": job.net, "precision": job.precision, "threads": job.threads, "system": job.system}
        rows.append({**named, "min_s": min(taken), "median_s": statistics.median(taken)})
    return rows


def compare_all(workers: Sequence[Worker], networks: Mapping[str, Path], folder: Path) -> list[dict[str, object]]:
    """Largest difference of our outputs from onnxruntime's on the same file, and the share of equal ones."""
    outputs: dict[tuple[str, int, str], NDArray[np.float32]] = {}
    for worker in workers:
        job = worker.job
        if job.system != "openvino":
            file = folder / "outputs.npy"
            worker.ask(f"outputs {file}")
            outputs[job.precision, job.threads, job.system] = np.load(file, allow_pickle=False)
    rows: list[dict[str, object]] = []
    for (precision, threads, system), ours in outputs.items():
        theirs = outputs.get((precision, threads, "onnxruntime"))
        if system != "codesign" or theirs is None:
            continue
        difference = np.abs(ours.astype(np.float64) - theirs)
        scale = output_scale(load_graph(networks[precision]))
        unit = float(np.abs(theirs).max()) if scale is None else scale
        rows.append({
            "net": workers[0].job.net,
            "precision": precision,
            "threads": threads,
            "images": len(ours),
            "largest_difference": float(difference.max()) / unit,
            "unit": "of the largest output" if scale is None else "output steps",
            "equal_share": float((difference == 0).mean()),
            "same_answers": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        })
    return rows


def print_latencies(rows: Sequence[dict[str, object]]) -> None:
    """One line a precision: minimum and median of each system, and ratios of the minima."""
    seconds = {(r["net"], r["precision"], r["threads"], r["system"]): r for r in rows}
    for (net, precision, threads, system), ours in seconds.items():
        if system != "codesign":
            continue
        line = f"{net!s:16s} {precision!s:8s} {threads} thread(s)"
        for other in SYSTEMS:
            row = seconds.get((net, precision, threads, other))
            if row is not None:
                least, median = (float(str(row[key])) * 1e6 for key in ("min_s", "median_s"))
                line += f"  {other} {least:8.1f} / {median:8.1f} us"
                if other != "codesign":
                    line += f" ({least / float(str(ours['min_s'])) / 1e6:.2f}, {_ratio(row, ours, 'median_s'):.2f})"
        real = seconds.get((net, "float32", threads, "codesign"))
        if real is not None and precision == BFLOAT16:
            line += f"  float32 / bfloat16 {_ratio(real, ours, 'min_s'):.2f}"
        eight = seconds.get((net, "int8", threads, "codesign"))
        if eight is not None and precision in {"int4", "int2"}:
            line += f"  int8 / {precision} {_ratio(eight, ours, 'min_s'):.2f}"
        print(line, flush=True)


def _ratio(a: Mapping[str, object], b: Mapping[str, object], key: str) -> float:
    return float(str(a[key])) / float(str(b[key]))


def print_bars(rows: Sequence[dict[str, object]]) -> None:
    """Geometric means of the ratios of minima, per peer."""
    seconds = {(r["net"], r["precision"], r["threads"], r["system"]): float(str(r["min_s"])) for r in rows}
    groups: dict[tuple[object, ...], list[float]] = {}
    for (net, precision, threads, system), theirs in seconds.items():
        if system != "codesign":
            groups.setdefault((system, precision, threads), []).append(
                theirs / seconds[net, precision, threads, "codesign"]
            )
    for (system, precision, threads), ratios in groups.items():
        mean = float(np.exp(np.mean(np.log(ratios))))
        print(
            f"geometric mean {system} / codesign, {precision}, {threads} thread(s): {mean:.2f}, least {min(ratios):.2f}"
        )


def _named_pairs(texts: Sequence[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in texts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[net.name for net in NETS], metavar="NET")
    parser.add_argument("--precision", action="append", choices=list(PRECISIONS))
    parser.add_argument("--threads", action="append", type=int)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each process in each round")
    parser.add_argument("--images", type=int, default=100, help="on which outputs are compared")
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--tune", metavar="BUDGET", help="as of `codesign compile`")
    parser.add_argument("--peer-python", action="append", default=[], metavar="SYSTEM=PYTHON")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Prints the tables and writes them as JSON."""
    options = _options()
    print(f"{machine()}; tvm {importlib.metadata.version('apache-tvm')}")
    pythons = _named_pairs(options.peer_python)
    systems = installed_peers(pythons)
    precisions = options.precision or possible_precisions()
    latencies: list[dict[str, object]] = []
    compiled: list[dict[str, object]] = []
    agreement: list[dict[str, object]] = []
    for net in NETS:
        if options.only and net.name not in options.only:
            continue
        with tempfile.TemporaryDirectory(prefix="codesign-codegen-") as name, ExitStack() as stack:
            folder = Path(name)
            images = inputs_of(net, options.images)
            np.save(folder / "images.npy", images, allow_pickle=False)
            networks = write_networks(net, precisions, images, folder)
            jobs, rows = compile_all(net, networks, options.threads or [1, 2], systems, folder, options.tune)
            compiled += rows
            workers = [
                stack.enter_context(
                    running(job, pythons.get(job.system, sys.executable), folder / "images.npy", options.cpu)
                )
                for job in jobs
            ]
            agreement += compare_all(workers, networks, folder)
            found = time_all(workers, options.rounds, options.seconds)
            print_latencies(found)
            latencies += found
    for row in [*compiled, *agreement]:
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()))
    print_bars(latencies)
    if options.json is not None:
        about = {"machine": machine(), "versions": versions(), "systems": list(systems)}
        write_json(options.json, {**about, "latencies": latencies, "compiled": compiled, "agreement": agreement})


if __name__ == "__main__":
    main()
