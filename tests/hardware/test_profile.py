import pytest

from codesign.config import validate
from codesign.errors import InputError
from codesign.hardware.profile import HardwareProfile
from codesign.quantization.scheme import BitWidths


def _rate(weight_bits: int = 8, activation_bits: int = 8) -> dict[str, object]:
    return {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "macs_per_s": 1e9,
        "energy_j_per_mac": 1e-12,
        "source": "a test",
    }


def _level(name: str = "dram") -> dict[str, object]:
    return {
        "name": name,
        "capacity_bytes": 1e9,
        "bandwidth_bytes_per_s": 1e9,
        "energy_j_per_byte": 1e-12,
        "source": "a test",
    }


def _array() -> dict[str, object]:
    return {
        "kind": "broadcast",
        "rows": 4,
        "columns": 4,
        "clock_hz": 1e9,
        "filters_per_element": 4,
        "accumulator_bits": 32,
        "dataflows": ["output-stationary"],
        "source": "a test",
    }


def _on_array(**changes: object) -> dict[str, object]:
    """Changes that make the profile one of an array, with changes of the array."""
    return {"model": "array", "array": _array() | changes, "memories": [_level(name) for name in "abc"]}


def _profile(**changes: object) -> HardwareProfile:
    values: dict[str, object] = {
        "name": "p",
        "description": "d",
        "model": "roofline",
        "source": "a test",
        "compute": [_rate()],
        "memories": [_level()],
    }
    return validate(HardwareProfile, values | changes, "p.toml")


def test_rate_finds_the_row_of_a_pair_of_widths() -> None:
    profile = _profile(compute=[_rate(4), _rate(8), _rate(32, 32)])
    assert profile.rate(4, 8).weight_bits == 4
    assert profile.rate_of(BitWidths(8, 8)).weight_bits == 8
    assert profile.rate(32, 32).activation_bits == 32


def test_a_missing_rate_names_profile_key_widths_and_what_there_is() -> None:
    with pytest.raises(InputError, match=r"profile 'p': compute has no rate for 4-bit weights .*it has 8x8"):
        _profile().rate(4, 8)


def test_bit_widths_are_those_that_a_plan_can_choose() -> None:
    profile = _profile(compute=[_rate(8), _rate(32, 32), _rate(2), _rate(16, 16), _rate(4, 4)])
    assert profile.bit_widths == (BitWidths(2, 8), BitWidths(8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memories": [_level() | {"bandwidth_bytes_per_s": -1.0}]}, r"p.toml: memories.0.bandwidth_bytes_per_s: .*-1"),
        ({"memories": [_level() | {"bandwidth_bytes_per_s": 0.0}]}, r"p.toml: memories.0.bandwidth_bytes_per_s: "),
        ({"memories": [_level() | {"energy_j_per_byte": float("nan")}]}, r"p.toml: memories.0.energy_j_per_byte: "),
        ({"memories": [_level() | {"capacity_bytes": float("inf")}]}, r"p.toml: memories.0.capacity_bytes: "),
        ({"memories": [_level() | {"capacity_bytes": "1 GB"}]}, r"p.toml: memories.0.capacity_bytes: .*'1 GB'"),
        (
            {"memories": [_level() | {"bandwidth_gb_per_s": 1.0}]},
            r"memories.0.bandwidth_gb_per_s: unknown key; did you mean 'bandwidth_bytes_per_s'",
        ),
        ({"dispatch_us": 1.0}, r"p.toml: dispatch_us: unknown key; did you mean 'dispatch_s'"),
        ({"model": "rooflime"}, r"p.toml: model: .*'rooflime'"),
        ({"compute": []}, r"p.toml: compute: "),
        ({"compute": [_rate(), _rate()]}, r"p.toml: compute: .*8x8 have more than one row"),
        ({"compute": [_rate() | {"efficiency": 1.5}]}, r"p.toml: compute.0.efficiency: "),
        ({"compute": [{k: v for k, v in _rate().items() if k != "source"}]}, r"p.toml: compute.0.source: missing"),
        ({"memories": [_level(), _level()]}, r"p.toml: memories: .*same name"),
        ({"array": _array()}, r"p.toml: array: .*needed by model 'array' and by no other"),
        ({"model": "array"}, r"p.toml: array: .*needed by model 'array'"),
        ({"model": "array", "array": _array()}, r"p.toml: memories: .*exactly three levels"),
        ({"memories": [_level() | {"storage": "bytes"}]}, r"p.toml: memories: .*knows packed storage only"),
        ({"memories": [_level() | {"storage": "nibbles"}]}, r"p.toml: memories.0.storage: .*'nibbles'"),
        (_on_array(kind="systolic"), r"p.toml: array.kind: .*'systolic'"),
        (_on_array(rows=0), r"p.toml: array.rows: .*got 0"),
        (_on_array(clock_hz=-1.0), r"p.toml: array.clock_hz: .*got -1"),
        (_on_array(dataflows=["input-stationary"]), r"p.toml: array.dataflows: .*a broadcast array runs output-"),
        (_on_array(dataflows=["weight-stationary"] * 2), r"p.toml: array.dataflows: .*named twice"),
        (_on_array(kind="skewed"), r"p.toml: array.filters_per_element: .*must be 1 in a skewed array"),
        (_on_array(latency_convention="overlapped"), r"p.toml: array.latency_convention: .*'overlapped'"),
        (_on_array(folds="half"), r"p.toml: array.folds: .*'half'"),
    ],
)
def test_bad_values_are_refused_with_file_and_key(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _profile(**changes)


def test_an_array_with_every_field() -> None:
    profile = _profile(
        **_on_array(
            kind="skewed",
            filters_per_element=1,
            dataflows=["input-stationary", "weight-stationary"],
            latency_convention="load-compute-store",
            folds="whole",
        )
    )
    assert profile.array is not None
    assert profile.array.macs_per_s == 16e9


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        _profile(dispatch_us=1.0, model="none", idle_power_w=-2.0)
    assert len(str(caught.value).splitlines()) >= 3
