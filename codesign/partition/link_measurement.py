"""Latency and bandwidth between local processes, fitted to measured collectives."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.distributed as dist

from codesign.partition.collectives import GLOO, Collective, messages, share
from codesign.partition.communicator import Communicator, Digit
from codesign.partition.processes import run_processes

KINDS: tuple[Collective, ...] = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "halo")
SIZES = tuple(1 << i for i in range(10, 21))
"""Bytes of `n`, up to one mebibyte: what layers of small networks send; larger messages are slower by byte."""


@dataclass(frozen=True)
class LinkSample:
    """One collective, measured.

    Attributes:
        kind: Which.
        size_bytes: `n` of the cost model.
        seconds: The least of all repetitions, of the slowest process.
    """

    kind: Collective
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class LinkFit:
    """The alpha-beta model fitted to samples.

    Attributes:
        latency_s: Alpha.
        bandwidth_bytes_per_s: 1 / beta.
        relative_error: Median of |predicted - measured| / measured over samples that the fit did not see.
        samples: All of them.
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    relative_error: float
    samples: tuple[LinkSample, ...]


def measure_links(devices: int, repeats: int) -> tuple[LinkSample, ...]:
    """Times collectives between local processes joined by gloo.

    Args:
        devices: How many processes.
        repeats: Of each collective and size.

    Returns:
        One sample for each.
    """
    times = run_processes(devices, lambda rank: _times(devices, rank, repeats))
    slowest = np.asarray(cast(list[list[list[float]]], times)).max(0).min(-1)
    pairs = [(kind, size) for kind in KINDS for size in SIZES]
    return tuple(LinkSample(kind, size, float(t)) for (kind, size), t in zip(pairs, slowest, strict=True))


def _times(devices: int, rank: int, repeats: int) -> list[list[float]]:
    communicator, digit = Communicator(devices, rank), Digit(1, devices)
    communicator.prepare([digit])
    found = []
    for kind in KINDS:
        for size in SIZES:
            taken = []
            for _ in range(repeats + 1):  # the first one warms up
                dist.barrier()
                started = time.perf_counter()
                _once(kind, size // 4, communicator, digit)
                taken.append(time.perf_counter() - started)
            found.append(taken[1:])
    return found


def _once(kind: Collective, elements: int, communicator: Communicator, digit: Digit) -> None:
    parts = digit.parts
    sizes = [elements // parts] * parts
    match kind:
        case "all-reduce":
            communicator.all_reduce(digit, torch.zeros(elements))
        case "all-gather":
            communicator.all_gather(digit, torch.zeros(sizes[0]), 0, sizes)
        case "reduce-scatter":
            communicator.reduce_scatter(digit, torch.zeros(sizes[0] * parts), 0, sizes)
        case "all-to-all":
            communicator.all_to_all(digit, torch.zeros(sizes[0] * parts, 1), 0, sizes, 1, [1] * parts)
        case _:
            after, before = (communicator.rank + 1) % parts, (communicator.rank - 1) % parts
            communicator.exchange([(after, torch.zeros(elements))], [(before, torch.zeros(elements))], 0)


def fit_link(samples: Sequence[LinkSample], devices: int) -> LinkFit:
    """Least squares of relative errors, over every second sample; the others judge it.

    Args:
        samples: At least four.
        devices: How many processes took part.

    Returns:
        The fit.
    """
    seen, unseen = samples[::2], samples[1::2]
    rows, times = _design(seen, devices)
    (latency, by_byte), *_ = np.linalg.lstsq(rows / times[:, None], np.ones(len(times)), rcond=None)
    latency, by_byte = max(float(latency), 0.0), max(float(by_byte), 1e-15)
    held_out, measured = _design(unseen, devices)
    errors = np.abs(held_out @ np.asarray([latency, by_byte]) - measured) / measured
    return LinkFit(latency, 1 / by_byte, float(np.median(errors)), tuple(samples))


def _design(samples: Sequence[LinkSample], devices: int) -> tuple["np.typing.NDArray[np.float64]", ...]:
    rows = [[messages(s.kind, devices), share(s.kind, devices) * s.size_bytes * GLOO.get(s.kind, 1.0)] for s in samples]
    return np.asarray(rows, np.float64), np.asarray([s.seconds for s in samples])
