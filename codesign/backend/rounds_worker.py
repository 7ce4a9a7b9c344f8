"""The measuring process of `rounds.py`: `python -m codesign.backend.rounds_worker REQUEST.json` writes an npz."""

import math
import sys
from pathlib import Path

import numpy as np

from codesign.backend.rounds import RoundsRequest
from codesign.backend.worker import load, samples_of, warmed_up

WARM_UP = 3
"""Runs of a network at the begin of its turn that are not counted."""


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: File that `RoundsRequest.write` wrote.
    """
    request = RoundsRequest.read(Path(path))
    calls, runs = [], []
    for network in request.networks:
        call = load(network.compiler, network.path, request.threads)[1](np.zeros(network.input_shape, np.float32))
        calls.append(call)
        runs.append(max(1, math.ceil(request.sample_s / warmed_up(call, WARM_UP))))
    turn_s = sum(
        (request.samples * count) * samples_of(call, 1, count)[0] for call, count in zip(calls, runs, strict=True)
    )
    rounds = min(request.most_rounds, max(request.least_rounds, math.ceil(request.seconds / turn_s)))
    samples = np.empty((rounds, len(calls), request.samples))
    for number in range(rounds):
        order = range(len(calls)) if number % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            samples_of(calls[i], 1, WARM_UP)
            samples[number, i] = samples_of(calls[i], request.samples, runs[i])
    with Path(request.result).open("wb") as file:
        np.savez(file, samples_s=samples)


if __name__ == "__main__":
    main(sys.argv[1])
