"""The measured process of benchmarks/codegen.py: loads one network in one system, then answers lines on its input.

    python benchmarks/codegen_worker.py SYSTEM FILE THREADS IMAGES.npy PRECISION

`time SECONDS` answers with a JSON list of seconds of one run each; `outputs FILE.npy` writes the outputs of all images.
It imports nothing of codesign, so that the interpreter of another environment can run it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Images = Any
Run = Callable[[], object]
LEAST_SAMPLES, SAMPLE_S = 5, 1e-3


def load_tvm(path: str, threads: int, precision: str) -> tuple[Callable[[Images], Images], Callable[[Images], Run]]:
    """Our library."""
    import tvm
    from tvm import relax

    function = relax.VirtualMachine(tvm.runtime.load_module(path), tvm.cpu())["main"]

    def prepared(image: Images) -> Run:
        tensor = tvm.runtime.tensor(image)
        return lambda: function(tensor)

    return lambda image: function(tvm.runtime.tensor(image)).numpy(), prepared


def load_onnxruntime(
    path: str, threads: int, precision: str
) -> tuple[Callable[[Images], Images], Callable[[Images], Run]]:
    """Onnxruntime with all its graph optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0], lambda image: lambda: session.run(None, {name: image})


def load_openvino(
    path: str, threads: int, precision: str
) -> tuple[Callable[[Images], Images], Callable[[Images], Run]]:
    """OpenVINO for latency; what it does not run in integers is float32 unless bfloat16 was asked for."""
    import openvino  # type: ignore[import-not-found]  # a peer, not a dependency

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(image: Images) -> Images:
        request.set_input_tensor(openvino.Tensor(image))
        request.infer()
        return request.get_output_tensor().data.copy()

    def prepared(image: Images) -> Run:
        request.set_input_tensor(openvino.Tensor(image))
        infer: Run = request.infer
        return infer

    return run, prepared


LOADERS = {"codesign": load_tvm, "onnxruntime": load_onnxruntime, "openvino": load_openvino}


def timed(call: Run, seconds: float) -> list[float]:
    """Samples for about `seconds`; short calls are repeated until a sample lasts a millisecond."""
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    for _ in range(min(200, int(0.05 / once) + 3)):
        call()
    start = time.perf_counter()
    call()
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, int(SAMPLE_S / once))
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < LEAST_SAMPLES or time.perf_counter() < deadline:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls)
    return samples


def main(system: str, path: str, threads: str, images_path: str, precision: str) -> None:
    """Loads the network and serves requests until the input ends."""
    images = np.load(images_path, allow_pickle=False)
    run, prepared = LOADERS[system](path, int(threads), precision)
    call = prepared(np.ascontiguousarray(images[:1]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        word, argument = line.split(maxsplit=1)
        if word == "time":
            print(json.dumps(timed(call, float(argument))), flush=True)
            continue
        outputs = np.concatenate([run(np.ascontiguousarray(images[i : i + 1])) for i in range(len(images))])
        with Path(argument.strip()).open("wb") as file:
            np.save(file, outputs, allow_pickle=False)
        print(json.dumps("written"), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
