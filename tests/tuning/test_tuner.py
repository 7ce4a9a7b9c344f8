"""Choice by measurement with made-up devices: noise, crashes, budget, order, and what is kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from codesign.backend.base import Artifact
from codesign.backend.candidate_library import CandidateLibrary
from codesign.backend.kernel_table import KernelArgument, KernelCall
from codesign.backend.kernel_timing import KernelTiming, KernelTimingSettings, ReferenceKernel
from codesign.backend.kernels.epilogue import IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.layer_kernel import LayerKernel
from codesign.backend.kernels.parameters import KernelParameters, VectorTiling
from codesign.calibration.samples import Conditions
from codesign.errors import MeasurementError
from codesign.progress import Silent
from codesign.tuning.comparison import ATTEMPTS, CONFIRMING_ROUNDS, SCREENING_ROUNDS, Comparer, Outcome
from codesign.tuning.database import TuningDatabase
from codesign.tuning.tuner import FAILURES_IN_A_ROW, Tuner, TuningTask

CALL = KernelCall("reference", "conv_1", (KernelArgument((1,), "float32"),))
REFERENCE = ReferenceKernel(Artifact(Path("r.so"), "fake", "made-up", "reference", 0), CALL)
WAYS = tuple(VectorTiling(columns, 1) for columns in (8, 4, 2, 1))
"""The first is the rules'."""


def library_of(ways: Sequence[KernelParameters], kernel: str = "k") -> CandidateLibrary:
    """A library that holds candidates of a kernel, named by their number."""
    calls = {way: KernelCall(f"{kernel}/{number}", str(number), CALL.arguments) for number, way in enumerate(ways)}
    return CandidateLibrary(Artifact(Path("c.so"), "tvm", "made-up", "candidates", 0), calls, {})


@dataclass
class FakeRunner:
    """Times kernels by their names; time passes on a clock.

    Attributes:
        seconds: Of a kernel by its name and the number of the process, the first being 1.
        noise: Relative standard deviation of each timing, on top of which the clock of the processor wanders.
        crashes: Names of kernels that end the process.
        busy: Whether other programs come and go.
        slower: How much longer the reference kernel takes while they stay.
        processes: How many were started.
    """

    seconds: Callable[[str, int], float]
    noise: float = 0.0
    crashes: frozenset[str] = frozenset()
    busy: bool = False
    slower: float = 1.0
    processes: int = 0
    timed: list[str] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def time_kernels(
        self,
        artifact: Artifact,
        calls: Sequence[KernelCall],
        reference: ReferenceKernel,
        settings: KernelTimingSettings,
    ) -> Iterator[KernelTiming]:
        self.processes += 1
        clock = 1.0
        for call in calls:
            if call.kernel in self.crashes:
                raise MeasurementError(f"{call.kernel} was killed by SIGILL")
            self.timed.append(call.kernel)
            clock *= float(np.exp(0.05 * self.noise * self.random.standard_normal()))
            seconds = self.seconds(call.kernel, self.processes) * (1 + self.noise * self.random.standard_normal())
            before = clock * self.slower * 1e-5
            yield KernelTiming(call.kernel, ((clock * seconds,),), (before, 2 * before if self.busy else before))


@dataclass
class FakeCompiler:
    """Compiles anything but what fails; each kernel takes a time on the clock.

    Attributes:
        fails: Candidates that cannot be compiled.
        compiled: Kernels that were compiled, in order.
        passes: Called for each kernel.
    """

    fails: frozenset[KernelParameters] = frozenset()
    compiled: list[str] = field(default_factory=list)
    passes: Callable[[], None] = lambda: None

    def compile(self, kernel: LayerKernel, candidates: Sequence[KernelParameters], folder: Path) -> CandidateLibrary:
        self.passes()
        self.compiled.append(kernel.words)
        made = library_of(candidates, kernel.words)
        calls = {way: call for way, call in made.calls.items() if way not in self.fails}
        return CandidateLibrary(made.artifact, calls, {way: "was killed" for way in candidates if way in self.fails})


def _best(runner: FakeRunner) -> Outcome:
    return Comparer(runner, REFERENCE, 1).best(library_of(WAYS), WAYS[0])


def _by_number(*microseconds: float) -> Callable[[str, int], float]:
    return lambda kernel, _: microseconds[int(kernel.rpartition("/")[2])] * 1e-6


def test_the_fastest_wins_and_its_time_is_that_of_the_usual_clock() -> None:
    runner = FakeRunner(_by_number(2, 1.9, 1.5, 3))
    outcome = _best(runner)
    found = outcome.comparison
    assert outcome.winner == WAYS[2]
    assert [found.seconds, found.default_seconds] == pytest.approx([1.5e-6, 2e-6])
    assert found.ratio == pytest.approx(0.75)
    assert runner.processes == 2
    assert runner.timed[:5] == ["k/0", "k/1", "k/2", "k/3", "k/0"]  # they take turns
    assert len(runner.timed) == 4 * SCREENING_ROUNDS + 3 * CONFIRMING_ROUNDS


def test_a_gain_within_the_noise_is_none() -> None:
    assert _best(FakeRunner(_by_number(2, 1.97, 2, 2))).winner == WAYS[0]
    for seed in range(20):
        runner = FakeRunner(_by_number(2, 2, 2, 2), noise=0.1, random=np.random.default_rng(seed))
        assert _best(runner).winner == WAYS[0]


def test_a_gain_above_the_noise_is_found() -> None:
    runner = FakeRunner(_by_number(2, 1.8, 2, 2), noise=0.02)
    assert _best(runner).winner == WAYS[1]


def test_a_gain_that_a_second_process_does_not_confirm_is_none() -> None:
    once = FakeRunner(lambda kernel, process: 1e-6 if (kernel, process) == ("k/3", 1) else 2e-6)
    assert _best(once).winner == WAYS[0]


