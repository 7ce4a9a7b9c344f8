"""Injects faults into measurements over TVM RPC on this machine, and checks what a user is left with.

Every fault must end within its time limit, in a message that says what to do; what was measured before must be kept;
and when the cause is removed, the same measurement must work. Run `python benchmarks/rpc_faults.py [--json F]`; 100
faults take about half an hour.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codesign.backend.base import Artifact, MeasurementSettings
from codesign.backend.kernel_table import KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import KernelTimingSettings, ReferenceKernel
from codesign.backend.rpc_runner import RpcRunner
from codesign.backend.staged_process import START_LIMIT_S
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.calibration.probe_network import REFERENCE_LAYER, reference_network
from codesign.errors import CodesignError
from codesign.files import write_json
from codesign.hardware.host import detect_host
from codesign.hardware.target import RpcServer, Target, TvmTarget
from codesign.ir.serialization import save_graph
from codesign.testing.rpc_processes import ServerProcess, TrackerProcess

KEY = "edge"
CONNECT_S, QUEUE_S, TIMEOUT_S = 5.0, 3.0, 6.0
LIMIT_S = QUEUE_S + 3 * CONNECT_S + TIMEOUT_S + CONNECT_S
"""Of one measurement: waiting for a server, three steps, the run, and patience with a server that ends no session."""
QUICK = MeasurementSettings(warm_up=2, repeats=5, runs_per_sample=5, timeout_s=TIMEOUT_S)
LONG = dataclasses.replace(QUICK, repeats=100, runs_per_sample=1_000_000)
CURE = re.compile(r"start one|restart|raise|compile for|copy or compile|look into|wait for|repeat the command")
SERVER_STAYS = "wrong architecture"
"""After this fault the same server goes on."""
AARCH64 = (183).to_bytes(2, "little")


@dataclass
class Farm:
    """What is measured and on what; results as the runs that asked for them would keep them.

    Attributes:
        artifact: A network for this machine.
        foreign: The same library with the name of another machine in it.
        tracker: The tracker.
        server: The one server.
        results: Of measurements that worked, by number.
        timed: Kernels that were timed so far, by number.
    """

    artifact: Artifact
    foreign: Artifact
    tracker: TrackerProcess
    server: ServerProcess
    results: dict[int, float] = field(default_factory=dict)
    timed: dict[int, list[str]] = field(default_factory=dict)

    @property
    def runner(self) -> RpcRunner:
        """By way of the tracker."""
        server = RpcServer(tracker=self.tracker.address, key=KEY, connect_timeout_s=CONNECT_S, queue_timeout_s=QUEUE_S)
        return RpcRunner(server)

    def measure(self, number: int, settings: MeasurementSettings = QUICK) -> None:
        """Measures the network; keeps the result."""
        self.results[number] = min(self.runner.measure(self.artifact, settings, None).latencies_s)

    def time_kernels(self, number: int, sample_s: float, kill_after_first: bool = False) -> None:
        """Times those kernels that were not timed yet; keeps each as soon as it is there."""
        known = self.timed.setdefault(number, [])
        calls = [call for call in self.calls if call.kernel not in known]
        settings = KernelTimingSettings(placements=2, repeats=2, sample_s=sample_s, timeout_s=TIMEOUT_S)
        for timing in self.runner.time_kernels(self.artifact, calls, self.reference, settings):
            known.append(timing.kernel)
            if kill_after_first:
                self.server.kill()

    @property
    def calls(self) -> list[KernelCall]:
        """Each kernel once."""
        return list({call.kernel: call for call in read_kernel_calls(self.artifact.path)}.values())

    @property
    def reference(self) -> ReferenceKernel:
        """The kernel that is timed beside each."""
        return ReferenceKernel(self.artifact, next(c for c in self.calls if c.operation == REFERENCE_LAYER))

    def repair(self) -> None:
        """Brings back whatever does not run or answer."""
        if not self.tracker.is_running:
            self.tracker.start()
        self.server.kill()
        self.server.start()


@dataclass(frozen=True)
class Outcome:
    """What became of one fault.

    Attributes:
        kind: Of the fault.
        seconds: Until it was over, without the start of the process that talks to the device.
        message: What the user reads, empty if the measurement was not disturbed.
        helpful: Whether the message says what to do, where there is one.
        kept: Whether all results from before the fault are still there.
        recovered: Whether the same measurement works when the cause is removed.
    """

    kind: str
    seconds: float
    message: str
    helpful: bool
    kept: bool
    recovered: bool


def _killed_before(farm: Farm, number: int) -> None:
    farm.server.kill()
    farm.measure(number)


def _killed_during(farm: Farm, number: int) -> None:
    with _when_loaded(farm.server, signal.SIGKILL, 1.0):
        farm.measure(number, LONG)


def _killed_between_kernels(farm: Farm, number: int) -> None:
    farm.time_kernels(number, 0.05, kill_after_first=True)


def _killed_after(farm: Farm, number: int) -> None:
    farm.measure(number)
    farm.server.kill()


def _tracker_down(farm: Farm, number: int) -> None:
    farm.tracker.kill()
    farm.measure(number)


def _stopped_before(farm: Farm, number: int) -> None:
    farm.server.signal(signal.SIGSTOP)
    farm.measure(number)


def _stopped_during(farm: Farm, number: int) -> None:
    with _when_loaded(farm.server, signal.SIGSTOP, 1.0):
        farm.measure(number, LONG)


def _other_machine(farm: Farm, _: int) -> None:
    farm.runner.measure(farm.foreign, QUICK, None)


def _upload_cut(farm: Farm, number: int) -> None:
    """Through a relay that breaks the connection after a part of the library."""
    size = farm.artifact.path.stat().st_size
    farm.server.kill()
    direct = ServerProcess(KEY, farm.server.log)
    direct.start()
    try:
        with _relay(direct.port, 1000 + number * 7919 % size) as port:
            server = RpcServer(server=f"127.0.0.1:{port}", key=KEY, connect_timeout_s=CONNECT_S)
            RpcRunner(server).measure(farm.artifact, QUICK, None)
    finally:
        direct.kill()


FAULTS: dict[str, tuple[int, Callable[[Farm, int], None]]] = {
    "server killed before": (15, _killed_before),
    "server killed during a run": (10, _killed_during),
    "server killed between kernels": (10, _killed_between_kernels),
    "server killed after": (10, _killed_after),
    "tracker down": (15, _tracker_down),
    "server hangs before": (10, _stopped_before),
    "server hangs during": (5, _stopped_during),
    SERVER_STAYS: (10, _other_machine),
    "upload cut": (15, _upload_cut),
}


@contextmanager
def _when_loaded(server: ServerProcess, number: signal.Signals, delay_s: float) -> Iterator[None]:
    """Sends a signal a moment after the server has loaded the next library."""
    before, over = server.log.stat().st_size, threading.Event()

    def wait() -> None:
        while not over.wait(0.05):
            with server.log.open("rb") as log:
                log.seek(before)
                if b"load_module" in log.read():
                    time.sleep(delay_s)
                    server.signal(number)
                    return

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


@contextmanager
def _relay(port: int, until_bytes: int) -> Iterator[int]:
    """Passes one connection on to a port, and cuts it when the client has sent a number of bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, sink: socket.socket, limit: float) -> None:
        sent = 0
        with suppress(OSError):
            while sent < limit and (part := source.recv(4096)):
                sink.sendall(part)
                sent += len(part)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            back = threading.Thread(target=copy, args=(server, client, float("inf")), daemon=True)
            back.start()
            copy(client, server, until_bytes)
            back.join()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def inject(farm: Farm, kind: str, fault: Callable[[Farm, int], None], number: int, start_s: float) -> Outcome:
    """Injects one fault, and measures again when its cause is removed."""
    before, timed = dict(farm.results), {key: list(names) for key, names in farm.timed.items()}
    began, message = time.monotonic(), ""
    try:
        fault(farm, number)
    except CodesignError as error:
        message = str(error)
    seconds = max(0.0, time.monotonic() - began - start_s)
    kept = before.items() <= farm.results.items() and all(farm.timed[k][: len(v)] == v for k, v in timed.items())
    if kind == "server killed between kernels":
        kept = kept and bool(farm.timed[number])
    if kind != SERVER_STAYS:
        farm.repair()
    try:
        if number in farm.timed:
            farm.time_kernels(number, 1e-3)
            recovered = sorted(farm.timed[number]) == sorted(call.kernel for call in farm.calls)
        else:
            farm.measure(number)
            recovered = number in farm.results
    except CodesignError as error:
        print(f"{kind} {number}: not recovered: {error}", file=sys.stderr)
        recovered = False
    helpful = not message or CURE.search(message) is not None
    return Outcome(kind, seconds, message, helpful, kept, recovered)


