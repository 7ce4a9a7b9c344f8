"""The bars of the array cost model: agreement with SCALE-Sim and ZigZag, SqueezeNext's published ratios, speed.

    python benchmarks/simulator.py [--reference ../shared/reference] [--rounds 5] [--scalesim-python P] [--json F]

Reference points: `scalesim_cycles.csv` (SCALE-Sim 3.0.0) and `zigzag_energy_latency.csv` (ZigZag 3.9.1), with the CPU
time that each point took there. SqueezeNext: Squeezelerator 16x16 with 16-bit words, batch 1, dense layers included,
feature maps through DRAM between layers, 16 bytes of DRAM a cycle (inferred, not published; AlexNet's time is set by
its 58.6 million dense weights and moves with that number), against ratios in the abstract of arXiv 1803.10615.

With `--scalesim-python`, the interpreter of an environment made by `pip install "numpy<2.4" scalesim==3.0.0`, SCALE-Sim
runs the cheapest reference points here, and its speed stands beside ours.
"""

import argparse
import csv
import dataclasses
import itertools
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from codesign.architecture.squeezenext import (
    squeezenext_23,
    squeezenext_23_v2,
    squeezenext_23_v3,
    squeezenext_23_v4,
    squeezenext_23_v5,
)
from codesign.cost.array_grid import GridCost, price_grid
from codesign.cost.array_model import best_mappings
from codesign.cost.layer_table import Array, LayerTable
from codesign.cost.layers_csv import NamedLayer, read_layers
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import DATAFLOWS, ArrayKind, Dataflow, HardwareProfile
from codesign.plan.facts import ConvGeometry
from codesign.testing.module_geometry import geometries_of
from codesign.testing.reference_arrays import CYCLE_S, PICO, scalesim_array, zigzag_array

ROOT = Path(__file__).parent.parent
SHORT: dict[str, Dataflow] = {"os": "output-stationary", "ws": "weight-stationary", "is": "input-stationary"}
SIZES = (8, 16, 32)
BUFFERS = {8: 32 << 10, 16: 128 << 10, 32: 256 << 10}
PROFILE = load_profile("squeezelerator-16x16")
PUBLISHED = {"SqueezeNet_v1.0": (2.59, 2.25), "AlexNet": (8.26, 7.5)}
REVISIONS = (squeezenext_23, squeezenext_23_v2, squeezenext_23_v3, squeezenext_23_v4, squeezenext_23_v5)


@dataclasses.dataclass(frozen=True)
class Bar:
    """A number, what it must reach, and whether it does."""

    name: str
    value: float
    unit: str
    bar: str
    is_met: bool


def rows_of(path: Path) -> list[dict[str, str]]:
    """All lines of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table_of(layers: Sequence[NamedLayer]) -> LayerTable:
    """Layers without scales and biases, as the references count them."""
    return LayerTable.of([layer.geometry for layer in layers])


def scalesim_bars(reference: Path) -> list[Bar]:
    """Cycles of single layers and totals of networks that are identical."""
    designs = [scalesim_array(size, size) for size in SIZES]
    path = reference / "scalesim_cycles.csv"
    rows, grid = rows_of(path), price_grid(table_of(read_layers(path)), [(8, 8)], designs)
    found = [
        grid.tables.cycles[index, grid.dataflows.index(SHORT[row["df"]]), SIZES.index(int(row["arr"]))]
        for index, row in enumerate(rows)
    ]
    same = sum(int(cycles) == int(row["cycles"]) for cycles, row in zip(found, rows, strict=True))
    layers, totals = read_layers(reference / "network_layers.csv"), rows_of(reference / "network_cycles.csv")
    grid = price_grid(table_of(layers), [(8, 8)], designs)
    same_totals = 0
    for row in totals:
        mine = [index for index, layer in enumerate(layers) if layer.network == row["net"]]
        cycles = grid.tables.cycles[mine][:, :2, SIZES.index(int(row["arr"]))]
        sums = [*cycles.sum(axis=0).tolist(), float(cycles.min(axis=1).sum())]
        same_totals += sums == [int(row[key]) for key in ("OS_cycles", "WS_cycles", "hybrid_cycles")]
    return [
        Bar("SCALE-Sim, identical cycle counts", same, "points", f"= {len(rows)}", same == len(rows)),
        Bar("network totals, identical", same_totals, "rows", f"= {len(totals)}", same_totals == len(totals)),
    ]


def zigzag_grid(reference: Path) -> tuple[list[dict[str, str]], GridCost]:
    """ZigZag's points, and the same layers on the same devices here."""
    rows = rows_of(reference / "zigzag_energy_latency.csv")
    by_name = {layer.name: layer for layer in read_layers(reference / "network_layers.csv")}
    layers = [by_name[f"{row['net']}/{row['layer']}"] for row in rows]
    designs = [zigzag_array(size, BUFFERS[size]) for size in SIZES]
    return rows, price_grid(table_of(layers), [(8, 8)], designs)


