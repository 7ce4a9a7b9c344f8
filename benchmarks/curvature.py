"""The bars of curvature and sensitivity: cost against PyHessian and curvlinops, exactness, predictors, plans, memory.

    python benchmarks/curvature.py [--only PART ...] [--network resnet20|resnet56|both] [--json F]

Parts: `memory`, `traces`, `exact`, `reproducible`, `predictors`, `plans`. The packages compared with are installed by
`pip install -e '.[benchmarks]'`. CPU seconds are of one thread, in alternating rounds.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

from curvature_exact import exact, memory, reproducible
from curvature_plans import plans
from curvature_predictors import Prepared, predictors, prepare
from curvature_setup import CHECKPOINTS, Part, version_of
from curvature_traces import CURVLINOPS, PYHESSIAN, traces

from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions


def main() -> None:
    """Prints tables and bars, and writes them as JSON."""
    options = _options()
    with_peers = {**versions(), **{name: version_of(name) or "absent" for name in (PYHESSIAN, CURVLINOPS)}}
    print(f"{machine()}; {with_peers}")
    found = {}
    for name, run in _parts(options).items():
        found[name] = run()
        _write(options.json, with_peers, found)  # a later part may be stopped
    print()
    for part in found.values():
        for bar in part.bars:
            print(bar)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("memory", "traces", "exact", "reproducible", "predictors", "plans")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="parts to run; all if left out")
    parser.add_argument("--network", choices=(*CHECKPOINTS, "both"), default="both")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each time of traces")
    parser.add_argument("--probes", type=int, default=32, help="PyHessian's products whose variance is taken")
    parser.add_argument("--xtrace-runs", type=int, default=8, help="runs of XTrace at each number of products")
    parser.add_argument("--samples", type=int, default=500, help="calibration images of predictors")
    parser.add_argument("--assignments", type=int, default=100, help="random mixed assignments")
    parser.add_argument("--whole-samples", type=int, default=250, help="images that whole assignments are measured on")
    parser.add_argument("--jpeg-samples", type=int, default=5000, help="JPEG test images for plans")
    parser.add_argument("--evaluations", type=int, default=40, help="plans of the local search; 0 leaves it out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> Mapping[str, Callable[[], Part]]:
    """What to run; `memory` first, while this process is still small."""
    networks = tuple(CHECKPOINTS) if options.network == "both" else (options.network,)

    @cache
    def prepared(network: str) -> Prepared:
        return prepare(network, options.samples)

    work: dict[str, Callable[[], Part]] = {
        "memory": memory,
        "traces": partial(traces, options.rounds, options.probes, options.xtrace_runs),
        "exact": exact,
        "reproducible": reproducible,
    }
    for network in networks:
        work[f"predictors {network}"] = lambda network=network: predictors(  # type: ignore[misc] # bound now
            prepared(network), options.assignments, options.whole_samples
        )
        work[f"plans {network}"] = lambda network=network: plans(  # type: ignore[misc] # bound now
            prepared(network), options.jpeg_samples, options.evaluations
        )
    return {name: run for name, run in work.items() if name.split()[0] in options.only}


def _write(path: Path | None, with_versions: Mapping[str, str], found: Mapping[str, Part]) -> None:
    if path is None:
        return
    parts = {name: {"bars": [bar.to_json() for bar in part.bars], **part.numbers} for name, part in found.items()}
    write_json(path, {"machine": machine(), "versions": with_versions, "parts": parts})


if __name__ == "__main__":
    main()
