"""The measured process: `python -m codesign.backend.worker REQUEST.json` loads one artefact, runs it and writes an npz.

It runs apart from everything else so that a crash or an endless loop costs one candidate. Thread counts stand in the
environment before it starts, since TVM and OpenMP read them once.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codesign.hardware.power import find_meter
from codesign.hardware.power_meter import PowerMeterError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    Prepared = Callable[[NDArray[np.float32]], Callable[[], object]]

LEAST_SAMPLE_S, LEAST_WARM_UP_S = 5e-4, 2e-2
"""Shorter samples of fast networks say what the machine was doing, not what the network takes."""


@dataclass(frozen=True)
class Request:
    """What a worker shall do.

    Attributes:
        artifact: File to load.
        compiler: `tvm` or `onnxruntime`.
        input_shape: Shape of the input.
        threads: Threads, for libraries that are told when they load.
        warm_up: Runs that are not counted.
        repeats: Samples.
        runs_per_sample: Runs whose mean is one sample, at least; a sample lasts `LEAST_SAMPLE_S` at least.
        images: An npy file of inputs `[N, ...]`, None for none.
        result: The npz file to write: `latencies_s` [repeats], `energy_j` of one run (NaN where nothing measures it),
            `energy_source` and `outputs` [N, ...], empty without images.
        sysfs: Where power meters are looked for.
    """

    artifact: str
    compiler: str
    input_shape: tuple[int, ...]
    threads: int
    warm_up: int
    repeats: int
    runs_per_sample: int
    images: str | None
    result: str
    sysfs: str = "/sys"

    def write(self, path: Path) -> None:
        """Writes the request.

        Args:
            path: Where to.
        """
        path.write_text(json.dumps(asdict(self)))


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: File that `Request.write` wrote.

    Raises:
        ValueError: The request names an unknown compiler.
    """
    request = Request(**json.loads(Path(path).read_text()))
    run, prepared = load(request.compiler, request.artifact, request.threads)
    images = np.zeros(request.input_shape, np.float32)
    outputs = np.zeros(0, np.float32)
    if request.images is not None:
        images = np.load(request.images, allow_pickle=False)
        outputs = np.concatenate([run(images[i : i + 1]) for i in range(len(images))])
    latencies_s, energy_j, energy_source = _latencies_and_energy(prepared(images[:1]), request)
    with Path(request.result).open("wb") as file:
        np.savez(file, latencies_s=latencies_s, energy_j=energy_j, energy_source=energy_source, outputs=outputs)


def load(compiler: str, artifact: str, threads: int) -> "tuple[Run, Prepared]":
    """Loads an artefact.

    Args:
        compiler: `tvm` or `onnxruntime`.
        artifact: The file.
        threads: For libraries that are told when they load.

    Returns:
        How to compute one output, and how to prepare a call that does nothing but run.

    Raises:
        ValueError: The compiler is neither.
    """
    if compiler == "tvm":
        return _load_tvm(artifact)
    if compiler == "onnxruntime":
        return _load_onnxruntime(artifact, threads)
    raise ValueError(f"no runtime for artefacts of compiler {compiler!r}")


def warmed_up(call: "Callable[[], object]", runs: int) -> float:
    """Runs a network until caches and clock are as they will stay.

    Args:
        call: Runs it once.
        runs: How often, at least; longer where that takes less than `LEAST_WARM_UP_S`.

    Returns:
        Seconds of a run, the fastest there was; 0 without any.
    """
    started, fastest_s = time.perf_counter(), math.inf
    count = 0
    while count < runs or (runs and time.perf_counter() - started < LEAST_WARM_UP_S):
        start = time.perf_counter()
        call()
        fastest_s, count = min(fastest_s, time.perf_counter() - start), count + 1
    return fastest_s if count else 0.0


def _latencies_and_energy(call: "Callable[[], object]", request: Request) -> "tuple[NDArray[np.float64], float, str]":
    """Latencies of all samples; energy of one run, NaN where nothing measures it; which meter, or why none.

    The energy is the mean power x the mean latency, since a meter's section is a little longer than the samples.
    """
    run_s = warmed_up(call, request.warm_up)
    runs = max(request.runs_per_sample, math.ceil(LEAST_SAMPLE_S / run_s) if run_s else 1)
    meter, reasons = find_meter(Path(request.sysfs))
    if meter is None:
        return samples_of(call, request.repeats, runs), math.nan, "not measured: " + "; ".join(reasons)
    try:
        meter.start()
        latencies_s = samples_of(call, request.repeats, runs)
        reading = meter.stop()
    except PowerMeterError as error:
        return samples_of(call, request.repeats, runs), math.nan, f"not measured: {error}"
    return latencies_s, reading.power_w * float(np.mean(latencies_s)), reading.source


def samples_of(call: "Callable[[], object]", repeats: int, runs: int) -> "NDArray[np.float64]":
    """Times a network.

    Args:
        call: Runs it once.
        repeats: Samples.
        runs: Consecutive runs of each.

    Returns:
        Mean seconds of a run, `[repeats]`.
    """
    samples = np.empty(repeats)
    for sample in range(repeats):
        start = time.perf_counter()
        for _ in range(runs):
            call()
        samples[sample] = (time.perf_counter() - start) / runs
    return samples


def _load_tvm(artifact: str) -> "tuple[Run, Prepared]":
    import tvm
    from tvm.runtime.vm import VirtualMachine

    function = VirtualMachine(tvm.runtime.load_module(artifact), tvm.cpu())["main"]

    def prepared(image: "NDArray[np.float32]") -> "Callable[[], object]":
        tensor = tvm.runtime.tensor(np.ascontiguousarray(image))
        return lambda: function(tensor)

    return lambda image: function(tvm.runtime.tensor(np.ascontiguousarray(image))).numpy(), prepared


def _load_onnxruntime(artifact: str, threads: int) -> "tuple[Run, Prepared]":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def prepared(image: "NDArray[np.float32]") -> "Callable[[], object]":
        feed = {name: np.ascontiguousarray(image)}
        return lambda: session.run(None, feed)

    def run(image: "NDArray[np.float32]") -> "NDArray[np.float32]":
        output: NDArray[np.float32] = session.run(None, {name: image})[0]
        return output

    return run, prepared


if __name__ == "__main__":
    main(sys.argv[1])
