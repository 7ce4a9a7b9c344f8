import pytest

from codesign.cost.base import DEFAULT_BITS
from codesign.cost.roofline import RooflineModel, padded_macs
from codesign.hardware.profile import ComputeRate, HardwareProfile, MemoryLevel
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import BitWidths
from codesign.testing.cost_conformance import move_node, multiply_node

GEMV = ConvGeometry(1, 4096, 4096, (1, 1), (1, 1), (1, 1), (1, 1), 1)
MATMUL = ConvGeometry(4096, 256, 256, (1, 1), (1, 1), (1, 1), (1, 1), 1)


def _level(name: str, capacity_bytes: float, bandwidth: float, energy: float) -> MemoryLevel:
    return MemoryLevel(
        name=name,
        capacity_bytes=capacity_bytes,
        bandwidth_bytes_per_s=bandwidth,
        energy_j_per_byte=energy,
        source="a test",
    )


def _rate(bits: int, output_lanes: int = 1, input_lanes: int = 1, unpack_s: float = 0.0) -> ComputeRate:
    return ComputeRate(
        weight_bits=bits,
        activation_bits=8,
        macs_per_s=1e11,
        energy_j_per_mac=1e-12,
        efficiency=0.5,
        unpack_s_per_weight=unpack_s,
        epilogue_s_per_output=1e-9,
        output_channel_multiple=output_lanes,
        input_channel_multiple=input_lanes,
        source="a test",
    )


PROFILE = HardwareProfile(
    name="p",
    description="d",
    model="roofline",
    source="a test",
    compute=(_rate(8), _rate(4, unpack_s=1e-11)),
    memories=(_level("cache", 1e5, 1e11, 1e-12), _level("dram", 1e9, 1e10, 1e-10)),
    idle_power_w=2.0,
    dispatch_s=1e-6,
)
MODEL = RooflineModel(PROFILE)


def test_a_layer_that_fits_the_cache_by_hand() -> None:
    node = multiply_node("c", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (32, 32), (32, 32), 1))
    cost = MODEL.price_node(node, DEFAULT_BITS)
    compute_s = 32 * 32 * 9 * 256 / (1e11 * 0.5) + 16384 * 1e-9
    moved = 2304 + 16 * 8 + 2 * 16384
    assert cost.latency_s == pytest.approx(compute_s + 1e-6)
    assert cost.energy_j == pytest.approx(32 * 32 * 9 * 256 * 1e-12 + moved * 1e-12 + 2.0 * cost.latency_s)
    assert cost.bound == "compute"


def test_a_layer_beyond_the_cache_crosses_both_levels() -> None:
    node = multiply_node("d", "Gemm", GEMV)
    cost = MODEL.price_node(node, DEFAULT_BITS)
    moved = 4096 * 4096 + 8 * 4096 + 2 * 4096
    assert cost.latency_s == pytest.approx(moved / 1e10 + 1e-6)
    assert cost.energy_j == pytest.approx(4096**2 * 1e-12 + moved * 1.01e-10 + 2.0 * cost.latency_s)
    assert cost.bound == "dram"


def test_narrow_weights_help_where_memory_limits_and_hurt_where_arithmetic_does() -> None:
    gemv, matmul = multiply_node("d", "Gemm", GEMV), multiply_node("m", "MatMul", MATMUL)
    four, eight = BitWidths(4, 8), BitWidths(8, 8)
    assert MODEL.price_node(gemv, four).latency_s < 0.6 * MODEL.price_node(gemv, eight).latency_s
    added = MODEL.price_node(matmul, four).latency_s - MODEL.price_node(matmul, eight).latency_s
    assert added == pytest.approx(256 * 256 * 1e-11)


def test_lanes_without_work_cost_time() -> None:
    rate = _rate(8, output_lanes=16, input_lanes=4)
    full = ConvGeometry(1, 16, 16, (3, 3), (1, 1), (8, 8), (8, 8), 1)
    assert padded_macs(full, rate) == 64 * 9 * 256
    stem = ConvGeometry(1, 3, 10, (3, 3), (1, 1), (8, 8), (8, 8), 1)
    assert padded_macs(stem, rate) == 64 * 9 * 4 * 16
    depthwise = ConvGeometry(1, 32, 32, (3, 3), (1, 1), (8, 8), (8, 8), 32)
    assert padded_macs(depthwise, rate) == 64 * 9 * 32 * 4 * 2  # a lane a channel, two instructions for a product
    assert padded_macs(depthwise, _rate(8, output_lanes=16)) == 64 * 9 * 32
    grouped = ConvGeometry(1, 64, 64, (3, 3), (1, 1), (8, 8), (8, 8), 2)
    assert padded_macs(grouped, rate) == 64 * 9 * 2 * 32 * 32


def test_what_is_merged_pays_no_dispatch_and_no_epilogue() -> None:
    assert MODEL.price_node(move_node("r", "Relu", 4096, 4096, fused_into="c"), DEFAULT_BITS).energy_j == 0
    residual = MODEL.price_node(move_node("a", "Add", 8192, 4096, fused_into="c"), DEFAULT_BITS)
    assert residual.latency_s == pytest.approx(4096 / 1e11)
    alone = MODEL.price_node(move_node("a", "Add", 8192, 4096), DEFAULT_BITS)
    assert alone.latency_s == pytest.approx(8192e-9 + 1e-6)


def test_a_tiny_node_is_bound_by_its_dispatch() -> None:
    assert MODEL.price_node(move_node("s", "Softmax", 10, 10), DEFAULT_BITS).bound == "dispatch"


def test_its_numbers_are_estimates() -> None:
    assert MODEL.provenance == "estimated"
