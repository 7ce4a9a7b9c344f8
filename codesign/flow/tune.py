"""Tunes the kernels of one network for one target, or looks up what is known of them."""

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.backend.base import Artifact
from codesign.backend.candidate_library import IsolatedCandidateCompiler
from codesign.backend.kernel_table import KernelCall, read_kernel_calls
from codesign.backend.kernel_timing import KernelTiming, KernelTimingSettings, ReferenceKernel
from codesign.backend.kernels.layer_kernel import read_layer_kernel
from codesign.backend.kernels.parameters import KernelParameters
from codesign.backend.library_cache import LibraryCache, cache_folder
from codesign.backend.manifest import TunedKernel
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.calibration.device import compile_reference, conditions_of, vector_unit
from codesign.errors import InputError
from codesign.flow.runners import MEASURED, kernel_runner_of
from codesign.hardware.target import Target
from codesign.progress import Progress, track
from codesign.tuning.comparison import Comparer, undisturbed_s
from codesign.tuning.database import TuningDatabase, TuningRecord
from codesign.tuning.tuner import Tuner, TuningTask


@dataclass(frozen=True)
class Tuned:
    """What is known of the kernels of a network.

    Attributes:
        records: By the kernel's identity, those that were found before included.
        calls: How often each kernel that can be tuned is called in one run, by its identity.
    """

    records: Mapping[str, TuningRecord]
    calls: Mapping[str, int]

    @property
    def faster(self) -> tuple[TuningRecord, ...]:
        """Records of kernels for which there are better loops than those of the rules."""
        return tuple(record for record in self.records.values() if record.seconds < record.default_seconds)

    @property
    def choices(self) -> dict[str, KernelParameters]:
        """What a compiler takes."""
        return {record.kernel: record.parameters for record in self.faster}

    @property
    def entries(self) -> tuple[TunedKernel, ...]:
        """For an artefact's manifest."""
        return tuple(
            TunedKernel(read_layer_kernel(r.kernel).words, r.kernel, r.parameters, r.seconds, r.default_seconds, r.date)
            for r in self.faster
        )

    @property
    def summary(self) -> str:
        """For people."""
        before, after = (
            sum(getattr(record, name) * self.calls[record.kernel] for record in self.records.values())
            for name in ("default_seconds", "seconds")
        )
        gain = f": together they take {after * 1e6:.1f} us instead of {before * 1e6:.1f}" if self.faster else ""
        left = len(self.calls) - len(self.records)
        rest = f"; {left} are not tuned yet, repeat with a budget to go on" if left else ""
        return (
            f"{len(self.records)} of {len(self.calls)} kernels are tuned, {len(self.faster)} of them run faster than "
            f"by the rules{gain}{rest}"
        )


def refuse_to_tune(target: Target) -> None:
    """Looks whether kernels can be timed on a target.

    Args:
        target: The target.

    Raises:
        InputError: They cannot.
    """
    if target.runner not in MEASURED or target.tvm is None:
        raise InputError(
            f"target {target.name!r}: runner is {target.runner!r}, so no kernel can be timed there and nothing can be "
            f"tuned; tune for a target with runner {' or '.join(map(repr, MEASURED))}"
        )


def tune_network(graph_path: Path, target: Target, budget_s: float, progress: Progress) -> Tuned:
    """Tunes the kernels of a network; what is known from earlier runs is not measured again.

    Args:
        graph_path: An ONNX file that can be compiled.
        target: Where it shall run.
        budget_s: Seconds for all of it. A kernel is begun if the longest one so far would fit; 0 measures nothing.
        progress: Told about long work.

    Returns:
        What is known now.

    Raises:
        InputError: Nothing can be timed on this target.
    """
    refuse_to_tune(target)
    deadline = time.monotonic() + budget_s
    database = TuningDatabase(cache_folder("tuning"), conditions_of(target, vector_unit(target)), progress.note)
    with tempfile.TemporaryDirectory(prefix="codesign-tune-") as name:
        folder = Path(name)
        compiler = IsolatedTvmCompiler(LibraryCache(cache_folder()))
        for _ in track(progress, "Compiling by the rules", [graph_path], 1):
            artifact = compiler.compile(graph_path, target, "untuned", folder)
        calls = [call for call in read_kernel_calls(artifact.path) if call.identity]
        candidates = _candidates(calls, target)
        counts = {
            identity: count for identity, count in Counter(c.identity for c in calls).items() if identity in candidates
        }
        unknown = [i for i in candidates if _known(database, i, candidates) is None]
        if unknown and budget_s:
            reference = compile_reference(compiler, target, folder)
            timings = _timings_by_the_rules(artifact, calls, reference, target)
            seconds = _seconds_by_identity(timings, calls)
            tasks = [TuningTask(read_layer_kernel(i), counts[i] * seconds.get(i, 0.0), candidates[i]) for i in unknown]
            Tuner(
                IsolatedCandidateCompiler(target),
                Comparer(kernel_runner_of(target), reference, target.threads, undisturbed_s(timings)),
                database,
                folder,
                progress,
                deadline,
            ).tune(tasks)
    found = {i: _known(database, i, candidates) for i in candidates}
    return Tuned({i: record for i, record in found.items() if record is not None}, counts)


Candidates = Mapping[str, tuple[KernelParameters, ...]]


def _candidates(calls: Sequence[KernelCall], target: Target) -> Candidates:
    """By identity; kernels with one way only are left out."""
    from codesign.backend.kernel_candidates import candidates
    from codesign.backend.kernels.instruction_set import instruction_set
    from codesign.backend.tvm_compiler import tvm_target

    assert target.tvm is not None
    isa = instruction_set(tvm_target(target.tvm, target.threads), target.tvm.float_products)
    identities = dict.fromkeys(call.identity for call in calls)
    listed = {i: candidates(read_layer_kernel(i), isa, target.threads) for i in identities}
    return {i: ways for i, ways in listed.items() if len(ways) > 1}


def _known(database: TuningDatabase, identity: str, candidates: Candidates) -> TuningRecord | None:
    """A record whose loops are legal."""
    record = database.find(identity)
    return record if record is not None and record.parameters in candidates[identity] else None


def _timings_by_the_rules(
    artifact: Artifact, calls: Sequence[KernelCall], reference: ReferenceKernel, target: Target
) -> tuple[KernelTiming, ...]:
    """One of each kernel."""
    wanted = list({call.kernel: call for call in calls}.values())
    settings = KernelTimingSettings(threads=target.threads, placements=2)
    return tuple(kernel_runner_of(target).time_kernels(artifact, wanted, reference, settings))


def _seconds_by_identity(timings: Sequence[KernelTiming], calls: Sequence[KernelCall]) -> dict[str, float]:
    """Seconds of one call."""
    identities = {call.kernel: call.identity for call in calls}
    usual_s = undisturbed_s(timings)
    return {identities[timing.kernel]: timing.seconds(usual_s) for timing in timings}
