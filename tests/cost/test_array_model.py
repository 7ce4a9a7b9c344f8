import pytest

from codesign.cost.array_model import ArrayModel, best_mappings, moved_by_level
from codesign.cost.base import DEFAULT_BITS
from codesign.errors import InputError
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import HardwareProfile
from codesign.plan.facts import ConvGeometry, packed_weight_bytes
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

PROFILE = load_profile("squeezelerator-16x16")
MODEL = ArrayModel(PROFILE)
DENSE = multiply_node("dense", "Gemm", ConvGeometry(1, 4096, 1000, (1, 1), (1, 1), (1, 1), (1, 1), 1))


def _conv(channels: int, filters: int, size: int, kernel: int = 3, groups: int = 1) -> ConvGeometry:
    return ConvGeometry(1, channels, filters, (kernel, kernel), (1, 1), (size, size), (size, size), groups)


def _with_buffer(capacity_bytes: float) -> HardwareProfile:
    register, buffer, dram = PROFILE.memories
    return PROFILE.model_copy(
        update={"memories": (register, buffer.model_copy(update={"capacity_bytes": capacity_bytes}), dram)}
    )


def test_a_layer_by_hand() -> None:
    """A 1x1 layer that fits on chip: 16 -> 16 channels on 16x16 positions, 8 bits, output- or weight-stationary."""
    mapping = MODEL.best_mapping(_conv(16, 16, 16, kernel=1), 8, 8)
    assert mapping.dataflow == "weight-stationary"
    assert mapping.compute_s == pytest.approx((256 + 16) / 5e8)
    assert mapping.dram_bytes == 16 * (16 + 8) + 256 * 16 + 256 * 16
    assert mapping.buffer_bytes == 256 * 16 + 16 * 16 + 2 * 256 * 16 + 16 * (16 + 8) + 256 * 16
    assert mapping.register_bytes == 2 * 16 * 16
    assert mapping.bound == "dram"
    assert mapping.latency_s == pytest.approx(mapping.dram_bytes / 8e9 + PROFILE.dispatch_s)
    energy = 256 * 256 * 0.3e-12 + mapping.register_bytes * 0.45e-12
    energy += mapping.buffer_bytes * 2.7e-12 + mapping.dram_bytes * 90e-12
    assert mapping.energy_j == pytest.approx(energy)


def test_a_layer_with_few_channels_keeps_outputs_and_one_with_many_keeps_weights() -> None:
    stem = ConvGeometry(1, 3, 96, (7, 7), (2, 2), (111, 111), (227, 227), 1)
    assert MODEL.best_mapping(stem, 8, 8).dataflow == "output-stationary"
    assert MODEL.best_mapping(_conv(256, 64, 27, kernel=1), 8, 8).dataflow == "weight-stationary"


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_width_changes_traffic_and_not_compute(bits: int) -> None:
    geometry = DENSE.geometry
    assert geometry is not None
    narrow, wide = MODEL.best_mapping(geometry, bits, 8), MODEL.best_mapping(geometry, 8, 8)
    assert narrow.compute_s == wide.compute_s
    saved = packed_weight_bytes(DENSE, BitWidths(8, 8)) - packed_weight_bytes(DENSE, BitWidths(bits, 8))
    assert wide.dram_bytes - narrow.dram_bytes == pytest.approx(saved)


def test_groups_are_so_many_separate_layers() -> None:
    one = MODEL.best_mapping(_conv(8, 16, 14), 8, 8)
    four = MODEL.best_mapping(_conv(32, 64, 14, groups=4), 8, 8)
    assert four.compute_s == pytest.approx(4 * one.compute_s)
    assert four.dram_bytes == pytest.approx(4 * one.dram_bytes)


def test_depthwise_uses_the_array_badly() -> None:
    depthwise, dense = (
        MODEL.best_mapping(_conv(64, 64, 28, groups=64), 8, 8),
        MODEL.best_mapping(_conv(64, 64, 28), 8, 8),
    )
    macs = 28 * 28 * 9 * 64
    assert depthwise.dataflow == "output-stationary"
    assert depthwise.compute_s / macs > 2 * dense.compute_s / (64 * macs)


def test_a_tiny_buffer_spills_partial_sums_and_costs_more() -> None:
    geometry = _conv(512, 512, 14)
    small = ArrayModel(_with_buffer(4 << 10)).best_mapping(geometry, 8, 8)
    large = MODEL.best_mapping(geometry, 8, 8)
    assert small.dram_bytes > 2 * large.dram_bytes
    assert small.energy_j > large.energy_j