def zigzag_bars(reference: Path) -> list[Bar]:
    """Energy, latency and choice of dataflow."""
    rows, grid = zigzag_grid(reference)
    dataflow = [grid.dataflows.index(SHORT[row["df"]]) for row in rows]
    design = [SIZES.index(int(row["arr"])) for row in rows]
    layer = np.arange(len(rows))
    bars = []
    for name, key, ours, largest_error, least_tau in (
        ("energy", "zz_energy_pJ", grid.energy_j[layer, 0, dataflow, design, 0] / PICO, 3.0, 0.98),
        ("latency", "zz_latency", grid.latency_s[layer, 0, dataflow, design, 0] / CYCLE_S, 6.0, 0.95),
    ):
        theirs = np.asarray([float(row[key]) for row in rows])
        error = 100 * float(np.abs(ours / theirs - 1).mean())
        tau = float(kendalltau(ours, theirs).statistic)
        regret = 100 * regret_of(rows, ours, theirs)
        bars += [
            Bar(f"ZigZag, {name}, mean error", error, "%", f"<= {largest_error:g}", error <= largest_error),
            Bar(f"ZigZag, {name}, Kendall's tau", tau, "", f">= {least_tau}", tau >= least_tau),
            Bar(f"ZigZag, {name} lost by our choice of dataflow", regret, "%", "<= 1", regret <= 1),
        ]
    return bars


def regret_of(rows: Sequence[dict[str, str]], ours: Array, theirs: Array) -> float:
    """Mean excess of their value when the dataflow is chosen by ours."""
    pairs: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        pairs.setdefault((row["uid"], row["arr"]), []).append(index)
    complete = [pair for pair in pairs.values() if len(pair) > 1]
    return float(np.mean([theirs[min(pair, key=ours.__getitem__)] / theirs[pair].min() - 1 for pair in complete]))


def network_totals(reference: Path) -> dict[str, tuple[float, float]]:
    """Seconds and joules of tabulated networks and of each revision of SqueezeNext, on Squeezelerator 16x16."""
    networks: dict[str, Sequence[ConvGeometry]] = {}
    for name, layers in itertools.groupby(read_layers(reference / "network_layers.csv"), lambda layer: layer.network):
        networks[name] = [layer.geometry for layer in layers]
    for index, build in enumerate(REVISIONS, start=1):
        networks[f"SqueezeNext v{index}"] = geometries_of(build, (1, 3, 227, 227))
    totals = {}
    for name, geometries in networks.items():
        mappings = best_mappings(PROFILE, geometries, (16, 16))
        totals[name] = (sum(m.latency_s for m in mappings), sum(m.energy_j for m in mappings))
    return totals


def squeezenext_bars(totals: dict[str, tuple[float, float]]) -> list[Bar]:
    """Order of the revisions and published ratios to the last one."""
    last = totals["SqueezeNext v5"]
    bars = []
    for axis, name in enumerate(("time", "energy")):
        revisions = [totals[f"SqueezeNext v{index}"][axis] for index in range(1, 6)]
        steps = sum(worse > better for worse, better in itertools.pairwise(revisions))
        bars.append(Bar(f"SqueezeNext, {name} falls from v1 to v5", steps, "steps", "= 4", steps == 4))
        for network, published in PUBLISHED.items():
            ratio = totals[network][axis] / last[axis]
            error = ratio / published[axis] - 1
            text = f"{published[axis]} +- 30 % ({100 * error:+.0f} %)"
            bars.append(Bar(f"{network} / SqueezeNext v5, {name}", ratio, "x", text, abs(error) <= 0.3))
    return bars


def design_space(kind: ArrayKind) -> list[HardwareProfile]:
    """Arrays of one kind: five shapes with three buffers each, and static power."""
    shapes, buffers = [(8, 8), (8, 16), (16, 16), (16, 32), (32, 32)], [32 << 10, 128 << 10, 256 << 10]
    found = []
    for (rows, columns), capacity in itertools.product(shapes, buffers):
        assert PROFILE.array is not None
        sums = 1 if kind == "skewed" else 16
        changes = {"kind": kind, "rows": rows, "columns": columns, "filters_per_element": sums}
        array = PROFILE.array.model_copy(update=changes | {"dataflows": DATAFLOWS[kind]})
        register, buffer, dram = PROFILE.memories
        memories = (register, buffer.model_copy(update={"capacity_bytes": float(capacity)}), dram)
        compute = tuple(row.model_copy(update={"macs_per_s": array.macs_per_s}) for row in PROFILE.compute)
        parts = {"array": array, "memories": memories, "compute": compute, "idle_power_w": 0.05}
        found.append(PROFILE.model_copy(update=parts))
    return found


def speed_bars(reference: Path, rounds: int) -> list[Bar]:
    """Points in a second of CPU time: distinct layers x widths x dataflows x arrays and buffers x bandwidths."""
    geometries = list(dict.fromkeys(layer.geometry for layer in read_layers(reference / "network_layers.csv")))
    bits = [(width, 8) for width in (2, 3, 4, 5, 6, 8)]
    bandwidths = (2e9 * 2.0 ** np.linspace(0, 4, 16)).tolist()
    bars = []
    for kind in DATAFLOWS:
        designs = design_space(kind)

        def price(designs: Sequence[HardwareProfile] = designs) -> int:
            grid = price_grid(LayerTable.of(geometries, 8.0), bits, designs, bandwidths)
            assert np.isfinite(grid.energy_j).all()
            return grid.latency_s.size

        rate = best_rate(price, rounds)
        bars.append(Bar(f"speed, {kind} arrays, full energy", rate / 1e6, "M points/CPU-s", ">= 1", rate >= 1e6))
    return bars


