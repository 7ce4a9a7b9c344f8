"""What `codesign calibrate` does: measure kernels of a target, fit a cost model, write a profile."""

import dataclasses
import datetime
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import onnx_ir as ir

from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.calibration.device import compile_reference, conditions_of, vector_unit
from codesign.calibration.drift import ClockRange, clock_range
from codesign.calibration.fitting import FittedClass, MeasuredKernel, fit_classes
from codesign.calibration.measuring import Device, Session
from codesign.calibration.network_overhead import network_overhead
from codesign.calibration.probes import Probe, drawn_probes, model_probes
from codesign.calibration.profile_file import write_profile
from codesign.calibration.samples import Conditions, SampleFile, undisturbed
from codesign.cost.calibrated import CalibratedModel
from codesign.cost.measured_shapes import shape_of
from codesign.errors import InputError
from codesign.flow.runners import MEASURED, kernel_runner_of
from codesign.hardware.calibration import Calibration, MeasuredShape, VectorUnit
from codesign.hardware.catalog import load_target, profile_of
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.target import Target
from codesign.ir.loading import load_program
from codesign.progress import Progress
from codesign.quantization.scheme import Widths

LEAST_SHARE = 0.1
"""Of its fitted time that a measured kernel takes without what is merged into it."""


@dataclass(frozen=True)
class CalibrateRequest:
    """The command's arguments.

    Attributes:
        target: Name or path of a target.
        budget_s: Seconds for measuring.
        out: The profile to write; None for `TARGET-calibrated.toml` in the current folder.
        models: Networks at hand: factories, `.onnx` or `.pt2` files.
        input_shape: Shape of their input, for factories.
        seed: Source of all draws.
    """

    target: str
    budget_s: float = 600.0
    out: Path | None = None
    models: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class NetworkCheck:
    """A whole network, predicted and measured in the same session.

    Attributes:
        network: Which.
        predicted_s: By the calibrated model, fitted with its kernels among others.
        measured_s: At the usual clock.
        fastest_s: Fastest sample, at whatever clock it ran.
    """

    network: str
    predicted_s: float
    measured_s: float
    fastest_s: float


@dataclass(frozen=True)
class Measured:
    """What a fit starts from.

    Attributes:
        target: What was measured.
        profile: Its device as it was known before.
        unit: Vectors that kernels were compiled for.
        file: Raw measurements.
        probes: The networks that they belong to.
    """

    target: Target
    profile: HardwareProfile
    unit: VectorUnit
    file: SampleFile
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class CalibrationResult:
    """What came out.

    Attributes:
        profile: The file.
        measured: What it was fitted to; `measured.file.path` holds the raw samples.
        fits: One for each class.
        networks: Every network that was measured whole.
        kernels: Kernels that were used.
        disturbed: Kernels that were left out, since the machine changed its speed whenever they were timed.
        clock: How fast the reference kernel was in the course of the measurements.
        relative_error: Nine in ten held-out kernels are off by less.
        within_10_percent: Share of held-out kernels off by at most 10 %.
    """

    profile: Path
    measured: Measured
    fits: tuple[FittedClass, ...]
    networks: tuple[NetworkCheck, ...]
    kernels: int
    disturbed: int
    clock: ClockRange
    relative_error: float
    within_10_percent: float


def calibrate(request: CalibrateRequest, progress: Progress) -> CalibrationResult:
    """Measures, fits and writes.

    Args:
        request: The command's arguments.
        progress: Told about long work.

    Returns:
        What came out.

    Raises:
        InputError: The target cannot be measured from here, or a model is wrong.
    """
    target = load_target(request.target)
    if target.runner not in MEASURED:
        raise InputError(
            f"target {target.name!r}: runner is {target.runner!r}, so there is no device to measure; "
            f"calibrate a target with runner {' or '.join(map(repr, MEASURED))}"
        )
    profile = profile_of(target)
    if profile.model != "roofline":
        raise InputError(f"profile {profile.name!r}: model is {profile.model!r}; only 'roofline' can be calibrated")
    models = {source: load_program(source, None, request.input_shape, Path()).graph for source in request.models}
    unit = vector_unit(target)
    out = (request.out or Path(f"{target.name}-calibrated.toml")).with_suffix(".toml")
    file = SampleFile(out.with_suffix(".samples.jsonl"), conditions_of(target, unit))
    if file.kernels:
        progress.note(f"{file.path}: goes on from {len(file.kernels)} kernels measured before")
    with tempfile.TemporaryDirectory(prefix="codesign-calibrate-") as folder:
        probes = _measured_probes(request, target, profile, models, file, Path(folder), progress)
    return _write(Measured(target, profile, unit, file, tuple(probes)), out, request.seed, progress)


def _measured_probes(
    request: CalibrateRequest,
    target: Target,
    profile: HardwareProfile,
    models: Mapping[str, ir.Model],
    file: SampleFile,
    folder: Path,
    progress: Progress,
) -> Sequence[Probe]:
    compiler = IsolatedTvmCompiler()
    reference = compile_reference(compiler, target, folder)
    device = Device(target, compiler, kernel_runner_of(target), reference)
    session = Session(device, file, folder, progress, request.budget_s)
    own = model_probes(models, profile.bit_widths)
    drawn = drawn_probes(profile.bit_widths, request.seed)
    probes: Iterator[Probe] = chain(own, drawn)
    session.measure(probes)
    return session.probes


