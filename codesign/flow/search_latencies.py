"""Latencies of several products that are to be compared.

A processor changes its clock by a third within seconds, and networks that are compared may differ by a tenth. Products
are therefore measured in rounds, one after the other, each in a process of its own, and the fastest round of each
counts: all else that a machine does only adds time.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from codesign.backend.base import Artifact
from codesign.errors import MeasurementError
from codesign.files import digest_of, write_bytes
from codesign.flow.build import latency_of, machine, settings_of
from codesign.flow.context import RunContext
from codesign.flow.prepare import versions
from codesign.flow.runners import runner_of
from codesign.progress import track
from codesign.report.contents import Latency

ROUNDS = 3
_LATENCIES = TypeAdapter(dict[str, Latency])


def latencies_in_rounds(
    run: RunContext, folder: Path, products: Mapping[str, Artifact], rounds: int = ROUNDS
) -> dict[str, Latency]:
    """Measures products in turn; kept in the folder.

    Args:
        run: The run of any of them: target, settings and progress are those of all.
        folder: Where the result is kept.
        products: Artefacts by name.
        rounds: How often each is measured.

    Returns:
        By name: the fastest round's median and spread, and the least sample of all rounds. A product that cannot be
        measured is left out, with a note.
    """
    settings = settings_of(run)
    digests = {name: digest_of(artifact.path) for name, artifact in products.items()}
    key = digest_of(digests, dataclasses.asdict(settings), rounds, machine(), versions())
    path = folder / f"latencies-{key[:12]}.json"
    if path.is_file():
        return _LATENCIES.validate_json(path.read_bytes())
    found: dict[str, list[Latency]] = {name: [] for name in products}
    names = list(products)
    work = [name for i in range(rounds) for name in (names if i % 2 == 0 else names[::-1])]
    for name in track(run.progress, f"Measuring {len(products)} networks in turn", work, len(work)):
        try:
            measurement = runner_of(run.target).measure(products[name], settings, None)
        except MeasurementError as error:
            run.progress.note(f"{name}: {error}")
            continue
        found[name].append(latency_of(products[name].compiler, measurement))
    latencies = {name: _fastest(each) for name, each in found.items() if each}
    write_bytes(path, _LATENCIES.dump_json(latencies, indent=1))
    return latencies


def _fastest(rounds: list[Latency]) -> Latency:
    best = min(rounds, key=lambda latency: latency.median_s)
    least = min(latency.minimum_s for latency in rounds)
    return dataclasses.replace(best, minimum_s=least, samples=sum(latency.samples for latency in rounds))
