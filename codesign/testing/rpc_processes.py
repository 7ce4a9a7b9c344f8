"""TVM's RPC tracker and server as processes of this machine, to be killed, stopped and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from codesign.backend.rpc_tracker import count_servers
from codesign.errors import DeviceError

_HOST = "127.0.0.1"
_START_S = 60.0


def free_port() -> int:
    """A port of this machine that nobody uses at the moment.

    Returns:
        The port.
    """
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


class RpcProcess:
    """A program of TVM's RPC that listens on a port of its own, with all processes that it starts.

    Attributes:
        port: Where it listens.
        log: Its output.
    """

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.port, self.log = free_port(), log
        ports = ["--host", _HOST, "--port", str(self.port), "--port-end", str(self.port + 1)]
        self._command = [sys.executable, "-m", module, *ports, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{_HOST}:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it and waits until it listens.

        Raises:
            DeviceError: It ended, or does not listen in time.
        """
        environment = os.environ | {"TVM_NUM_THREADS": "1", "TVM_USE_RUNTIME_LIB": "1"}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.port in _listening_ports():
                return
            time.sleep(0.05)
        self.kill()
        raise DeviceError(f"{' '.join(self._command)}: does not listen; look into {self.log}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it and all that it started.

        Args:
            number: Such as `SIGSTOP`.
        """
        if self._process is not None:
            with suppress(ProcessLookupError):  # all of them have ended already
                os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Ends it as a power failure would, and returns when nobody listens any more.

        Raises:
            DeviceError: Its port is not released in time.
        """
        self.signal(signal.SIGKILL)
        if self._process is None:
            return
        self._process.wait()
        self._process = None
        deadline = time.monotonic() + _START_S
        while self.port in _listening_ports():  # the process that listens may be one that it started, and end later
            if time.monotonic() > deadline:
                raise DeviceError(f"{self.address}: is not released after {_START_S:.0f} s")
            time.sleep(0.01)


class TrackerProcess(RpcProcess):
    """A tracker."""

    def __init__(self, log: Path) -> None:
        super().__init__("tvm.exec.rpc_tracker", [], log)


class ServerProcess(RpcProcess):
    """A server, registered at a tracker or to be reached directly."""

    def __init__(self, key: str, log: Path, tracker: str | None = None) -> None:
        arguments = ["--key", key] + ([] if tracker is None else ["--tracker", tracker])
        super().__init__("tvm.exec.rpc_server", arguments, log)
        self._key, self._tracker = key, tracker

    def start(self) -> None:
        """Starts it and waits until its tracker knows it.

        Raises:
            DeviceError: It does not listen or register in time.
        """
        super().start()
        deadline = time.monotonic() + _START_S
        while self._tracker is not None and not count_servers(self._tracker, self._key, _START_S).free:
            if time.monotonic() > deadline:
                self.kill()
                raise DeviceError(f"the server {self.address} does not register at {self._tracker}")
            time.sleep(0.05)


def _listening_ports() -> set[int]:
    """Ports that somebody listens on, without connecting to them: a server would take that for a client."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
