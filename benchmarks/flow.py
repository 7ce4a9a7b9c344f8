"""The bars of the whole flow: accuracy of chosen plans, latency beside onnxruntime, exactness, start-up time.

    python benchmarks/flow.py [--folder runs/resnet20-cifar10] [--rounds 9] [--json F]

Runs (or goes on with) `examples/resnet20_cifar10.toml`, then measures the baseline, uniform 8 bits and the chosen plan
again with TVM and onnxruntime in alternating rounds, each in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from codesign.backend.base import Artifact, MeasurementSettings
from codesign.backend.local_runner import LocalRunner
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions
from codesign.search.allocation_table import allocate_table

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"
RUN_FILE = ROOT / "examples" / "resnet20_cifar10.toml"


def accuracy_of(candidate: dict[str, object], test_set: str) -> float:
    """Accuracy in percent."""
    measured = candidate["measured"]
    assert isinstance(measured, dict)
    return 100 * float(measured["accuracy_by_test_set"][test_set]["value"])


def plan_rows(report: dict[str, object]) -> list[tuple[str, str, float, str]]:
    """Bars on accuracy: name, unit, value, bar."""
    candidates = report["candidates"]
    baseline = report["baseline"]
    assert isinstance(candidates, list)
    assert isinstance(baseline, dict)
    role = {name: c for c in candidates for name in c["roles"]}
    rows = [("fp32 accuracy, lossless", "%", accuracy_of(baseline, "test"), "91.6 ± 0.3")]
    drop = accuracy_of(baseline, "test") - accuracy_of(role["uniform 8 bits"], "test")
    rows.append(("W8A8 loss, lossless", "points", drop, "<= 0.4"))
    for bits, bars in ((3, (">= 2", ">= 1.5")), (4, (">= 0", ">= 0"))):
        for test_set, bar in zip(("test", "jpeg"), bars, strict=True):
            chosen, uniform = role[f"chosen for average_bits = {bits}"], role[f"uniform {bits} bits"]
            gain = accuracy_of(chosen, test_set) - accuracy_of(uniform, test_set)
            rows.append((f"average {bits} bits over uniform, {test_set}", "points", gain, bar))
    return rows


def latency_rows(folder: Path, report: dict[str, object], rounds: int) -> list[dict[str, object]]:
    """Minimum and median of alternating rounds."""
    candidates = report["candidates"]
    assert isinstance(candidates, list)
    identities = {"float32": "baseline"} | {
        label: next(c["id"] for c in candidates if role in c["roles"])
        for label, role in (("uniform 8 bits", "uniform 8 bits"), ("average 3 bits", "chosen for average_bits = 3"))
    }
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for label, identity in identities.items():
            for compiler in ("tvm", "onnxruntime"):
                work = folder / "artifacts" / identity / compiler
                path = work / json.loads((work / "artifact.json").read_text())["path"]
                artifact = Artifact(path, compiler, "host-cpu", identity, 0)
                found = LocalRunner().measure(artifact, MeasurementSettings(repeats=20), None)
                samples.setdefault((label, compiler), []).extend(found.latencies_s)
    return [
        {"net": label, "system": compiler, "min_s": min(taken), "median_s": statistics.median(taken)}
        for (label, compiler), taken in samples.items()
    ]


def startup_s() -> float:
    """Least time of `codesign --help` in nine tries."""
    command = [sys.executable, "-m", "codesign", "--help"]
    times = []
    for _ in range(9):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/resnet20-cifar10"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-m", "codesign", "run", str(RUN_FILE), "--out", str(options.folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((options.folder / "report.json").read_text())
    print(f"{machine()}; {versions()}\n")
    bars = plan_rows(report)
    bars.append(("codesign --help", "s", startup_s(), "< 0.3"))
    cases = allocate_table(SHARED / "reference" / "hawq_v3_resnet18.json")
    bars.append(("allocate, slowest HAWQ-V3 case", "s", max(c.allocation.seconds for c in cases), "< 0.2"))
    bars.append(("allocate, largest gap", "", max(c.allocation.gap for c in cases), "0"))
    for name, unit, value, bar in bars:
        print(f"{name:45s} {value:8.3f} {unit:7s} bar {bar}")
    latencies = latency_rows(options.folder, report, options.rounds)
    print(
        f"\n{'network':16s} {'TVM min/median us':>20s} {'onnxruntime min/median us':>28s} {'ORT/TVM min, median':>22s}"
    )
    for ours, theirs in zip(latencies[::2], latencies[1::2], strict=True):
        a, b, c, d = (float(str(row[key])) * 1e6 for row in (ours, theirs) for key in ("min_s", "median_s"))
        print(f"{ours['net']!s:16s} {a:11.0f} /{b:7.0f} {c:18.0f} /{d:8.0f} {c / a:13.2f}, {d / b:.2f}")
    if options.json is not None:
        rows = [{"name": name, "unit": unit, "value": value, "bar": bar} for name, unit, value, bar in bars]
        write_json(options.json, {"machine": machine(), "versions": versions(), "bars": rows, "latencies": latencies})


if __name__ == "__main__":
    main()