def test_a_candidate_that_crashes_is_left_out() -> None:
    outcome = _best(FakeRunner(_by_number(2, 1, 1.5, 1), crashes=frozenset({"k/1", "k/3"})))
    assert outcome.winner == WAYS[2]
    assert outcome.crashed == (WAYS[1], WAYS[3])
    with pytest.raises(MeasurementError, match="k/0 was killed by SIGILL"):
        _best(FakeRunner(_by_number(2, 1, 1, 1), crashes=frozenset({"k/0"})))


def test_a_disturbed_measurement_says_nothing() -> None:
    with pytest.raises(MeasurementError, match="other programs disturbed the measurement; repeat"):
        _best(FakeRunner(_by_number(2, 1, 1, 1), busy=True))


def test_rounds_on_a_shared_core_do_not_count() -> None:
    """For a while everything takes longer, and another candidate is then faster."""
    runner = FakeRunner(_by_number(2, 2, 2, 2))
    comparer = Comparer(runner, REFERENCE, 1)
    comparer.best(library_of(WAYS), WAYS[0])
    assert comparer.usual_s == pytest.approx(1e-5)
    runner.slower = 1.5
    runner.seconds = _by_number(3, 1, 3, 3)
    with pytest.raises(MeasurementError, match="other programs disturbed"):
        comparer.best(library_of(WAYS), WAYS[0])
    assert runner.processes == 1 + ATTEMPTS
    runner.slower = 1.0
    assert comparer.best(library_of(WAYS), WAYS[0]).winner == WAYS[1]


def _task(channels: int, seconds: float) -> TuningTask:
    return TuningTask(LayerKernel(ConvolutionShape(8, 8, channels, 16), 8, IntegerEpilogue()), seconds, WAYS)


TASKS = (_task(16, 1e-6), _task(32, 3e-6), _task(48, 2e-6))


@dataclass
class Made:
    """A tuner with fakes; compiling a kernel takes 10 s."""

    folder: Path
    runner: FakeRunner = field(default_factory=lambda: FakeRunner(_by_number(2, 1, 2, 2)))
    fails: frozenset[KernelParameters] = frozenset()
    budget_s: float = 1000
    now: float = 0.0
    notes: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.compiler = FakeCompiler(self.fails, passes=self._pass)
        self.database = TuningDatabase(
            self.folder, Conditions("a processor", 1, "vectors", "tvm 1", "templates"), self.notes.append
        )

    def _pass(self) -> None:
        self.now += 10

    def tune(self, tasks: Sequence[TuningTask] = TASKS) -> int:
        progress = Silent(self.notes.append)
        progress.advance = self.steps.append  # type: ignore[method-assign,assignment]
        tuner = Tuner(
            self.compiler, Comparer(self.runner, REFERENCE, 1), self.database, self.folder / "work", progress,
            self.budget_s, lambda: self.now,
        )  # fmt: skip
        return tuner.tune(tasks)

    def known(self) -> list[bool]:
        return [self.database.find(task.kernel.identity) is not None for task in TASKS]


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def test_kernels_that_take_most_time_come_first_and_are_kept(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.tune() == 0
    assert made.compiler.compiled == [TASKS[n].kernel.words for n in (1, 2, 0)]
    assert made.steps == [4, 4, 4]
    record = made.database.find(TASKS[0].kernel.identity)
    assert record is not None
    assert (record.parameters, record.candidates, record.failed) == (WAYS[1], 4, 0)
    assert [record.seconds, record.default_seconds] == pytest.approx([1e-6, 2e-6])


@pytest.mark.parametrize(("budget_s", "kernels"), [(5, 1), (19, 1), (21, 2), (25, 2), (31, 3)])
def test_a_kernel_is_begun_if_the_longest_so_far_would_fit(tmp_path: Path, budget_s: float, kernels: int) -> None:
    made = Made(tmp_path, budget_s=budget_s)
    assert made.tune() == 3 - kernels
    assert sum(made.known()) == kernels


def test_a_repeat_goes_on(tmp_path: Path) -> None:
    assert Made(tmp_path, budget_s=15).tune() == 2
    again = Made(tmp_path)
    assert again.tune() == 0
    assert again.compiler.compiled == [TASKS[n].kernel.words for n in (2, 0)]


def test_an_interruption_loses_one_kernel(tmp_path: Path) -> None:
    def interrupted(kernel: str, process: int) -> float:
        if process == 4:  # each kernel is timed by two processes
            raise KeyboardInterrupt
        return _by_number(2, 1, 2, 2)(kernel, process)

    made = Made(tmp_path, FakeRunner(interrupted))
    with pytest.raises(KeyboardInterrupt):
        made.tune()
    assert made.known() == [False, True, False]


def test_what_cannot_be_compiled_is_counted(tmp_path: Path) -> None:
    made = Made(tmp_path, fails=frozenset({WAYS[1], WAYS[2]}))
    made.tune(TASKS[:1])
    record = made.database.find(TASKS[0].kernel.identity)
    assert record is not None
    assert (record.parameters, record.candidates, record.failed) == (WAYS[0], 2, 2)


def test_a_kernel_that_fails_is_noted_and_several_end_the_run(tmp_path: Path) -> None:
    made = Made(tmp_path, fails=frozenset({WAYS[0]}))
    assert made.tune([*TASKS, _task(64, 1e-7)]) == 1
    assert made.notes[-1] == f"{FAILURES_IN_A_ROW} kernels in a row could not be tuned, so tuning ends here"
    assert made.notes[0].startswith("int8 1x1 8x8x32 -> 8x8x16: not tuned, its default loops: compiling was killed")
    assert made.known() == [False, False, False]
