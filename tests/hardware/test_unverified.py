import pytest

from codesign.errors import InputError
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.unverified import unverified_values, values_of

ARRAY = load_profile("squeezelerator-16x16")


def _marking(*keys: str) -> HardwareProfile:
    return ARRAY.model_copy(update={"unverified": keys})


def test_values_are_what_the_file_states_of_the_device() -> None:
    values = values_of(ARRAY)
    assert {"dispatch_s", "array.clock_hz", "memories.dram.energy_j_per_byte", "compute.4x8.macs_per_s"} <= set(values)
    assert len(values) == len(set(values))
    assert not [key for key in values if key.endswith(("source", "name", "weight_bits")) or key == "idle_power_w"]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("dispatch_s", {"dispatch_s"}),
        ("array.rows", {"array.rows"}),
        ("memories.dram.capacity_bytes", {"memories.dram.capacity_bytes"}),
        ("compute.8x8.macs_per_s", {"compute.8x8.macs_per_s"}),
        ("compute.8x8", {"compute.8x8.macs_per_s", "compute.8x8.energy_j_per_mac"}),
        (
            "memories.capacity_bytes",
            {f"memories.{name}.capacity_bytes" for name in ("register-file", "global-buffer", "dram")},
        ),
        ("memories", {key for key in values_of(ARRAY) if key.startswith("memories.")}),
        ("array", {key for key in values_of(ARRAY) if key.startswith("array.")}),
    ],
)
def test_a_key_means_one_value_or_all_below_it(key: str, meant: set[str]) -> None:
    assert unverified_values(_marking(key)) == meant


def test_keys_add_up() -> None:
    assert unverified_values(_marking("dispatch_s", "array.rows")) == {"dispatch_s", "array.rows"}
    assert unverified_values(_marking()) == frozenset()


@pytest.mark.parametrize("key", ["idle_watts", "memories.l9", "compute.4x4.macs_per_s", "source", "", "array.row"])
def test_a_key_that_means_nothing_is_an_error(key: str) -> None:
    with pytest.raises(InputError, match=r"'squeezelerator-16x16': unverified: .* means no value"):
        unverified_values(_marking(key))
