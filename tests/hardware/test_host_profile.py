import dataclasses
from pathlib import Path

import pytest

from codesign.config import load
from codesign.cost.roofline import RooflineModel
from codesign.errors import InputError
from codesign.hardware.host import Cache, Host
from codesign.hardware.host_profile import HostProfile
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import multiply_node

FILE = load(HostProfile, Path(__file__).parents[2] / "hw_profiles" / "host-cpu.toml")
SERVER = Host(
    name="a server",
    architecture="x86_64",
    vendor="GenuineIntel",
    family=6,
    cores=4,
    logical_cores=8,
    clock_hz=2.94e9,
    clock_source="a test",
    flags=frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"}),
    caches=(Cache(1, 48 << 10, False), Cache(2, 2 << 20, False), Cache(3, 100 << 20, True)),
    memory_bytes=64 << 30,
)
W8 = BitWidths(8, 8)


@pytest.mark.parametrize(
    ("flags", "vendor", "family", "architecture", "int8", "fp32"),
    [
        ({"avx512_vnni", "avx512bw", "avx512f"}, "GenuineIntel", 6, "x86_64", 128, 32),
        ({"avx512_vnni", "avx512bw", "avx512f"}, "AuthenticAMD", 25, "x86_64", 64, 16),
        ({"avx512_vnni", "avx512bw", "avx512f"}, "AuthenticAMD", 26, "x86_64", 128, 32),
        ({"avx512bw", "avx512f", "avx2", "fma"}, "GenuineIntel", 6, "x86_64", 42.7, 32),
        ({"avx_vnni", "avx2", "fma"}, "GenuineIntel", 6, "x86_64", 64, 16),
        ({"avx2", "fma"}, "AuthenticAMD", 23, "x86_64", 21.3, 16),
        ({"asimd", "asimddp"}, "", 0, "aarch64", 32, 8),
        ({"asimd"}, "", 0, "aarch64", 8, 4),
        (set(), "", 0, "riscv64", 4, 4),
        (set(), "", 0, "x86_64", 4, 4),
    ],
)
def test_the_instruction_set_decides_the_rates(
    flags: set[str], vendor: str, family: int, architecture: str, int8: float, fp32: float
) -> None:
    host = dataclasses.replace(
        SERVER, flags=frozenset(flags), vendor=vendor, family=family, architecture=architecture, clock_hz=1e9
    )
    profile = FILE.complete(host, 1)
    assert profile.rate(8, 8).macs_per_s == pytest.approx(int8 * 1e9)
    assert profile.rate(32, 32).macs_per_s == pytest.approx(fp32 * 1e9)


def test_below_8_bits_only_unpacking_is_added() -> None:
    profile = FILE.complete(SERVER, 1)
    wide = profile.rate(8, 8)
    assert wide.unpack_s_per_weight == 0
    for bits in (2, 3, 4, 5, 6):
        narrow = profile.rate(bits, 8)
        assert narrow.macs_per_s == wide.macs_per_s
        assert 0 < narrow.unpack_s_per_weight < 1e-10
        assert "no faster than 8 bits" in narrow.source


def test_threads_scale_rates_and_private_caches_but_not_the_shared_one() -> None:
    one, four = FILE.complete(SERVER, 1), FILE.complete(SERVER, 4)
    assert four.threads == 4
    gain = four.rate(8, 8).macs_per_s / one.rate(8, 8).macs_per_s
    assert 1 < gain < 4
    ratio = [b.capacity_bytes / a.capacity_bytes for a, b in zip(one.memories, four.memories, strict=True)]
    assert ratio == [4, 4, 1, 1]
    assert four.dispatch_s > one.dispatch_s
    assert four.idle_power_w == 4 * one.idle_power_w


def test_hardware_threads_beyond_the_cores_add_nothing() -> None:
    assert FILE.complete(SERVER, 8).rate(8, 8).macs_per_s == FILE.complete(SERVER, 4).rate(8, 8).macs_per_s


def test_more_threads_than_the_machine_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"profile 'host-cpu': 9 threads asked of a machine with 8; set threads to 8"):
        FILE.complete(SERVER, 9)


def test_what_had_to_be_assumed_is_labelled() -> None:
    blind = dataclasses.replace(SERVER, caches=(), clock_hz=None, clock_source="unknown")
    profile = FILE.complete(blind, 1)
    assert {"clock_hz", "memories.l1.capacity_bytes"} <= set(profile.unverified)
    assert profile.memories[0].source.startswith("capacity assumed")
    assert "assumed frequency" in profile.description
    known = FILE.complete(SERVER, 1)
    assert "clock_hz" not in known.unverified
    assert known.memories[0].source.startswith("capacity detected")


def test_a_level_that_the_machine_lacks_is_left_out() -> None:
    small = dataclasses.replace(SERVER, caches=SERVER.caches[:2])
    assert [level.name for level in FILE.complete(small, 1).memories] == ["l1", "l2", "dram"]


def test_amx_is_mentioned_and_not_counted() -> None:
    without = dataclasses.replace(SERVER, flags=SERVER.flags - {"amx_int8"})
    assert "AMX" in FILE.complete(SERVER, 1).description
    assert "AMX" not in FILE.complete(without, 1).description
    assert FILE.complete(SERVER, 1).compute == FILE.complete(without, 1).compute


def _three_by_three(channels: int, size: int) -> ConvGeometry:
    return ConvGeometry(1, channels, channels, (3, 3), (1, 1), (size, size), (size, size), 1)


@pytest.mark.parametrize(
    ("channels", "size", "measured_us"), [(16, 32, 14.1), (32, 16, 10.0), (64, 8, 7.7), (128, 28, 347.0)]
)
def test_the_convolutions_that_the_kernel_numbers_were_fitted_to_come_out(
    channels: int, size: int, measured_us: float
) -> None:
    model = RooflineModel(FILE.complete(SERVER, 1))
    node = multiply_node("conv", "Conv", _three_by_three(channels, size))
    kernel_s = model.price_node(node, W8).latency_s - model.profile.dispatch_s
    assert kernel_s * 1e6 == pytest.approx(measured_us, rel=0.1)


def test_resnet20_comes_out_near_its_measured_204_us() -> None:
    model = RooflineModel(FILE.complete(SERVER, 1))
    layers = [ConvGeometry(1, 3, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1)]
    layers += [_three_by_three(16, 32)] * 6
    layers += [ConvGeometry(1, 16, 32, (3, 3), (2, 2), (16, 16), (32, 32), 1)] + [_three_by_three(32, 16)] * 5
    layers += [ConvGeometry(1, 32, 64, (3, 3), (2, 2), (8, 8), (16, 16), 1)] + [_three_by_three(64, 8)] * 5
    nodes = [multiply_node(f"conv{i}", "Conv", layer) for i, layer in enumerate(layers)]
    total_us = sum(model.price_node(node, W8).latency_s for node in nodes) * 1e6
    assert total_us == pytest.approx(204, rel=0.1)
