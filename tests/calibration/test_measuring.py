"""The measuring loop with made-up devices: budget, resumption, disturbances, devices that vanish."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import KernelArgument, KernelCall, write_kernel_calls
from codesign.backend.kernel_timing import NETWORK, KernelTiming, KernelTimingSettings, ReferenceKernel
from codesign.calibration.measuring import FAILURES_IN_A_ROW, Device, Session
from codesign.calibration.probes import Probe, drawn_probes
from codesign.calibration.samples import Conditions, SampleFile
from codesign.errors import CompileError, MeasurementError
from codesign.hardware.target import Target
from codesign.ir.serialization import load_graph
from codesign.progress import Silent

HERE = Conditions("a processor", 1, "vectors", "tvm 1", "templates")
TARGET = Target(name="made-up", description="", profile="host-cpu", runner="local")
CALL = KernelCall("reference", "conv_1", (KernelArgument((1,), "float32"),))


class Clock:
    """Time passes when something is done."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeCompiler:
    """One kernel for each node that does something."""

    name: ClassVar[str] = "fake"

    def __init__(self, clock: Clock, fails: Callable[[], bool] = lambda: False) -> None:
        self.clock, self.fails, self.compiled = clock, fails, 0

    def unsupported(self, graph_path: Path) -> tuple[str, ...]:
        return ()

    def compile(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> Artifact:
        if self.fails():
            raise CompileError("cannot")
        self.compiled += 1
        self.clock.now += 5
        nodes = [node.name or "" for node in load_graph(graph_path).graph if "Quantize" not in node.op_type]
        library = work_dir / "fake.so"
        library.write_text("")
        write_kernel_calls(library, [KernelCall(f"kernel_{name}", name, CALL.arguments) for name in nodes])
        return Artifact(library, "fake", target.name, plan_digest, 0)


class FakeDevice:
    """Every kernel takes 2 us; may vanish after some kernels, or be disturbed."""

    def __init__(self, clock: Clock, vanishes_after: float = float("inf"), disturbed: Sequence[int] = ()) -> None:
        self.clock, self.left, self.disturbed, self.timed = clock, vanishes_after, set(disturbed), 0

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        for call in calls:
            if self.left <= 0:
                raise MeasurementError("no route to host")
            if call.kernel == NETWORK:
                yield KernelTiming(NETWORK, ((1e-4,),), (1e-5, 1e-5))
                continue
            self.left -= 1
            self.clock.now += 0.1
            self.timed += 1
            after = 2e-5 if self.timed in self.disturbed else 1e-5
            yield KernelTiming(call.kernel, ((2e-6,),), (1e-5, after))


class Made:
    """A session with fakes."""

    def __init__(self, folder: Path, budget_s: float, device: FakeDevice, compiler: FakeCompiler) -> None:
        self.notes: list[str] = []
        self.file = SampleFile(folder / "samples.jsonl", HERE)
        reference = ReferenceKernel(Artifact(folder / "r.so", "fake", "made-up", "reference", 0), CALL)
        made = Device(TARGET, compiler, device, reference)
        work = folder / "work"
        self.session = Session(made, self.file, work, Silent(self.notes.append), budget_s, device.clock)

    def run(self) -> "Made":
        self.session.measure(_probes())
        return self


def _probes() -> Iterator[Probe]:
    return drawn_probes((), seed=0)


def _kernels(count: int) -> int:
    probes = _probes()
    return sum(len(next(probes).kernels) for _ in range(count))


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def test_measures_until_the_budget_is_spent(tmp_path: Path) -> None:
    clock = Clock()
    made = Made(tmp_path, 25, FakeDevice(clock), FakeCompiler(clock)).run()
    assert 100 < clock.now <= 125
    probes = len(made.session.probes)
    assert probes >= 2
    assert len(made.file.kernels) == _kernels(probes)
    assert len(made.file.networks) == probes
    assert all(sample.seconds(1e-5) == pytest.approx(2e-6) for sample in made.file.kernels)
    assert list((tmp_path / "work").rglob("*.so")) == []


class Busy(FakeDevice):
    """The machine slows down the first times that the whole network, or its first kernel, is measured."""

    def __init__(self, clock: Clock, slow_times: int) -> None:
        super().__init__(clock)
        self.slow_times, self.first = slow_times, ""
        self.times: Counter[str] = Counter()

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        self.first = self.first or calls[0].kernel
        for timing in super().time_kernels(artifact, calls, reference, settings):
            self.times[timing.kernel] += 1
            self.clock.now += 0.1
            slow = timing.kernel in {NETWORK, self.first} and self.times[timing.kernel] <= self.slow_times
            yield dataclasses.replace(timing, reference_s=(1e-5, 2e-5)) if slow else timing


def test_networks_at_hand_are_measured_until_the_machine_is_itself(tmp_path: Path) -> None:
    own = dataclasses.replace(next(_probes()), name="a network at hand")
    clock = Clock()
    made = Made(tmp_path, 100, Busy(clock, slow_times=6), FakeCompiler(clock))
    made.session.measure(iter([own]))
    (sample,) = made.file.networks
    assert sample.timing.is_good(1e-5)
    assert {s.operation for s in made.file.kernels if s.is_good(1e-5)} == set(own.kernels)
    assert SampleFile(made.file.path, HERE).networks == [sample]


def test_a_machine_that_is_never_itself_does_not_hold_a_calibration_up(tmp_path: Path) -> None:
    own = dataclasses.replace(next(_probes()), name="a network at hand")
    clock = Clock()
    began = clock.now
    made = Made(tmp_path, 40, Busy(clock, slow_times=1000), FakeCompiler(clock))
    made.session.measure(iter([own]))
    (sample,) = made.file.networks
    assert not sample.timing.is_good(1e-5)
    assert {s.operation for s in made.file.kernels} == set(own.kernels)
    assert clock.now < began + 40


def test_a_tiny_budget_still_measures_one_probe(tmp_path: Path) -> None:
    clock = Clock()
    assert len(Made(tmp_path, 1, FakeDevice(clock), FakeCompiler(clock)).run().session.probes) == 1


def test_a_repeat_measures_nothing_twice(tmp_path: Path) -> None:
    clock = Clock()
    first = Made(tmp_path, 25, FakeDevice(clock), FakeCompiler(clock)).run()
    device, compiler = FakeDevice(clock), FakeCompiler(clock)
    second = Made(tmp_path, 25, device, compiler).run()
    assert compiler.compiled >= 1
    assert len(second.session.probes) == len(first.session.probes) + compiler.compiled
    names = [(sample.network, sample.operation) for sample in second.file.kernels]
    assert len(names) == len(set(names))
    assert device.timed == len(second.file.kernels) - len(first.file.kernels)


def test_a_repeat_with_less_time_forgets_nothing(tmp_path: Path) -> None:
    clock = Clock()
    first = Made(tmp_path, 60, FakeDevice(clock), FakeCompiler(clock)).run()
    assert len(first.session.probes) > 2
    again = Made(tmp_path, 1, FakeDevice(clock), FakeCompiler(clock)).run()
    assert {probe.name for probe in again.session.probes} >= {probe.name for probe in first.session.probes}


def test_a_device_that_vanishes_leaves_its_samples_to_a_repeat(tmp_path: Path) -> None:
    clock = Clock()
    kept = _kernels(1) + 3
    made = Made(tmp_path, 1000, FakeDevice(clock, vanishes_after=kept), FakeCompiler(clock))
    with pytest.raises(MeasurementError, match=rf"no route to host; {kept} samples are kept in .*samples\.jsonl"):
        made.run()
    assert len(SampleFile(made.file.path, HERE).kernels) == kept
    assert len(made.notes) == FAILURES_IN_A_ROW
    device = FakeDevice(clock)
    again = Made(tmp_path, 12, device, FakeCompiler(clock)).run()
    assert device.timed == len(again.file.kernels) - kept


def test_an_interruption_leaves_what_was_measured(tmp_path: Path) -> None:
    clock = Clock()

    class Interrupted(FakeDevice):
        def time_kernels(
            self,
            artifact: Artifact,
            calls: Sequence[KernelCall],
            reference: ReferenceKernel,
            settings: KernelTimingSettings,
        ) -> Iterator[KernelTiming]:
            yield from super().time_kernels(artifact, calls[:-1], reference, settings)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Made(tmp_path, 100, Interrupted(clock), FakeCompiler(clock)).run()
    assert len(SampleFile(tmp_path / "samples.jsonl", HERE).kernels) == _kernels(1)


def test_a_network_that_does_not_compile_is_left_out(tmp_path: Path) -> None:
    clock = Clock()
    outcomes = iter([True, False, False, False, False])
    made = Made(tmp_path, 14, FakeDevice(clock), FakeCompiler(clock, lambda: next(outcomes))).run()
    assert len(made.notes) == 1
    assert "left out, cannot" in made.notes[0]
    assert made.file.networks


def test_what_was_disturbed_is_timed_again_and_flagged_at_last(tmp_path: Path) -> None:
    clock = Clock()
    once = FakeDevice(clock, disturbed=[4])
    made = Made(tmp_path / "once", 1, once, FakeCompiler(clock)).run()
    assert once.timed == len(made.file.kernels) + 1
    assert all(sample.is_good(1e-5) for sample in made.file.kernels)
    kernels = _kernels(1)
    always = FakeDevice(clock, disturbed=[4, kernels + 1, kernels + 2])
    made = Made(tmp_path / "always", 1, always, FakeCompiler(clock)).run()
    assert sum(not sample.is_good(1e-5) for sample in made.file.kernels) == 1
    assert always.timed == kernels + 2
    assert len(made.file.networks) == 1
