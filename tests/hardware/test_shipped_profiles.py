import pytest

from codesign.hardware.catalog import load_profile, profile_names
from codesign.hardware.profile import HardwareProfile
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths

ARRAY = load_profile("squeezelerator-16x16")


@pytest.mark.parametrize("name", profile_names())
def test_every_width_that_a_plan_can_choose_has_a_rate(name: str) -> None:
    assert load_profile(name).bit_widths == tuple(BitWidths(bits, 8) for bits in WEIGHT_BITS)


@pytest.mark.parametrize("name", profile_names())
def test_every_unverified_key_is_a_key(name: str) -> None:
    profile = load_profile(name)
    for key in profile.unverified:
        assert key == "clock_hz" or _leads_somewhere(profile, key.split(".")), key


def _leads_somewhere(profile: HardwareProfile, path: list[str]) -> bool:
    value: object = getattr(profile, path[0])
    for part in path[1:]:
        if isinstance(value, tuple):
            named = [item for item in value if getattr(item, "name", "") == part]
            value = named[0] if named else getattr(value[0], part)
        else:
            value = getattr(value, part)
    return value is not None


def test_the_array_s_rates_are_one_mac_a_cycle_and_element() -> None:
    assert ARRAY.array is not None
    peak = ARRAY.array.rows * ARRAY.array.columns * ARRAY.array.clock_hz
    assert {row.macs_per_s for row in ARRAY.compute} == {peak}


def test_below_8_bits_the_array_computes_no_faster_and_no_cheaper() -> None:
    for bits in (2, 3, 4, 5, 6):
        assert ARRAY.rate(bits, 8).energy_j_per_mac == ARRAY.rate(8, 8).energy_j_per_mac
        assert "no compute gain below 8 bits" in ARRAY.rate(bits, 8).source


def test_energies_keep_the_ratios_1_1_6_200_of_a_16_bit_word() -> None:
    mac_j = ARRAY.rate(16, 16).energy_j_per_mac
    ratios = [2 * level.energy_j_per_byte / mac_j for level in ARRAY.memories]
    assert ratios == pytest.approx([1, 6, 200])
