"""The process that times kernels on a device: `python -m codesign.backend.rpc_kernel_worker REQUEST.json`.

The device itself runs the timing loop (`time_evaluator`), so that the network between is not measured. Each kernel is
told at once, so that none is lost when the device goes away.
"""

import functools
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tvm
from pydantic import TypeAdapter
from tvm.runtime.vm import VirtualMachine

from codesign.backend.kernel_table import KernelCall
from codesign.backend.kernel_timing import NETWORK
from codesign.backend.rpc_request import TimeRequest
from codesign.backend.rpc_session import open_session
from codesign.backend.staged_process import tell
from codesign.backend.timed_rows import (
    NETWORK_SAMPLES,
    Samples,
    in_place,
    kernel_samples,
    operand_values,
    timed_rows,
)
from codesign.errors import InputError


@dataclass(frozen=True)
class _Timer:
    module: tvm.runtime.Module
    device: tvm.runtime.Device
    sample_s: float
    random: np.random.Generator

    def prepared(self, call: KernelCall) -> Samples:
        """Puts operands on the device; tells how to take a number of samples, in seconds a call."""
        operands = [
            tvm.runtime.tensor(operand_values(argument, self.random), self.device) for argument in call.arguments
        ]
        return kernel_samples(self.module, call.kernel, self.device, operands, self.sample_s)

    def network(self, library: tvm.runtime.Module, shape: tuple[int, ...]) -> Samples:
        """How to take a number of samples of a whole network, in seconds a run."""
        machine = VirtualMachine(library, self.device)
        image = tvm.runtime.tensor(np.zeros(shape, np.float32), self.device)
        machine.save_function("main", "timed", image, include_return=False)
        once = machine.time_evaluator("timed", self.device, number=1, repeat=3)()
        number = max(1, math.ceil(NETWORK_SAMPLES * self.sample_s / max(min(once.results), 1e-9)))

        def samples(repeats: int) -> list[float]:
            timed = machine.time_evaluator("timed", self.device, number=number, repeat=repeats)
            return [float(seconds) for seconds in timed().results]

        return samples


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: JSON of a `TimeRequest`.
    """
    request = TypeAdapter(TimeRequest).validate_json(Path(path).read_bytes())
    try:
        session = open_session(request.session)
    except InputError as error:
        tell(refused=str(error))
        return
    random = np.random.default_rng(0)
    timer, compared = (_Timer(module, session.device, request.sample_s, random) for module in session.modules[:2])
    reference = compared.prepared(request.reference)
    rows = request.placements, request.repeats, request.usual_reference_s
    for call in request.calls:
        if call.kernel == NETWORK:
            network = timer.network(session.modules[2], call.arguments[0].shape)
            timing = timed_rows(NETWORK, in_place(network), reference, *rows)
        elif timer.module.implements_function(call.kernel):
            timing = timed_rows(call.kernel, functools.partial(timer.prepared, call), reference, *rows)
        else:
            continue
        tell(**asdict(timing))


if __name__ == "__main__":
    main(sys.argv[1])
