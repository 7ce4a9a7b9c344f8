"""The process that measures a network on a device: `python -m codesign.backend.rpc_worker REQUEST.json`."""

import sys
from pathlib import Path

import numpy as np
import tvm
from numpy.typing import NDArray
from pydantic import TypeAdapter
from tvm.runtime.vm import VirtualMachine

from codesign.backend.rpc_request import RunRequest
from codesign.backend.rpc_session import Session, open_session
from codesign.backend.staged_process import tell
from codesign.errors import InputError
from codesign.files import replacing


def main(path: str) -> None:
    """Carries out a request.

    Args:
        path: JSON of a `RunRequest`.
    """
    request = TypeAdapter(RunRequest).validate_json(Path(path).read_bytes())
    try:
        session = open_session(request.session)
    except InputError as error:
        tell(refused=str(error))
        return
    latencies_s, outputs = _run(session, request)
    with replacing(request.result) as temporary:
        np.savez(temporary, latencies_s=latencies_s, outputs=outputs)


def _run(session: Session, request: RunRequest) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    device = session.device
    machine = VirtualMachine(session.modules[0], device)
    images = np.zeros(request.input_shape, np.float32)
    outputs = np.zeros(0, np.float32)
    if request.images is not None:
        images = np.load(request.images, allow_pickle=False)
        outputs = np.concatenate([_output(machine, device, images[i : i + 1]) for i in range(len(images))])
    image = tvm.runtime.tensor(np.ascontiguousarray(images[:1]), device)
    machine.save_function("main", "timed", image, include_return=False)
    if request.warm_up:
        machine.time_evaluator("timed", device, number=request.warm_up, repeat=1)()
    timed = machine.time_evaluator(
        "timed", device, number=request.runs_per_sample, repeat=request.repeats, min_repeat_ms=1
    )()
    return np.array(timed.results), outputs


def _output(machine: VirtualMachine, device: tvm.runtime.Device, image: NDArray[np.float32]) -> NDArray[np.float32]:
    machine.set_input("main", tvm.runtime.tensor(np.ascontiguousarray(image), device))
    machine.invoke_stateful("main")
    output: NDArray[np.float32] = machine.get_outputs("main").numpy()
    return output


if __name__ == "__main__":
    main(sys.argv[1])
