"""A session with a TVM RPC server, as the processes that talk to a device open it."""

from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import rpc

from codesign.backend.rpc_request import CHECK, CONNECT, RUN, UPLOAD, SessionRequest
from codesign.backend.rpc_tracker import split_address
from codesign.backend.shared_library import elf_header, refuse_other_machine
from codesign.backend.staged_process import tell
from codesign.errors import InputError
from codesign.hardware.target import RpcServer

_BIG_CORES_FIRST = 1


@dataclass(frozen=True)
class Session:
    """An open session.

    Attributes:
        modules: The libraries, loaded on the device.
        device: The device's processor.
        connection: Kept, since everything ends with it.
    """

    modules: tuple[tvm.runtime.Module, ...]
    device: tvm.runtime.Device
    connection: rpc.RPCSession


def open_session(request: SessionRequest) -> Session:
    """Connects, checks that the device can load the libraries, sets its threads, uploads and loads; tells each stage.

    Args:
        request: How.

    Returns:
        The session, in the stage `run`.

    Raises:
        InputError: A library is for another machine.
    """
    tell(stage=CONNECT)
    connection = _connect(request.server, request.session_s)
    tell(stage=CHECK)
    machine = _machine_of(connection)
    for library in request.libraries:
        refuse_other_machine(library, machine)
    connection.get_function("runtime.config_threadpool")(_BIG_CORES_FIRST, request.threads)
    tell(stage=UPLOAD)
    modules = [_loaded(connection, library, f"{i}-{library.name}") for i, library in enumerate(request.libraries)]
    tell(stage=RUN)
    return Session(tuple(modules), connection.cpu(), connection)


def _connect(server: RpcServer, session_s: int) -> rpc.RPCSession:
    if server.tracker is not None:
        tracker = rpc.connect_tracker(*split_address(server.tracker))
        return tracker.request(server.key, session_timeout=session_s, max_retry=1)
    assert server.server is not None
    return rpc.connect(*split_address(server.server), server.key, session_timeout=session_s)


def _machine_of(connection: rpc.RPCSession) -> str:
    """What the server's own program was compiled for; Linux lets every process read it."""
    header = elf_header(bytes(connection.download("/proc/self/exe")))
    if header is None:
        raise InputError("the RPC server is no Linux program, so nothing tells what it can load; use one on Linux")
    return header.machine


def _loaded(connection: rpc.RPCSession, library: Path, name: str) -> tvm.runtime.Module:
    connection.upload(str(library), name)
    return connection.load_module(name)
