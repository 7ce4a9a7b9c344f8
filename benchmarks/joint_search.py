"""The bars of the joint search.

    python benchmarks/joint_search.py [--run examples/search_digits.toml] [--folder runs/joint-search]
                                      [--evaluations 60] [--seeds 5] [--kills 20] [--only methods|kills|front]
                                      [--json F]

`methods`: hypervolume of the joint search against others that may evaluate as many networks. `sequential`: half of
them look for an architecture at 8 bits, the other half for widths of the best one (`sequential-all` counts the first
half's networks too, which a sequential flow throws away). `random`: variants and widths drawn evenly. `uniform`: the
search's own sampler over variants and one width for all layers. A network is evaluated by its loss on search data with
shared weights and by the target's cost model; all methods know the same analyses. The reference point is that of the
report: a tenth beyond the worst of the largest and smallest variants.

`front`: time from nothing to the report. `kills`: a search is killed at random times until it ends; its front is
compared with that of an undisturbed one of the same seed (both on the first target, without finalists).
"""

import argparse
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from codesign.architecture.shared_weight import SharedWeight
from codesign.architecture.space import (
    ArchitectureSpace,
    Axis,
    StagePicture,
    Variant,
    largest,
    smallest,
    variant_at,
    variant_count,
)
from codesign.console import ConsoleProgress
from codesign.cost.base import price
from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.elastic import train_shared_weights
from codesign.flow.prepare import versions
from codesign.flow.search import search
from codesign.flow.search_context import SearchContext, TargetContext, open_search
from codesign.flow.search_points import Reached, front_of, networks_of
from codesign.flow.search_pricing import DECIDED, metrics_of, plan_of, problem_of
from codesign.flow.search_trials import TrialEvaluator, decisions, open_study
from codesign.flow.variant_analysis import VariantAnalyst
from codesign.plan.plan import Plan
from codesign.progress import Silent
from codesign.quantization.scheme import BitWidths
from codesign.search.joint_study import JointStudy, Outcome, StudyOptions
from codesign.search.pareto import hypervolume, non_dominated
from codesign.search_file import load_search_file

Point = tuple[float, ...]
Method = Literal["joint", "sequential", "sequential-all", "random", "uniform"]
METHODS: tuple[Method, ...] = ("joint", "sequential", "sequential-all", "random", "uniform")