def prepared(folder: Path) -> Farm:
    """Compiles the network and starts tracker and server."""
    target = Target(
        name="rpc-host", description="", profile="host-cpu", runner="rpc", tvm=TvmTarget(), rpc=RpcServer(server="-:1")
    )
    save_graph(reference_network(), folder / "network.onnx")
    artifact = IsolatedTvmCompiler().compile(folder / "network.onnx", target, "plan", folder)
    other = folder / "foreign"
    other.mkdir()
    for path in folder.glob(f"{artifact.path.stem}*"):
        (other / path.name).write_bytes(path.read_bytes())
    library = bytearray(artifact.path.read_bytes())
    library[18:20] = AARCH64
    (other / artifact.path.name).write_bytes(library)
    tracker = TrackerProcess(folder / "tracker.txt")
    tracker.start()
    server = ServerProcess(KEY, folder / "server.txt", tracker.address)
    server.start()
    return Farm(artifact, dataclasses.replace(artifact, path=other / artifact.path.name), tracker, server)


def start_seconds(farm: Farm) -> float:
    """What a measurement takes that nothing disturbs; nearly all of it is the start of a process."""
    began = time.monotonic()
    farm.measure(-1)
    return time.monotonic() - began


def show(outcomes: list[Outcome]) -> None:
    """Prints a row for each kind of fault."""
    table = Table(
        "fault", "injected", "longest", "limit", "beyond it", "results kept", "says what to do", "goes on",
        title="Faults in measurements over RPC",
    )  # fmt: skip
    for kind, group in itertools.groupby(outcomes, key=lambda outcome: outcome.kind):
        same = list(group)
        counts = (sum(getattr(o, name) for o in same) for name in ("kept", "helpful", "recovered"))
        longest, beyond = max(o.seconds for o in same), sum(o.seconds > LIMIT_S for o in same)
        table.add_row(
            kind,
            str(len(same)),
            f"{longest:.1f} s",
            f"{LIMIT_S:g} s",
            str(beyond),
            *(f"{c}/{len(same)}" for c in counts),
        )
    Console(width=140).print(table)
    for kind, group in itertools.groupby(outcomes, key=lambda outcome: outcome.kind):
        print(f"{kind}: {next((o.message for o in group if o.message), 'no error')}")


