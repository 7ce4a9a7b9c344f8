"""The profiles and targets that are shipped: whole, sourced, and in agreement with what is published."""

import math

import pytest

from codesign.cost.base import DEFAULT_BITS
from codesign.cost.select import cost_model_for
from codesign.hardware.catalog import load_profile, load_target, profile_names, target_names
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.unverified import unverified_values, values_of
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.testing.cost_conformance import EXAMPLE_NODES

ARRAY = load_profile("squeezelerator-16x16")
STATIC = tuple(name for name in profile_names() if name != "host-cpu")
ALL_WIDTHS = tuple(BitWidths(bits, 8) for bits in WEIGHT_BITS)
GAINS_BELOW_8 = frozenset({"bit-fusion", "loom"})
"""Devices whose arithmetic itself is faster at narrow weights."""
NOTHING_BELOW_8 = frozenset({"edge-tpu"})
"""Devices that cannot hold weights narrower than a byte."""

# profile: (widths of weight and activation, published operations in a second, where published). A MAC is two.
PUBLISHED = {
    "bit-fusion": (8, 8, 512e9, "512 fusion units at 500 MHz, one 8x8 product each: github.com/hsharma35/bitfusion"),
    "cortex-m7": (8, 8, 0.864e9, "SMLAD: two MACs a cycle at 216 MHz"),
    "edge-tpu": (8, 8, 4e12, "4 TOPS: coral.ai/docs/edgetpu/faq"),
    "ethos-u55-128": (8, 8, 128e9, "128 MACs a cycle at 500 MHz: Vela's Ethos_U55_High_End_Embedded"),
    "eyeriss": (16, 16, 67.2e9, "168 elements at 200 MHz: Chen et al., JSSC 2017"),
    "h100": (8, 8, 1979e12, "1979 TOPS dense: glennklockwood.com/garden/processors/h100"),
    "jetson-orin-nano": (8, 8, 20e12, "40 TOPS sparse, 20 dense: NVIDIA's data sheet"),
    "loom": (16, 16, 256e9, "128 MACs of 16x16 bits a cycle at 1 GHz: arXiv 1706.07853"),
    "raspberry-pi-4": (32, 32, 48e9, "48 GFLOPS nominal"),
    "squeezelerator-16x16": (8, 8, 256e9, "256 elements at 500 MHz"),
    "squeezelerator-8x8": (8, 8, 64e9, "64 elements at 500 MHz"),
    "t4": (8, 8, 130e12, "130 TOPS: NVIDIA's data sheet"),
    "x86-vnni-core": (8, 8, 665.6e9, "two VPDPBUSD zmm a cycle at 2.6 GHz"),
}
OTHER_WIDTHS = {
    ("t4", 4, 4): 260e12,
    ("t4", 16, 16): 65e12,
    ("t4", 32, 32): 8.1e12,
    ("h100", 16, 16): 989.4e12,
    ("h100", 32, 32): 66.9e12,
    ("jetson-orin-nano", 32, 32): 1.28e12,
    ("ethos-u55-128", 8, 16): 64e9,
    ("bit-fusion", 2, 2): 16 * 512e9,
    ("bit-fusion", 2, 8): 4 * 512e9,
    ("bit-fusion", 16, 16): 512e9 / 4,
}
"""Published operations in a second at further widths, by the same sources."""


@pytest.mark.parametrize("name", profile_names())
def test_every_width_that_a_plan_can_choose_has_a_rate_where_the_device_can_hold_it(name: str) -> None:
    assert load_profile(name).bit_widths == ((BitWidths(8, 8),) if name in NOTHING_BELOW_8 else ALL_WIDTHS)


@pytest.mark.parametrize("name", profile_names())
def test_every_unverified_key_means_some_values_and_not_all(name: str) -> None:
    profile = load_profile(name)
    assert unverified_values(profile) < set(values_of(profile))


@pytest.mark.parametrize("name", STATIC)
def test_what_a_source_calls_recalled_or_assumed_is_marked(name: str) -> None:
    profile = load_profile(name)
    doubtful = unverified_values(profile)
    parts = {f"memories.{level.name}.": level.source for level in profile.memories}
    parts |= {f"compute.{row.weight_bits}x{row.activation_bits}.": row.source for row in profile.compute}
    for prefix, source in parts.items():
        if "recalled" in source or "assumed" in source or "counted" in source:
            assert any(key.startswith(prefix) for key in doubtful), f"{prefix} {source}"


@pytest.mark.parametrize("name", STATIC)
def test_sources_say_where_numbers_come_from(name: str) -> None:
    profile = load_profile(name)
    sources = [profile.source, *(row.source for row in profile.compute), *(level.source for level in profile.memories)]
    sources += [profile.array.source] if profile.array else []
    assert all(len(source) > 15 for source in sources)
    assert all("energy: " in level.source or "assumed" in level.source for level in profile.memories)


@pytest.mark.parametrize("name", PUBLISHED)
def test_peaks_are_the_published_ones(name: str) -> None:
    weight, activation, operations_per_s, _ = PUBLISHED[name]
    assert 2 * load_profile(name).rate(weight, activation).macs_per_s == pytest.approx(operations_per_s, rel=0.02)


def test_every_static_profile_is_compared_with_something_published() -> None:
    assert PUBLISHED.keys() == set(STATIC)


@pytest.mark.parametrize(("name", "weight", "activation"), OTHER_WIDTHS)
def test_peaks_at_other_widths_are_the_published_ones(name: str, weight: int, activation: int) -> None:
    peak = 2 * load_profile(name).rate(weight, activation).macs_per_s
    assert peak == pytest.approx(OTHER_WIDTHS[name, weight, activation], rel=0.015)


