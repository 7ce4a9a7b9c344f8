"""The parts of a network's latency that no kernel has."""

import itertools
from pathlib import Path

import pytest

from codesign.backend.kernel_timing import NETWORK, KernelTiming
from codesign.calibration.network_overhead import fetched_bytes, network_overhead
from codesign.calibration.probes import Probe, drawn_probes
from codesign.calibration.samples import Conditions, KernelSample, NetworkSample, SampleFile
from codesign.hardware.profile import MemoryLevel
from codesign.quantization.scheme import BitWidths

CALLS, RUN_S, CALL_S, COLD_S, FAR_S = 20, 1.5e-6, 2e-7, 3e-11, 5e-11
REFERENCE_S, KERNELS_S = 1e-5, 1e-4


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return list(itertools.islice(drawn_probes((BitWidths(8, 8), BitWidths(4, 8)), seed=0), 8))


def _file(folder: Path, seconds: "dict[str, float]") -> SampleFile:
    """Networks whose kernels take `KERNELS_S` together, measured at twice the usual clock."""
    file = SampleFile(folder / "samples.jsonl", Conditions("a processor", 1, "vectors", "tvm 1", "templates"))
    for name, latency_s in seconds.items():
        timing = KernelTiming("k", ((KERNELS_S,),), (REFERENCE_S, REFERENCE_S))
        file.add(KernelSample(name, "op", "", 8, 8, (timing,)))
        fast = KernelTiming(NETWORK, ((latency_s / 2,),), (REFERENCE_S / 2, REFERENCE_S / 2))
        file.add(NetworkSample(name, _calls(name), fast))
    return file


def _calls(name: str) -> int:
    return CALLS + len(name) + sum(map(ord, name)) % 7


def _latency_s(probe: Probe, memories: tuple[MemoryLevel, ...]) -> float:
    cold, far = fetched_bytes(probe, memories)
    return KERNELS_S + RUN_S + _calls(probe.name) * CALL_S + cold * COLD_S + far * FAR_S


def test_all_parts_are_recovered(probes: list[Probe], memories: tuple[MemoryLevel, ...], tmp_path: Path) -> None:
    seconds = {probe.name: _latency_s(probe, memories) for probe in probes}
    seconds[probes[2].name] *= 3  # one network that something disturbed
    found = network_overhead(_file(tmp_path, seconds), probes, memories)
    assert found.run_s == pytest.approx(RUN_S)
    assert found.call_s == pytest.approx(CALL_S)
    assert found.cold_s_per_weight_byte == pytest.approx(COLD_S)
    assert found.far_s_per_weight_byte == pytest.approx(FAR_S)


def test_few_networks_give_the_call_alone(
    probes: list[Probe], memories: tuple[MemoryLevel, ...], tmp_path: Path
) -> None:
    few = {probe.name: KERNELS_S + _calls(probe.name) * CALL_S for probe in probes[:2]}
    found = network_overhead(_file(tmp_path, few), probes, memories)
    assert found.call_s == pytest.approx(CALL_S)
    assert (found.run_s, found.cold_s_per_weight_byte, found.far_s_per_weight_byte) == (0.0, 0.0, 0.0)


def test_nothing_is_negative_and_unknown_networks_do_not_count(
    probes: list[Probe], memories: tuple[MemoryLevel, ...], tmp_path: Path
) -> None:
    file = _file(tmp_path, {probe.name: 0.5 * KERNELS_S for probe in probes})
    assert network_overhead(file, probes, memories).call_s == 0.0
    assert network_overhead(file, [], memories).call_s == 0.0


def test_narrow_weights_are_fewer_bytes_and_stay_nearer(probes: list[Probe], memories: tuple[MemoryLevel, ...]) -> None:
    (wide, wide_far), (narrow, narrow_far) = (fetched_bytes(probe, memories) for probe in probes[:2])
    assert narrow < wide / 3
    assert narrow_far / narrow < wide_far / wide
