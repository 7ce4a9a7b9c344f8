"""The timing process: `python -m codesign.backend.kernel_worker REQUEST.json` times kernels of one TVM library.

Each call runs inside TVM's own timing loop (`time_evaluator`), so that neither Python nor the network's interpreter is
measured. It prints one JSON line a kernel, at once.
"""

import functools
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

from codesign.backend.kernel_table import KernelArgument, KernelCall
from codesign.backend.kernel_timing import NETWORK, read_request
from codesign.backend.timed_rows import (
    NETWORK_SAMPLES,
    Samples,
    in_place,
    kernel_samples,
    operand_values,
    timed_rows,
)
from codesign.hardware.amx_permission import request_amx

WARM_UP = 3
"""Runs of a network before it is timed."""
PAGE, LINE = 4096, 64
"""Bytes; a network's memory plan also aligns operands to cache lines."""


class Timer:
    """Times functions of one library.

    Attributes:
        library: The loaded library.
        device: Where it runs.
        sample_s: Seconds a sample.
        random: Source of operands.
    """

    def __init__(self, library: tvm.runtime.Module, sample_s: float) -> None:
        self.library = library
        self.device = tvm.cpu()
        self.sample_s = sample_s
        self.random = np.random.default_rng(0)

    def holds(self, call: KernelCall) -> bool:
        """Whether the library holds a function.

        Args:
            call: A call of it.

        Returns:
            True if it does.
        """
        return bool(self.library.implements_function(call.kernel))

    def prepared(self, call: KernelCall) -> Samples:
        """Allocates operands, runs once, and settles how many calls a sample has.

        Args:
            call: What to time.

        Returns:
            How to take a number of samples in seconds a call.
        """
        operands = [self._placed(argument) for argument in call.arguments]
        return kernel_samples(self.library, call.kernel, self.device, operands, self.sample_s)

    def _placed(self, argument: KernelArgument) -> tvm.runtime.Tensor:
        """An operand at a random distance from a page's start, in a piece of memory of its own."""
        values = operand_values(argument, self.random)
        memory = np.zeros(values.nbytes + 2 * PAGE, np.uint8)
        start = -memory.ctypes.data % PAGE + int(self.random.integers(PAGE // LINE)) * LINE
        operand = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        operand[...] = values
        return tvm.runtime.from_dlpack(operand)


def _network(library: str, shape: tuple[int, ...], sample_s: float) -> Samples:
    """How to take samples of a whole network, called as users call it.

    Args:
        library: The exported network.
        shape: Of its input.
        sample_s: Seconds a sample.

    Returns:
        How to take a number of samples in seconds a call.
    """
    function = VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())["main"]
    image = tvm.runtime.tensor(np.zeros(shape, np.float32))

    def seconds(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            function(image)
        return (time.perf_counter() - start) / number

    number = max(1, math.ceil(sample_s / min(seconds(1) for _ in range(WARM_UP))))
    return lambda repeats: [seconds(number) for _ in range(repeats)]


def _kernels_of(library: str) -> tvm.runtime.Module:
    """The machine code inside an exported network."""
    return tvm.runtime.load_module(library).imports[0]


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: File that `KernelRequest.write` wrote.

    Raises:
        ValueError: The library does not hold the reference kernel.
    """
    request = read_request(Path(path))
    request_amx()  # only the first kernel of a network asks by itself
    timer = Timer(_kernels_of(request.library), request.sample_s)
    others = Timer(_kernels_of(request.reference_library), request.sample_s)
    if not others.holds(request.reference):
        raise ValueError(f"{request.reference_library} holds no function {request.reference.kernel!r}")
    reference = others.prepared(request.reference)
    rows = request.placements, request.repeats, request.usual_reference_s
    for call in request.calls:
        if call.kernel == NETWORK:
            network = _network(request.library, call.arguments[0].shape, NETWORK_SAMPLES * request.sample_s)
            timing = timed_rows(NETWORK, in_place(network), reference, *rows)
        elif timer.holds(call):
            timing = timed_rows(call.kernel, functools.partial(timer.prepared, call), reference, *rows)
        else:
            continue
        print(json.dumps(asdict(timing)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