def best_rate(work: Callable[[], int], rounds: int) -> float:
    """Most points in a second of CPU time over several rounds."""
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        points = work()
        rates.append(points / (time.process_time() - start))
    return max(rates)


def stored_rates(reference: Path) -> dict[str, float]:
    """Points in a second of CPU time that the other simulators took for the reference points, as stored with them."""
    found = {}
    for name, file, key in (
        ("SCALE-Sim 3.0.0", "scalesim_cycles.csv", "cpu_s"),
        ("ZigZag 3.9.1, lpf_limit 4", "zigzag_energy_latency.csv", "zz_cpu_s"),
    ):
        rows = rows_of(reference / file)
        found[name] = len(rows) / sum(float(row[key]) for row in rows)
    return found


SCALESIM_CONFIGURATION = """
[general]
run_name = points
[architecture_presets]
ArrayHeight: {size}
ArrayWidth: {size}
IfmapSramSzkB: 1024
FilterSramSzkB: 1024
OfmapSramSzkB: 1024
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 10
ReadRequestBuffer: 32
WriteRequestBuffer: 32
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def scalesim_bar(reference: Path, python: Path, size: int = 16, dataflow: str = "ws", count: int = 10) -> Bar:
    """Runs SCALE-Sim itself on its cheapest reference points: its speed, and whether its cycles are the stored ones."""
    rows = [r for r in rows_of(reference / "scalesim_cycles.csv") if (r["df"], r["arr"]) == (dataflow, str(size))]
    rows = sorted(rows, key=lambda row: int(row["cycles"]))[:count]
    topology, layout = ["layer,H,W,R,S,C,K,stride,"], ["layer," + "value," * 20]
    for index, row in enumerate(rows):
        oh, ow, c, k, r, s, stride = (int(row[key]) for key in ("OH", "OW", "C", "K", "R", "S", "stride"))
        size_in = f"{(oh - 1) * stride + r},{(ow - 1) * stride + s}"
        topology.append(f"layer{index},{size_in},{r},{s},{c},{k},{stride},")
        layout.append(f"layer{index}," + "1," * 20)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = {"run.cfg": SCALESIM_CONFIGURATION.format(size=size, dataflow=dataflow)}
        texts |= {"topology.csv": "\n".join(topology) + "\n", "layout.csv": "\n".join(layout) + "\n"}
        for name, text in texts.items():
            (work / name).write_text(text)
        command = [str(python), "-m", "scalesim.scale", "-c", "run.cfg", "-t", "topology.csv", "-l", "layout.csv"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "-p", "out"], cwd=work, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (report,) = work.glob("out/*/COMPUTE_REPORT.csv")
        found = [int(float(line.split(",")[2])) for line in report.read_text().splitlines()[1:]]
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    is_same = found == [int(row["cycles"]) for row in rows]
    return Bar("SCALE-Sim itself, run here", count / taken, "points/CPU-s", "cycles as stored", is_same)


def main() -> None:
    """Prints the tables and writes them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, default=ROOT.parent / "shared" / "reference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scalesim-python", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    totals, stored = network_totals(options.reference), stored_rates(options.reference)
    bars = scalesim_bars(options.reference) + zigzag_bars(options.reference) + squeezenext_bars(totals)
    bars += speed_bars(options.reference, options.rounds)
    if options.scalesim_python is not None:
        bars.append(scalesim_bar(options.reference, options.scalesim_python))
    print(f"{machine()}; {versions()}\n")
    for bar in bars:
        verdict = "met" if bar.is_met else "NOT MET"
        print(f"{bar.name:48s} {bar.value:9.3f} {bar.unit:15s} bar {bar.bar:22s} {verdict}")
    for name, rate in stored.items():
        print(f"{name + ', stored':48s} {rate:9.3f} points/CPU-s")
    last = totals["SqueezeNext v5"]
    print(f"\n{'Squeezelerator 16x16, 16-bit words':36s} {'ms':>8s} {'mJ':>8s} {'time / v5':>10s} {'energy / v5':>12s}")
    for name, (seconds, joules) in totals.items():
        ratios = f"{seconds / last[0]:10.2f} {joules / last[1]:12.2f}"
        print(f"{name:36s} {1e3 * seconds:8.3f} {1e3 * joules:8.3f} {ratios}")
    if options.json is not None:
        value = {"machine": machine(), "versions": versions(), "bars": [dataclasses.asdict(bar) for bar in bars]}
        networks = {name: {"latency_s": total[0], "energy_j": total[1]} for name, total in totals.items()}
        write_json(options.json, value | {"networks": networks, "stored_rates": stored})


if __name__ == "__main__":
    main()