@dataclass
class Bench:
    """A target and all that is known of variants; analyses are shared by all methods."""

    context: SearchContext
    place: TargetContext
    analyst: VariantAnalyst

    def __post_init__(self) -> None:
        self.evaluator = TrialEvaluator(self.context, self.place, self.analyst)
        self.reference = self._reference()

    def decided(self, variant: Variant, count: int) -> list[Point]:
        """Networks of a variant's own front, evenly spread over budgets of all traded metrics."""
        analysed = self.analyst.analyse(variant)
        metrics = tuple(DECIDED[metric] for metric in self.context.search.search.metrics)
        points = 2 + -(-count // len(metrics))
        found = decisions(problem_of(self.place, analysed), {}, metrics, points)
        every = [found[i * len(found) // count] for i in range(count)] if len(found) > count else found
        plans = [plan_of("", self.place, analysed.facts, decision.allocation) for decision in every]
        return [self.given(variant, plan.bits_of) for plan in plans]

    def given(self, variant: Variant, bits: Mapping[str, BitWidths]) -> Point:
        """A network with given widths."""
        facts = self.analyst.screen(variant).facts
        cost = price(self.place.cost_model, facts, Plan("", tuple(bits.items())))
        totals = {
            "latency_s": cost.latency_s,
            "energy_j": cost.energy_j,
            "weight_bytes": float(cost.weight_bytes),
            "peak_memory_bytes": float(cost.peak_memory_bytes),
        }
        return (self.analyst.loss_of(variant, bits).value, *metrics_of(totals))

    def uniform(self, variant: Variant, bits: int) -> Point:
        """A network with one width for all layers."""
        widths = BitWidths(bits, self.place.widths[0].activation)
        return self.given(variant, {node.name: widths for node in self.analyst.screen(variant).facts.weighted})

    def _reference(self) -> Point:
        whole, least = largest(self.context.space), smallest(self.context.space)
        narrow = self.place.widths[0].weight
        first = [self.uniform(whole, 8), self.uniform(least, 8), self.uniform(least, narrow)]
        return tuple(1.1 * max(point[k] for point in first) for k in range(len(first[0])))

    def volume(self, points: Sequence[Point]) -> float:
        """Share of the box below the reference that points dominate."""
        return hypervolume(points, self.reference) / math.prod(self.reference)


@dataclass(frozen=True)
class WithWidth:
    """A space whose variants have one width for all layers too."""

    base: ArchitectureSpace
    bits: tuple[int, ...]

    @property
    def name(self) -> str:
        """Says that widths are uniform."""
        return f"{self.base.name}-uniform"

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The base's axes and the width."""
        return (*self.base.axes, Axis("bits", self.bits))

    def network(self, variant: Variant) -> nn.Module:
        """As of the architecture."""
        return self.base.network(self.without(variant))

    def input_shape(self, variant: Variant) -> tuple[int, ...]:
        """As of the architecture."""
        return self.base.input_shape(self.without(variant))

    def shared_weights(self, variant: Variant) -> Mapping[str, SharedWeight]:
        """As of the architecture."""
        return self.base.shared_weights(self.without(variant))

    def stages(self, variant: Variant) -> tuple[StagePicture, ...]:
        """As of the architecture."""
        return self.base.stages(self.without(variant))

    def without(self, variant: Variant) -> Variant:
        """The architecture alone."""
        return Variant(variant.choices[:-1])


def joint(bench: Bench, count: int, seed: int, folder: Path) -> list[Point]:
    """The product's search."""
    section = bench.context.search.search
    options = StudyOptions(section.sampler, count, section.points, seed)
    study = JointStudy(f"journal:{folder}/joint-{seed}.journal", "joint", bench.context.space, options)
    least = smallest(bench.context.space)
    study.begin_with((largest(bench.context.space), least, least))
    points: list[Point] = []
    reached = Reached(lambda networks: networks)
    while (candidate := study.ask()) is not None:
        reached.add(study.finished)
        outcome = bench.evaluator.evaluate(candidate, reached)
        study.tell(candidate, outcome)
        if outcome.kind == "evaluated" and outcome.values is not None:
            points.append(outcome.values)
    return points


def sequential(bench: Bench, count: int, seed: int, folder: Path) -> tuple[list[Point], list[Point]]:
    """Architecture first, at 8 bits; then widths of the best one. Points of both halves."""
    space = bench.context.space
    study = JointStudy(
        f"journal:{folder}/sequential-{seed}.journal", "s", space, StudyOptions("nsga2", count // 2, 1, seed)
    )
    tried: list[tuple[Variant, Point]] = []
    while (candidate := study.ask()) is not None:
        point = bench.uniform(candidate.variant, 8)
        study.tell(candidate, Outcome("evaluated", point, {}))
        tried.append((candidate.variant, point))
    front = [tried[i] for i in non_dominated([point for _, point in tried])]
    best = max(front, key=lambda entry: bench.volume([entry[1]]))[0]
    return [point for _, point in tried], bench.decided(best, count - count // 2)


def at_random(bench: Bench, count: int, seed: int) -> Iterator[Point]:
    """Variants and widths drawn evenly."""
    generator = np.random.default_rng(seed)
    space = bench.context.space
    for _ in range(count):
        variant = variant_at(space, int(generator.integers(variant_count(space))))
        nodes = bench.analyst.screen(variant).facts.weighted
        widths = bench.place.widths
        yield bench.given(variant, {node.name: widths[int(generator.integers(len(widths)))] for node in nodes})


def uniform(bench: Bench, count: int, seed: int, folder: Path) -> Iterator[Point]:
    """The product's sampler over variants and one width for all layers."""
    space = WithWidth(bench.context.space, tuple(widths.weight for widths in bench.place.widths))
    study = JointStudy(f"journal:{folder}/uniform-{seed}.journal", "u", space, StudyOptions("nsga2", count, 1, seed))
    while (candidate := study.ask()) is not None:
        bits = int(candidate.variant.values["bits"])
        point = bench.uniform(space.without(candidate.variant), bits)
        study.tell(candidate, Outcome("evaluated", point, {}))
        yield point


def methods(context: SearchContext, weights: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Hypervolumes of all methods, targets and seeds."""
    rows: list[dict[str, object]] = []
    analyst = VariantAnalyst(context, weights)
    for place in context.targets:
        bench = Bench(context, place, analyst)
        for seed in range(arguments.seeds):
            folder = arguments.folder / "methods" / place.target.name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            first, second = sequential(bench, arguments.evaluations, seed, folder)
            for method in METHODS:
                started = time.perf_counter()
                match method:
                    case "joint":
                        points = joint(bench, arguments.evaluations, seed, folder)
                    case "sequential":
                        points = second
                    case "sequential-all":
                        points = first + second
                    case "random":
                        points = list(at_random(bench, arguments.evaluations, seed))
                    case "uniform":
                        points = list(uniform(bench, arguments.evaluations, seed, folder))
                rows.append({
                    "target": place.target.name,
                    "method": method,
                    "seed": seed,
                    "hypervolume": bench.volume(points),
                    "evaluations": arguments.evaluations,
                    "seconds": time.perf_counter() - started,
                })
                print(rows[-1], flush=True)
    return rows


def show_methods(rows: Sequence[Mapping[str, object]]) -> None:
    """Means with standard errors, and the ratio of each seed's joint search to every other method."""
    for target in dict.fromkeys(str(row["target"]) for row in rows):
        table = Table("method", "hypervolume", "joint / method", "least", "seeds won", title=target)
        of = {
            method: [float(str(r["hypervolume"])) for r in rows if (r["target"], r["method"]) == (target, method)]
            for method in METHODS
        }
        for method, volumes in of.items():
            ratios = [a / b for a, b in zip(of["joint"], volumes, strict=True)]
            won = sum(ratio > 1 for ratio in ratios)
            mean, error = _mean(ratios)
            volume, spread = _mean(volumes)
            table.add_row(
                method,
                f"{volume:.4f} ± {spread:.4f}",
                f"{mean:.3f} ± {error:.3f}",
                f"{min(ratios):.3f}",
                f"{won} of {len(ratios)}",
            )
        Console(width=120).print(table)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), error


def kills(arguments: argparse.Namespace, progress: ConsoleProgress) -> list[dict[str, object]]:
    """Ends a search by SIGKILL at random times, and compares its front with the undisturbed one's."""
    file = load_search_file(arguments.run)
    settings = ["search.finalists=0", f"search.trials={arguments.evaluations}"]
    target = file.targets[0]
    fronts = {}
    for name in ("undisturbed", "killed"):
        folder = arguments.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(arguments.folder / "elastic", folder / "elastic")
        shutil.copytree(arguments.folder / "steps", folder / "steps")
        command = [sys.executable, "-m", "codesign", "search", str(arguments.run), "--target", target]
        command += ["--out", str(folder), *(part for setting in settings for part in ("--set", setting))]
        done = 0
        generator = random.Random(0)
        while name == "killed" and done < arguments.kills:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=generator.uniform(4.0, 14.0))
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        context = open_search(
            load_search_file(arguments.run, settings, [target]), arguments.run.parent, folder, None, progress
        )
        finished = open_study(context, context.targets[0]).finished
        fronts[name] = sorted((n.plan.digest, n.values) for n in front_of(networks_of(finished)))
        print(f"{name}: {done} kills, {len(finished)} trials, {len(fronts[name])} on the front")
    same = fronts["killed"] == fronts["undisturbed"]
    print(f"the same front: {same}")
    return [{"target": target, "method": "killed", "seed": file.seed, "kills": done, "same_front": same}]


def whole(arguments: argparse.Namespace, progress: ConsoleProgress) -> list[dict[str, object]]:
    """From nothing to the report, one target at a time."""
    rows: list[dict[str, object]] = []
    for target in load_search_file(arguments.run).targets:
        file = load_search_file(arguments.run, (), [target])
        folder = arguments.folder / f"whole-{target}"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        report = search(file, arguments.run.parent, folder, progress)
        seconds = time.perf_counter() - started
        result = report.targets[0]
        rows.append({
            "target": target,
            "method": "whole",
            "seed": file.seed,
            "seconds": seconds,
            "hypervolume": result.trials[-1].hypervolume,
            "evaluations": len(result.trials),
            "joint_points": result.joint_points,
            "latency_tau": result.latency_agreement.tau,
            "loss_tau": result.loss_agreement.tau,
        })
        print(rows[-1])
    return rows


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("examples/search_digits.toml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/joint-search"))
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=["methods", "kills", "front"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{machine()}; {', '.join(f'{k} {v}' for k, v in versions().items())}")
    rows: list[dict[str, object]] = []
    with ConsoleProgress(Console()).live() as progress:
        if arguments.only in (None, "front"):
            rows += whole(arguments, progress)
        if arguments.only in (None, "methods", "kills"):
            file = load_search_file(arguments.run)
            context = open_search(file, arguments.run.parent, arguments.folder, None, progress)
            weights = train_shared_weights(context)
            if arguments.only in (None, "methods"):
                found = methods(replace(context, progress=Silent()), weights, arguments)
                show_methods(found)
                rows += found
            if arguments.only in (None, "kills"):
                rows += kills(arguments, progress)
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