def test_a_buffer_that_holds_nothing_is_refused_by_node() -> None:
    node = multiply_node("conv_1", "Conv", _conv(8, 8, 64))
    with pytest.raises(InputError, match=r"node 'conv_1' \(Conv\): one filter, row and channel at a time take"):
        ArrayModel(_with_buffer(64)).price_node(node, DEFAULT_BITS)


def test_mappings_of_several_layers_are_those_of_each() -> None:
    geometries = [_conv(8, 16, 14), _conv(16, 64, 28, kernel=1), _conv(32, 32, 14, groups=32)]
    together = best_mappings(PROFILE, geometries, (4, 8))
    assert together == [MODEL.best_mapping(geometry, 4, 8) for geometry in geometries]
    with pytest.raises(InputError, match=r"layer 'b': one filter, row and channel at a time take"):
        best_mappings(_with_buffer(300), [_conv(1, 1, 4), _conv(8, 8, 64)], (8, 8), names=["a", "b"])


def test_half_the_native_rate_takes_twice_the_cycles_at_the_same_utilisation() -> None:
    slow = [row for row in PROFILE.compute if row.weight_bits == 8]
    slow = [row.model_copy(update={"macs_per_s": row.macs_per_s / 2}) for row in slow]
    halved = ArrayModel(PROFILE.model_copy(update={"compute": tuple(slow)})).best_mapping(_conv(16, 16, 16), 8, 8)
    native = MODEL.best_mapping(_conv(16, 16, 16), 8, 8)
    assert halved.dataflow == native.dataflow
    assert halved.cycles == 2 * native.cycles
    assert halved.utilisation == native.utilisation


def test_a_missing_rate_names_the_node() -> None:
    without = PROFILE.model_copy(update={"compute": PROFILE.compute[:1]})
    with pytest.raises(InputError, match=r"node 'dense' \(Gemm\): profile .* has no rate for 8-bit weights"):
        ArrayModel(without).price_node(DENSE, DEFAULT_BITS)


def test_the_objective_decides_what_is_minimised() -> None:
    frugal = ArrayModel(PROFILE, objective="energy")
    differ = False
    for geometry in (_conv(8, 16, 16), _conv(16, 64, 55), _conv(32, 32, 28, groups=32), _conv(64, 64, 8)):
        fast, cheap = MODEL.best_mapping(geometry, 8, 8), frugal.best_mapping(geometry, 8, 8)
        assert fast.latency_s <= cheap.latency_s
        assert cheap.energy_j <= fast.energy_j
        differ |= fast.dataflow != cheap.dataflow
    assert differ


def test_a_residual_costs_its_further_operand_and_an_activation_nothing() -> None:
    relu = move_node("relu", "Relu", 4096, 4096, fused_into="conv")
    assert MODEL.price_node(relu, DEFAULT_BITS).latency_s == 0
    assert MODEL.price_node(relu, DEFAULT_BITS).energy_j == 0
    residual = MODEL.price_node(move_node("add", "Add", 8192, 4096, fused_into="conv"), DEFAULT_BITS)
    assert residual.latency_s == pytest.approx(4096 / 8e9)
    assert residual.energy_j == pytest.approx(4096 * (90e-12 + 2.7e-12))
    alone = MODEL.price_node(move_node("add", "Add", 8192, 4096), DEFAULT_BITS)
    assert alone.latency_s == pytest.approx((8192 + 4096) / 8e9 + PROFILE.dispatch_s)


def test_levels_that_give_each_value_whole_bytes_move_more_of_them() -> None:
    levels = tuple(level.model_copy(update={"storage": "bytes"}) for level in PROFILE.memories)
    padded = PROFILE.model_copy(update={"memories": levels})
    pool = move_node("pool", "MaxPool", 4096, 1024)
    assert moved_by_level(PROFILE, pool, 4) == (0, 2560, 2560)
    assert moved_by_level(padded, pool, 4) == (0, 5120, 5120)


def test_a_product_of_two_activations_carries_no_scales() -> None:
    geometry = ConvGeometry(16, 4 * 32, 4 * 16, (1, 1), (1, 1), (1, 1), (1, 1), 4)
    weighted = multiply_node("a", "MatMul", geometry)
    free = multiply_node("b", "MatMul", geometry, has_weight=False)
    assert MODEL.price_node(free, BitWidths(2, 8)) == MODEL.price_node(free, BitWidths(8, 8))
    assert MODEL.price_node(free, DEFAULT_BITS).energy_j < MODEL.price_node(weighted, DEFAULT_BITS).energy_j


def test_a_processor_s_profile_is_refused() -> None:
    with pytest.raises(InputError, match=r"profile 'host-cpu': has no array"):
        ArrayModel(load_profile("host-cpu"))


def test_its_numbers_are_simulated() -> None:
    assert MODEL.provenance == "simulated"
