"""The parts of a network's latency that no kernel has."""

import itertools

import pytest

from codesign.calibration.network_overhead import network_overhead, weight_bytes
from codesign.calibration.probes import Probe, drawn_probes
from codesign.calibration.samples import NetworkSample
from codesign.quantization.scheme import BitWidths

CALL_S, COLD_S = 2e-7, 3e-11


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return list(itertools.islice(drawn_probes((BitWidths(8, 8), BitWidths(4, 8)), seed=0), 6))


def _samples(probes: list[Probe], cold_s: float = COLD_S) -> list[NetworkSample]:
    extra = [20 * CALL_S + weight_bytes(probe) * cold_s for probe in probes]
    return [NetworkSample(p.name, 20, 1e-4, (1e-4 + more, 9e-4)) for p, more in zip(probes, extra, strict=True)]


def test_both_parts_are_recovered(probes: list[Probe]) -> None:
    found = network_overhead(_samples(probes), probes)
    assert found.call_s == pytest.approx(CALL_S)
    assert found.cold_s_per_weight_byte == pytest.approx(COLD_S)


def test_few_networks_give_the_call_alone(probes: list[Probe]) -> None:
    found = network_overhead(_samples(probes[:2], cold_s=0.0), probes)
    assert found.call_s == pytest.approx(CALL_S)
    assert found.cold_s_per_weight_byte == 0.0


def test_nothing_is_negative_and_unknown_networks_do_not_count(probes: list[Probe]) -> None:
    faster = [NetworkSample(probe.name, 20, 2e-4, (1e-4,)) for probe in probes]
    assert network_overhead(faster, probes).call_s == 0.0
    assert network_overhead(_samples(probes), []).call_s == 0.0


def test_narrow_weights_have_fewer_bytes(probes: list[Probe]) -> None:
    wide, narrow = weight_bytes(probes[0]), weight_bytes(probes[1])
    assert narrow < wide / 3
