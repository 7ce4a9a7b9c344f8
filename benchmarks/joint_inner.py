"""The bars of the exact decision for one variant: time for 50 layers, and a space that can be enumerated.

    python benchmarks/joint_inner.py [--only time|space ...] [--seeds N] [--highs SECONDS] [--json F]

`time`: networks of 50 layers with 4 widths and 4 places for each, dense tables on all edges, residual edges included,
with random prices and with prices of convolutions, under a tight, a middle and a loose limit on latency: seconds to a
proven optimum with labels, and with HiGHS (the first seed; 0 leaves it out). Seconds are those of the processor, since
other work shares the machine; the worst on the clock stands beside them. `space`: 24 variants of six layers at 4 or
8 bits, on one device and with two places for each layer, where the common front must equal brute force exactly.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from curvature_setup import Bar, print_table

from codesign.cost.select import cost_model_for
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions
from codesign.hardware.catalog import load_profile, load_target
from codesign.quantization.scheme import Widths
from codesign.search.joint_allocation import allocate, least_total
from codesign.search.joint_devices import devices_of, link_of, problem_on_devices, problem_on_one_device
from codesign.search.joint_problem import JointEdge, JointOption, JointProblem
from codesign.search.joint_solution import solution_of
from codesign.search.joint_union import Candidate, union_front
from codesign.solver.one_hot_model import OutOfTimeError
from codesign.testing.joint_problems import best_points, near_best
from codesign.testing.small_variants import CHOICES, small_variants

LAYERS, WIDTHS, PLACES = 50, (8, 6, 4, 2), 4
LIMITS = {"tight": 0.05, "middle": 0.3, "loose": 0.7}
"""Share of the way from the least latency to that of the best choice without a limit."""
MOST_S = 1.0
TITLES = {
    "time": "Exact decision for 50 layers, 16 options each",
    "space": "Common front of 24 variants against brute force",
}


def layers(seed: int, prices: str) -> JointProblem:
    """50 layers; each reads the one before it, every third also the one three layers before."""
    rng = np.random.default_rng(seed)
    macs, values = 10 ** rng.uniform(5, 7.5, LAYERS), 10 ** rng.uniform(3.5, 5.5, LAYERS)
    rates = 10 ** rng.uniform(8.5, 10, PLACES)
    options = []
    for v in range(LAYERS):
        if prices == "random":
            losses, seconds = np.sort(rng.random(len(WIDTHS))), rng.random((len(WIDTHS), PLACES))
        else:
            losses = 10 ** rng.uniform(-3, 0) * 4.0 ** -np.asarray(WIDTHS, float)
            seconds = macs[v] / rates * (0.3 + 0.7 * np.asarray(WIDTHS)[:, None] / 8) + 1e-5
        options.append(
            tuple(
                JointOption(Widths(bits, bits), f"d{p}", float(losses[i]), {"latency_s": float(seconds[i, p])})
                for i, bits in enumerate(WIDTHS)
                for p in range(PLACES)
            )
        )
    pairs = [(v - 1, v) for v in range(1, LAYERS)] + [(v - 3, v) for v in range(3, LAYERS, 3)]
    edges = []
    for u, v in pairs:
        if prices == "random":
            table = 0.5 * rng.random((len(options[u]), len(options[v])))
        else:
            table = np.asarray([[_edge_s(a, b, values[u]) for b in options[v]] for a in options[u]])
        edges.append(JointEdge(u, v, {"latency_s": table}))
    return JointProblem(tuple(f"layer{v}" for v in range(LAYERS)), tuple(options), tuple(edges))


def _edge_s(made: JointOption, read: JointOption, values: float) -> float:
    """0.1 ms and 300 MB/s from place to place, and 2e9 values requantised in a second."""
    bits = min(made.widths.activation, read.widths.activation)
    moved = 0.0 if made.place == read.place else 1e-4 + values * bits / 8 / 3e8
    return moved + (0.0 if made.widths == read.widths else values / 2e9)


def time_rows(seeds: int, highs_s: float) -> tuple[list[dict[str, object]], list[Bar]]:
    """Seconds by prices and limit, and the bars."""
    rows: list[dict[str, object]] = []
    bars = []
    for prices in ("random", "convolutions"):
        for name, share in LIMITS.items():
            walls, seconds, gaps, highs, highs_proven = [], [], [], float("nan"), False
            for seed in range(seeds):
                problem = layers(seed, prices)
                least = least_total(problem, "latency_s")
                assert least is not None  # there are no limits
                free = allocate(problem).metrics["latency_s"]
                limits = {"latency_s": least + share * (free - least)}
                started, busy = time.perf_counter(), time.process_time()
                found = allocate(problem, limits)
                walls.append(time.perf_counter() - started)
                seconds.append(time.process_time() - busy)
                gaps.append(found.gap)
                if seed == 0 and highs_s:
                    highs, highs_proven = _highs(problem, limits, highs_s, found.loss_increase_nats)
            worst = max(seconds)
            rows.append({
                "prices": prices,
                "limit": name,
                "seeds": seeds,
                "median_s": statistics.median(seconds),
                "worst_s": worst,
                "worst_wall_s": max(walls),
                "worst_gap": max(gaps),
                "highs_s": highs,
                "highs_proven": highs_proven,
                "highs / labels": highs / seconds[0],
            })
            bars += [
                Bar(f"{prices}, {name}: worst processor seconds", worst, most=MOST_S),
                Bar(f"{prices}, {name}: worst gap", max(gaps), most=0.0),
            ]
    return rows, bars


def _highs(problem: JointProblem, limits: dict[str, float], seconds: float, expected: float) -> tuple[float, bool]:
    """Seconds of HiGHS for the same problem, cheapest of equals included, and whether it proved the same optimum."""
    busy = time.process_time()
    try:
        found = solution_of(problem, limits, deadline=time.perf_counter() + seconds, method="integer-programme")
    except OutOfTimeError:
        return time.process_time() - busy, False
    took = time.process_time() - busy
    assert found.picks is not None  # labels found a choice
    same = abs(problem.loss_of(found.picks) - expected) <= 1e-9 * abs(expected)
    return took, found.is_proven and same


def space_rows() -> tuple[list[dict[str, object]], list[Bar]]:
    """The common front of 24 variants, and whether it is that of brute force."""
    rows: list[dict[str, object]] = []
    bars = []
    for target in ("squeezelerator-16x16", "big-little"):
        candidates = _candidates(target)
        choices = sum(int(np.prod([len(o) for o in c.problem.options])) for c in candidates)
        for metric in ("latency_s", "energy_j", "peak_memory_bytes"):
            started = time.perf_counter()
            found = union_front(candidates, metric)
            seconds = time.perf_counter() - started
            every = [
                (c.loss_nats + loss, totals)
                for c in candidates
                for loss, totals in near_best(c.problem, metric).values()
            ]
            enumerated_s = time.perf_counter() - started - seconds
            points = [(p.allocation.metrics[metric], p.loss_nats) for p in found]
            equal = points == best_points(every, metric)
            rows.append({
                "target": target,
                "metric": metric,
                "choices": choices,
                "points": len(points),
                "seconds": seconds,
                "enumeration_s": enumerated_s,
                "equal": equal,
            })
            bars.append(Bar(f"{target}, {metric}: front equals brute force", float(equal), least=1.0))
    return rows, bars


def _candidates(target: str) -> list[Candidate]:
    if target == "big-little":
        found = load_target(target)
        devices, link = devices_of(found), link_of(found)
        return [Candidate(n, loss, problem_on_devices(f, devices, link, CHOICES)) for n, loss, f in small_variants()]
    model = cost_model_for(load_profile(target))
    return [Candidate(n, loss, problem_on_one_device(f, model, CHOICES)) for n, loss, f in small_variants()]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("time", "space"), nargs="*", default=["time", "space"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--highs", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{machine()}; {versions()}")
    tables, bars = {}, []
    for part in options.only:
        rows, found = time_rows(options.seeds, options.highs) if part == "time" else space_rows()
        tables[part] = rows
        bars += found
        print_table(TITLES[part], list(rows[0]), [list(row.values()) for row in rows])
    for bar in bars:
        print(bar)
    if options.json is not None:
        shown = [bar.to_json() for bar in bars]
        write_json(options.json, {"machine": machine(), "versions": versions(), "bars": shown, **tables})


if __name__ == "__main__":
    main()
