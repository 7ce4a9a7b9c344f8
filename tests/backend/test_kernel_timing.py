"""Kernels of a compiled network: which there are, and how long each takes."""

from pathlib import Path

import pytest

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import (
    KernelArgument,
    KernelCall,
    read_kernel_calls,
    write_kernel_calls,
)
from codesign.backend.kernel_timing import (
    NETWORK,
    KernelTiming,
    KernelTimingSettings,
    LocalKernelRunner,
    ReferenceKernel,
)
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.calibration.probe_network import REFERENCE_LAYER, reference_network
from codesign.errors import MeasurementError
from codesign.hardware.target import Target, TvmTarget
from codesign.ir.serialization import save_graph

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())
QUICK = KernelTimingSettings(placements=2, repeats=3, sample_s=1e-4, timeout_s=60)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("compiled")
    save_graph(reference_network(), folder / "net.onnx")
    return TvmCompiler().compile(folder / "net.onnx", HOST, "digest", folder)


def _reference(artifact: Artifact) -> ReferenceKernel:
    calls = read_kernel_calls(artifact.path)
    return ReferenceKernel(artifact, next(call for call in calls if call.operation == REFERENCE_LAYER))


def test_every_call_names_its_node(compiled: Artifact) -> None:
    calls = read_kernel_calls(compiled.path)
    assert [call.operation for call in calls if call.kernel.startswith("conv")] == ["conv_0", "conv_1"]
    assert [call.operation for call in calls if call.kernel.startswith("average")] == ["globalaveragepool_2"]
    conv = next(call for call in calls if call.operation == "conv_1")
    assert conv.arguments[0] == KernelArgument((1, 16, 16, 32), "float32")
    assert conv.arguments[-1] == KernelArgument((1, 16, 16, 32), "float32")


def test_kernels_are_timed_beside_the_reference(compiled: Artifact) -> None:
    reference = _reference(compiled)
    missing = KernelCall("no_such_kernel", "", ())
    calls = [missing, *read_kernel_calls(compiled.path)]
    found = {t.kernel: t for t in LocalKernelRunner().time_kernels(compiled, calls, reference, QUICK)}
    assert missing.kernel not in found
    timing = found[reference.call.kernel]
    assert 2 <= len(timing.samples_s) <= 4
    assert {len(row) for row in timing.samples_s} == {3}
    assert timing.seconds(1.0) == pytest.approx(1, rel=0.5)
    pool = next(t for name, t in found.items() if name.startswith("average"))
    assert pool.seconds(1.0) < timing.seconds(1.0)


def test_a_whole_network_takes_longer_than_its_longest_kernel(compiled: Artifact) -> None:
    network = KernelCall(NETWORK, "", (KernelArgument((1, 3, 16, 16), "float32"),))
    (timing,) = LocalKernelRunner().time_kernels(compiled, [network], _reference(compiled), QUICK)
    assert timing.kernel == NETWORK
    assert timing.seconds(1.0) > 1


def test_a_change_of_the_clock_cancels_and_disturbances_do_not_count() -> None:
    rows = ((4e-6, 3e-6), (6e-6, 6.5e-6), (9e-6, 1.7e-6), (9e-6, 7e-6))
    timing = KernelTiming("k", rows, (1e-5, 1e-5, 0.5e-5, 0.505e-5, 2e-5))
    assert timing.good_rows(1e-5) == (0, 2)
    assert timing.is_good(1e-5)
    assert timing.seconds(1e-5) == pytest.approx(3e-6)
    assert timing.good_rows(0.5e-5) == (2,)  # at 1e-5 the core was shared
    assert not timing.is_good(0.5e-5)
    assert timing.seconds(0.5e-5) == pytest.approx(1.7e-6 / 1.005)
    with pytest.raises(ValueError, match="3 rows need one reference more, got 2"):
        KernelTiming("k", rows[:3], (1e-5, 1e-5))


def test_a_process_that_fails_says_why(compiled: Artifact) -> None:
    reference = ReferenceKernel(compiled, KernelCall("no_such_kernel", "", ()))
    with pytest.raises(MeasurementError, match=r"the timing process failed: ValueError.*no_such_kernel"):
        list(LocalKernelRunner().time_kernels(compiled, [], reference, QUICK))


def test_a_time_limit_ends_the_process(compiled: Artifact) -> None:
    limited = KernelTimingSettings(placements=1, repeats=1000, sample_s=1.0, timeout_s=8)
    reference = _reference(compiled)
    with pytest.raises(MeasurementError, match="ran past its limit of 8 s"):
        list(LocalKernelRunner().time_kernels(compiled, [reference.call], reference, limited))


def test_the_table_survives_the_disk_and_damage_is_noticed(tmp_path: Path) -> None:
    calls = (KernelCall("conv", "layer", (KernelArgument((1, 2), "uint8"),)),)
    write_kernel_calls(tmp_path / "a.so", calls)
    assert read_kernel_calls(tmp_path / "a.so") == calls
    with pytest.raises(MeasurementError, match=r"b\.kernels\.json: missing or damaged"):
        read_kernel_calls(tmp_path / "b.so")