def _write(measured: Measured, out: Path, seed: int, progress: Progress) -> CalibrationResult:
    file = measured.file
    calibrated, fits, kernels = calibrated_profile(measured, out.stem, seed, progress)
    errors = np.abs(np.concatenate([fit.held_out_errors for fit in fits]))
    comment = [
        f"Written by `codesign calibrate {measured.target.name}`: latency as measured, energy as in profile "
        f"{measured.profile.name!r}.",
        f"Raw samples: {file.path.name}. Held out by shape: {np.mean(errors <= 0.1):.0%} of kernels within 10 %.",
    ]
    write_profile(calibrated, out, comment)
    return CalibrationResult(
        out,
        measured,
        fits,
        check_networks(calibrated, measured.probes, file),
        kernels,
        sum(not sample.is_good(file.usual_s()) for sample in file.kernels),
        clock_range(list(file.timings())),
        float(np.quantile(errors, 0.9)),
        float(np.mean(errors <= 0.1)),
    )


def calibrated_profile(
    measured: Measured, name: str, seed: int, progress: Progress
) -> tuple[HardwareProfile, tuple[FittedClass, ...], int]:
    """Fits a cost model to measurements.

    Args:
        measured: The measurements.
        name: Of the new profile.
        seed: Source of all draws.
        progress: Told about long work.

    Returns:
        The device's profile with its calibration, the fits, and how many kernels they were made of.

    Raises:
        InputError: There are too few kernels.
    """
    file, profile = measured.file, measured.profile
    kernels = _usable(file, measured.probes)
    source = _source(file.conditions, file.path)
    fits = fit_classes(kernels, measured.unit, profile.memories, source, seed, progress)
    if not fits:
        raise InputError(f"{file.path}: {len(kernels)} kernels are too few to fit anything; raise the budget")
    errors = np.abs(np.concatenate([fit.held_out_errors for fit in fits]))
    overhead = network_overhead(file, measured.probes, profile.memories)
    calibration = Calibration(
        source=source,
        unit=measured.unit,
        run_s=overhead.run_s,
        call_s=overhead.call_s,
        cold_s_per_weight_byte=overhead.cold_s_per_weight_byte,
        far_s_per_weight_byte=overhead.far_s_per_weight_byte,
        fits=tuple(fit.fit for fit in fits),
    )
    changes = {
        "name": name,
        "description": f"{profile.description}; calibrated",
        "calibration": calibration,
        "relative_error": float(np.quantile(errors, 0.9)),
    }
    fitted = profile.model_copy(update=changes)
    shapes = _measured_shapes(measured, CalibratedModel(fitted))
    calibration = calibration.model_copy(update={"shapes": shapes})
    return fitted.model_copy(update={"calibration": calibration}), fits, len(kernels)


def _measured_shapes(measured: Measured, model: CalibratedModel) -> tuple[MeasuredShape, ...]:
    """Kernels of the networks at hand: what was measured of them over what the fits say."""
    own = tuple(probe for probe in measured.probes if not probe.is_drawn)
    found: dict[tuple[str, Widths], float] = {}
    for kernel in _usable(measured.file, own):
        try:
            fitted_s = model.kernel_s(kernel.node, kernel.bits)[0]
            merged_s = math.fsum(model.kernel_s(other, kernel.bits)[0] for other in kernel.merged)
        except InputError:  # too few kernels of its class were measured
            continue
        found[shape_of(kernel.node), kernel.bits] = max(kernel.seconds - merged_s, LEAST_SHARE * fitted_s) / fitted_s
    return tuple(
        MeasuredShape(shape=shape, weight_bits=bits.weight, activation_bits=bits.activation, factor=factor)
        for (shape, bits), factor in sorted(found.items(), key=lambda item: (item[0][0], item[0][1].weight))
    )


def _usable(file: SampleFile, probes: Sequence[Probe]) -> list[MeasuredKernel]:
    """Samples of the probes at hand, equal kernels once."""
    by_name = {probe.name: probe for probe in probes}
    chosen: dict[tuple[str, int, int], list[MeasuredKernel]] = {}
    usual_s = file.usual_s()
    for sample in undisturbed(file.kernels, usual_s):
        if sample.network in by_name and sample.operation in by_name[sample.network].kernels:
            kernel = by_name[sample.network].measured(sample, usual_s)
            key = (kernel.shape_key, kernel.bits.weight, kernel.bits.activation)
            chosen.setdefault(key, []).append(kernel)
    middle = (statistics.median(kernel.seconds for kernel in same) for same in chosen.values())
    return [
        dataclasses.replace(same[0], seconds=seconds) for same, seconds in zip(chosen.values(), middle, strict=True)
    ]


def _source(conditions: Conditions, samples: Path) -> str:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return (
        f"measured on {conditions.device}, {conditions.threads} thread(s), {conditions.instructions}, "
        f"{conditions.compiler}, {today}; raw samples in {samples.name}"
    )


def check_networks(profile: HardwareProfile, probes: Sequence[Probe], file: SampleFile) -> tuple[NetworkCheck, ...]:
    """Predicts every network that was measured whole.

    Args:
        profile: Calibrated.
        probes: The networks.
        file: How long they took.

    Returns:
        One check a network; those that the machine disturbed, or with a node that the model cannot price, are left out.
    """
    model, by_name = CalibratedModel(profile), {probe.name: probe for probe in probes}
    checks = []
    for sample in file.good_networks():
        probe = by_name.get(sample.network)
        if probe is None:
            continue
        try:
            predicted = sum(model.price_node(n, probe.widths(n.name)).latency_s for n in probe.facts.nodes)
        except InputError:  # too few kernels of some class were measured
            continue
        measured_s = sample.timing.seconds(file.usual_s())
        fastest_s = min(min(row) for row in sample.timing.samples_s)
        checks.append(NetworkCheck(probe.name, predicted, measured_s, fastest_s))
    return tuple(checks)
