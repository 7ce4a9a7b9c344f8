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
    clock_is_nominal=False,
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
    assert {"compute.macs_per_s", "memories.l1.capacity_bytes"} <= set(profile.unverified)
    assert profile.memories[0].source.startswith("capacity assumed")
    assert "assumed frequency" in profile.description
    known = FILE.complete(SERVER, 1)
    assert "compute.macs_per_s" not in known.unverified
    assert known.memories[0].source.startswith("capacity detected")


def test_a_level_that_the_machine_lacks_is_left_out() -> None:
    small = dataclasses.replace(SERVER, caches=SERVER.caches[:2])
    assert [level.name for level in FILE.complete(small, 1).memories] == ["l1", "l2", "dram"]


def test_amx_is_mentioned_and_not_counted() -> None:
    without = dataclasses.replace(SERVER, flags=SERVER.flags - {"amx_int8"})
    assert "AMX" in FILE.complete(SERVER, 1).description
    assert "AMX" not in FILE.complete(without, 1).description
    assert FILE.complete(SERVER, 1).compute == FILE.complete(without, 1).compute


ZEN4 = dataclasses.replace(
    SERVER,
    vendor="AuthenticAMD",
    family=25,
    clock_hz=2.6e9,
    clock_is_nominal=True,
    caches=(Cache(1, 32 << 10, False), Cache(2, 1 << 20, False), Cache(3, 32 << 20, True)),
)


def test_turbo_is_added_to_a_nominal_clock_only_and_labelled() -> None:
    nominal = FILE.complete(ZEN4, 1)
    assert nominal.rate(8, 8).macs_per_s == pytest.approx(64 * 2.6e9 * 1.42)
    assert "x 1.42 turbo" in nominal.description
    assert "compute.macs_per_s" in nominal.unverified
    highest = FILE.complete(dataclasses.replace(ZEN4, clock_is_nominal=False), 1)
    assert highest.rate(8, 8).macs_per_s == pytest.approx(64 * 2.6e9)


def _layer(channels: int, size: int, kernel: int = 3, groups: int = 1) -> ConvGeometry:
    return ConvGeometry(1, channels, channels, (kernel, kernel), (1, 1), (size, size), (size, size), groups)


@pytest.mark.parametrize(
    ("layer", "measured_us"),
    [
        (_layer(16, 32), 12.33),
        (_layer(32, 16), 11.14),
        (_layer(64, 8), 10.75),
        (_layer(128, 28), 512.2),
        (_layer(64, 28, kernel=1), 17.95),
        (_layer(16, 56, kernel=1), 8.48),
        (_layer(256, 7, kernel=1), 14.97),
        (_layer(64, 28, groups=64), 21.69),
    ],
)
def test_layers_come_out_as_measured_on_zen_4(layer: ConvGeometry, measured_us: float) -> None:
    model = RooflineModel(FILE.complete(ZEN4, 1))
    latency_s = model.price_node(multiply_node("conv", "Conv", layer), W8).latency_s
    assert latency_s * 1e6 == pytest.approx(measured_us, rel=0.1)


@pytest.mark.parametrize(
    ("channels", "size", "measured_us"), [(16, 32, 9.6), (32, 16, 10.0), (64, 8, 7.7), (128, 28, 335.0)]
)
def test_layers_come_out_near_what_another_machine_measured(channels: int, size: int, measured_us: float) -> None:
    """Sapphire Rapids, not used for the fit; its clock is inferred from its fastest layer."""
    model = RooflineModel(FILE.complete(SERVER, 1))
    latency_s = model.price_node(multiply_node("conv", "Conv", _layer(channels, size)), W8).latency_s
    assert latency_s * 1e6 == pytest.approx(measured_us, rel=0.3)


def _resnet20() -> list[ConvGeometry]:
    layers = [ConvGeometry(1, 3, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1)]
    layers += [_layer(16, 32)] * 6
    layers += [ConvGeometry(1, 16, 32, (3, 3), (2, 2), (16, 16), (32, 32), 1)] + [_layer(32, 16)] * 5
    layers += [ConvGeometry(1, 32, 64, (3, 3), (2, 2), (8, 8), (16, 16), 1)] + [_layer(64, 8)] * 5
    return layers


@pytest.mark.parametrize(
    ("bits", "measured_us"), [(8, 215.9), (2, 221.2), (3, 228.2), (4, 219.8), (5, 227.6), (6, 222.6)]
)
def test_resnet20_comes_out_as_measured_at_every_width(bits: int, measured_us: float) -> None:
    model = RooflineModel(FILE.complete(ZEN4, 1))
    nodes = [multiply_node(f"conv{i}", "Conv", layer) for i, layer in enumerate(_resnet20())]
    total_s = sum(model.price_node(node, BitWidths(bits, 8)).latency_s for node in nodes)
    assert total_s * 1e6 == pytest.approx(measured_us, rel=0.1)
