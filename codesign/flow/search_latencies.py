"""Latencies of several products that are to be compared.

On this machine they take turns of milliseconds in one process, and the rounds in which none was disturbed count
(`backend/rounds.py`). On a device behind a network they are measured one after the other, a few times each, and the
fastest round of each counts.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from codesign.backend.base import Artifact, MeasurementSettings
from codesign.backend.rounds import RoundSettings, measure_in_rounds, undisturbed
from codesign.errors import MeasurementError
from codesign.files import digest_of, write_bytes
from codesign.flow.build import latency_of, machine, settings_of, summed_up
from codesign.flow.context import RunContext
from codesign.flow.prepare import versions
from codesign.flow.runners import runner_of
from codesign.progress import track
from codesign.report.contents import Latency

REMOTE_ROUNDS = 3
_LATENCIES = TypeAdapter(dict[str, Latency])


def comparable_latencies(run: RunContext, folder: Path, products: Mapping[str, Artifact]) -> dict[str, Latency]:
    """Measures products in turn; kept in the folder.

    Args:
        run: The run of any of them: target, settings and progress are those of all.
        folder: Where the result is kept.
        products: Artefacts by name.

    Returns:
        By name: median, spread and number of the samples that count, and the least of all. Products that cannot be
        measured are left out, with a note.
    """
    settings, server = settings_of(run), run.target.rpc
    digests = {name: digest_of(artifact.path) for name, artifact in products.items()}
    where = None if server is None else server.model_dump(mode="json")
    key = digest_of(digests, dataclasses.asdict(settings), where, machine(), versions())
    path = folder / f"latencies-{key[:12]}.json"
    if path.is_file():
        return _LATENCIES.validate_json(path.read_bytes())
    measure = _here if server is None else _remotely
    latencies = measure(run, products, settings)
    if latencies:
        write_bytes(path, _LATENCIES.dump_json(latencies, indent=1))
    return latencies


def _here(run: RunContext, products: Mapping[str, Artifact], settings: MeasurementSettings) -> dict[str, Latency]:
    turns = RoundSettings(settings.threads, timeout_s=settings.timeout_s)
    try:
        for _ in track(run.progress, f"Measuring {len(products)} networks in turn", range(1), 1):
            samples = measure_in_rounds(list(products.values()), turns)
    except MeasurementError as error:
        run.progress.note(str(error))
        return {}
    kept = undisturbed(samples)
    found = {}
    for i, (name, artifact) in enumerate(products.items()):
        latency = summed_up(artifact.compiler, kept[:, i].ravel().tolist(), settings.threads, "measured")
        found[name] = dataclasses.replace(latency, minimum_s=float(samples[:, i].min()))
    return found


def _remotely(run: RunContext, products: Mapping[str, Artifact], settings: MeasurementSettings) -> dict[str, Latency]:
    found: dict[str, list[Latency]] = {name: [] for name in products}
    names = list(products)
    work = [name for i in range(REMOTE_ROUNDS) for name in (names if i % 2 == 0 else names[::-1])]
    for name in track(run.progress, f"Measuring {len(products)} networks in turn", work, len(work)):
        try:
            measurement = runner_of(run.target).measure(products[name], settings, None)
        except MeasurementError as error:
            run.progress.note(f"{name}: {error}")
            continue
        found[name].append(latency_of(products[name].compiler, measurement))
    return {name: _fastest(each) for name, each in found.items() if each}


def _fastest(rounds: list[Latency]) -> Latency:
    best = min(rounds, key=lambda latency: latency.median_s)
    least = min(latency.minimum_s for latency in rounds)
    return dataclasses.replace(best, minimum_s=least, samples=sum(latency.samples for latency in rounds))