@pytest.mark.parametrize("name", sorted(set(profile_names()) - GAINS_BELOW_8))
def test_fixed_arithmetic_gains_no_rate_and_no_energy_below_8_bits(name: str) -> None:
    profile = load_profile(name)
    plain = profile.rate(8, 8)
    for widths in profile.bit_widths:
        row = profile.rate_of(widths)
        assert (row.macs_per_s, row.energy_j_per_mac) == (plain.macs_per_s, plain.energy_j_per_mac)
        assert row.unpack_s_per_weight >= plain.unpack_s_per_weight


@pytest.mark.parametrize("name", sorted(GAINS_BELOW_8))
def test_composable_arithmetic_is_never_slower_when_narrower(name: str) -> None:
    profile = load_profile(name)
    rows = [profile.rate_of(widths) for widths in profile.bit_widths]
    rates = [row.macs_per_s for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert [row.energy_j_per_mac for row in rows] == sorted(row.energy_j_per_mac for row in rows)
    assert profile.rate(2, 8).macs_per_s == 4 * profile.rate(8, 8).macs_per_s


def test_bit_fusion_rounds_widths_up_to_the_next_that_bricks_form() -> None:
    fusion = load_profile("bit-fusion")
    for odd, even in ((3, 4), (5, 8), (6, 8)):
        assert fusion.rate(odd, 8).macs_per_s == fusion.rate(even, 8).macs_per_s


@pytest.mark.parametrize("name", STATIC)
def test_arrays_compute_their_widest_rate_or_a_multiple_of_it(name: str) -> None:
    profile = load_profile(name)
    if profile.array is None:
        return
    multiples = [row.macs_per_s / profile.array.macs_per_s for row in profile.compute]
    assert any(math.isclose(multiple, 1) for multiple in multiples)


@pytest.mark.parametrize("name", STATIC)
def test_memories_grow_and_slow_down_outwards(name: str) -> None:
    levels = load_profile(name).memories
    capacities = [level.capacity_bytes for level in levels]
    bandwidths = [level.bandwidth_bytes_per_s for level in levels]
    energies = [level.energy_j_per_byte for level in levels]
    assert capacities == sorted(capacities)
    assert bandwidths == sorted(bandwidths, reverse=True)
    assert energies == sorted(energies)


@pytest.mark.parametrize("name", profile_names())
def test_a_small_network_has_a_price(name: str) -> None:
    profile = load_profile(name)
    model = cost_model_for(profile)
    total_s = total_j = 0.0
    for node in EXAMPLE_NODES:
        for bits in profile.bit_widths if node.weight_elements else (DEFAULT_BITS,):
            cost = model.price_node(node, bits)
            assert math.isfinite(cost.latency_s) and math.isfinite(cost.energy_j), f"{node.name} {bits}"
            total_s, total_j = total_s + cost.latency_s, total_j + cost.energy_j
    assert 0 < total_s < 1e3
    assert 0 < total_j < 1e3


@pytest.mark.parametrize("name", sorted({"t4", "h100", "jetson-orin-nano"}))
def test_a_gpu_at_full_rate_of_arithmetic_and_memory_draws_its_limit(name: str) -> None:
    profile = load_profile(name)
    limit_w = {"t4": 70.0, "h100": 700.0, "jetson-orin-nano": 15.0}[name]
    int8, memory = profile.rate(8, 8), profile.memories[-1]
    power_w = profile.idle_power_w + int8.macs_per_s * int8.energy_j_per_mac
    assert power_w + memory.bandwidth_bytes_per_s * memory.energy_j_per_byte == pytest.approx(limit_w, rel=0.03)


def test_the_array_s_rates_are_one_mac_a_cycle_and_element() -> None:
    assert ARRAY.array is not None
    assert {row.macs_per_s for row in ARRAY.compute} == {ARRAY.array.macs_per_s}


@pytest.mark.parametrize("name", ["squeezelerator-16x16", "squeezelerator-8x8", "eyeriss"])
def test_energies_keep_the_ratios_1_6_200_of_a_16_bit_word(name: str) -> None:
    profile = load_profile(name)
    mac_j = profile.rate(16, 16).energy_j_per_mac
    assert [2 * level.energy_j_per_byte / mac_j for level in profile.memories] == pytest.approx([1, 6, 200])


def test_the_small_squeezelerator_differs_from_the_large_one_in_what_scales_only() -> None:
    small = load_profile("squeezelerator-8x8")
    assert small.array is not None and ARRAY.array is not None
    assert small.array.model_dump(exclude={"rows", "columns", "source"}) == ARRAY.array.model_dump(
        exclude={"rows", "columns", "source"}
    )
    assert (small.array.rows, small.array.columns, small.memories[1].capacity_bytes) == (8, 8, 32 * 1024)
    assert small.memories[2] == ARRAY.memories[2]


@pytest.mark.parametrize("name", target_names())
def test_targets_name_a_profile_for_their_threads(name: str) -> None:
    target = load_target(name)
    profile: HardwareProfile = load_profile(target.profile, target.threads)
    assert profile.threads == target.threads
    assert (target.runner == "local") == name.startswith("host-")


def test_every_profile_has_a_target() -> None:
    assert {load_target(name).profile for name in target_names()} == set(profile_names())


def test_hard_limits_of_devices_are_budgets() -> None:
    micro, tpu = load_target("cortex-m7").budget, load_target("edge-tpu").budget
    assert (micro.weight_bytes, micro.peak_memory_bytes) == (1 << 20, 320 << 10)
    assert tpu.weight_bytes == 8 << 20