def main() -> None:
    """Injects all faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="Share of the 100 faults; at least one of each kind.")
    parser.add_argument("--only", action="append", choices=sorted(FAULTS), help="May be repeated; all if left out.")
    options = parser.parse_args()
    kinds = {kind: FAULTS[kind] for kind in FAULTS if not options.only or kind in options.only}
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="codesign-faults-") as name:
        farm = prepared(Path(name))
        try:
            start_s = start_seconds(farm)
            for kind, (count, fault) in kinds.items():
                for _ in range(max(1, round(count * options.share))):
                    outcomes.append(inject(farm, kind, fault, len(outcomes), start_s))
                    print(json.dumps(dataclasses.asdict(outcomes[-1])), file=sys.stderr, flush=True)
        finally:
            farm.server.kill()
            farm.tracker.kill()
    show(outcomes)
    tvm = importlib.metadata.version("apache-tvm")
    print(f"{len(outcomes)} faults, TVM {tvm}, {detect_host().name}")
    print(f"A measurement that nothing disturbs takes {start_s:.1f} s, nearly all of it the start of a process, which")
    print(f"is taken off and has a limit of its own ({START_LIMIT_S:g} s).")
    if options.json is not None:
        rows = [dataclasses.asdict(outcome) for outcome in outcomes]
        write_json(options.json, {"limit_s": LIMIT_S, "start_s": start_s, "tvm": tvm, "outcomes": rows})


if __name__ == "__main__":
    main()
