import pytest

from codesign.cost.base import DEFAULT_BITS
from codesign.cost.layer_report import report_layers
from codesign.cost.select import cost_model_for
from codesign.errors import InputError, UnsupportedOperatorError
from codesign.hardware.calibration import Calibration, KernelFit, Term, VectorUnit
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import HardwareProfile
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import Widths
from codesign.testing.cost_conformance import EXAMPLE_NODES, move_node, multiply_node

ARRAY = load_profile("squeezelerator-16x16").model_copy(update={"idle_power_w": 0.01})
PROFILES = (ARRAY, load_profile("host-cpu"))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_node_costs_what_the_cost_model_says_and_its_parts_add_up(profile: HardwareProfile) -> None:
    model = cost_model_for(profile)
    busy = [node for node in EXAMPLE_NODES if model.price_node(node, DEFAULT_BITS).bound != "free"]
    reports = report_layers(profile, EXAMPLE_NODES, 8, 8)
    assert [report.name for report in reports] == [node.name for node in busy]
    for node, report in zip(busy, reports, strict=True):
        cost = model.price_node(node, DEFAULT_BITS)
        assert (report.latency_s, report.energy_j, report.bound) == (cost.latency_s, cost.energy_j, cost.bound)
        assert sum(report.energy_by_part_j.values()) == pytest.approx(report.energy_j, rel=1e-12)
        assert list(report.traffic_bytes) == [level.name for level in profile.memories]
        assert 0 <= report.utilisation <= 1 + 1e-12
        assert (report.dataflow is None) == (report.cycles is None)
        assert (report.cycles is not None) == (profile.array is not None and node.geometry is not None)


def test_a_calibration_changes_latency_and_what_is_drawn_meanwhile() -> None:
    host = load_profile("host-cpu")
    terms = tuple(Term(name=name, seconds=1e-9) for name in ("call", "products", "tiles", "epilogues"))
    fit = KernelFit(
        kind="dense", arithmetic="int8", terms=terms, correction=None, samples=9, relative_error=0.1,
        within_10_percent=0.9, source="made up",
    )  # fmt: skip
    unit = VectorUnit(registers=31, lanes=16, dot_channels=1)
    names = ("steps", "loads", "stalls", "conflicts", "partials", "padding", "padded_pixels", "beyond_l1", "beyond_l2",
             "weights_l2", "inputs_l2", "from_image")  # fmt: skip
    fits = (fit.model_copy(update={"terms": terms + tuple(Term(name=name, seconds=0.0) for name in names)}),)
    calibrated = host.model_copy(
        update={"calibration": Calibration(source="made up", unit=unit, call_s=1e-3, fits=fits)}
    )
    dense = multiply_node("dense", "Gemm", ConvGeometry(1, 64, 64, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    (before,), (after,) = (report_layers(profile, [dense], 8, 8) for profile in (host, calibrated))
    assert after.latency_s == cost_model_for(calibrated).price_node(dense, DEFAULT_BITS).latency_s > 1e-3
    assert after.traffic_bytes == before.traffic_bytes
    assert after.energy_j - before.energy_j == pytest.approx(host.idle_power_w * (after.latency_s - before.latency_s))
    assert sum(after.energy_by_part_j.values()) == pytest.approx(after.energy_j, rel=1e-12)
    conv = multiply_node("conv", "Conv", ConvGeometry(1, 16, 16, (3, 3), (1, 1), (8, 8), (8, 8), 1))
    with pytest.raises(InputError, match="'conv' is convolution in int8, which was not measured"):
        report_layers(calibrated, [conv], 8, 8)


def test_a_processor_s_traffic_ends_where_the_working_set_fits() -> None:
    host = PROFILES[1]
    small = multiply_node("small", "Gemm", ConvGeometry(1, 16, 16, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    large = multiply_node("large", "Gemm", ConvGeometry(1, 2**14, 2**15, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    first, last = host.memories[0].name, host.memories[-1].name
    fits, spills = report_layers(host, [small, large], 8, 8)
    assert fits.traffic_bytes[first] == 16 * 16 + 8 * 16 + 32
    assert fits.traffic_bytes[last] == 0
    assert spills.traffic_bytes[last] == spills.traffic_bytes[first] > 2**29


def test_widths_change_products_of_weights_only() -> None:
    geometry = ConvGeometry(64, 128, 64, (1, 1), (1, 1), (1, 1), (1, 1), 1)
    weighted, attention = multiply_node("w", "MatMul", geometry), multiply_node("a", "MatMul", geometry, False)
    narrow = report_layers(ARRAY, [weighted, attention], 2, 8)
    wide = report_layers(ARRAY, [weighted, attention], 8, 8)
    assert narrow[0].traffic_bytes["dram"] < wide[0].traffic_bytes["dram"]
    assert narrow[1] == wide[1]


def test_words_of_16_bits_are_priced_where_the_profile_has_a_rate() -> None:
    (layer,) = report_layers(ARRAY, [EXAMPLE_NODES[0]], 16, 16)
    (narrow,) = report_layers(ARRAY, [EXAMPLE_NODES[0]], 8, 8)
    assert layer.energy_j > narrow.energy_j
    with pytest.raises(InputError, match="no rate for 12-bit weights with 16-bit activations"):
        report_layers(ARRAY, [EXAMPLE_NODES[0]], 12, 16)


@pytest.mark.parametrize("name", ["host-cpu", "h100", "cortex-m7"])
def test_floating_point_is_priced_on_processors_at_its_own_rate(name: str) -> None:
    profile = load_profile(name)
    geometry = ConvGeometry(512, 512, 512, (1, 1), (1, 1), (1, 1), (1, 1), 1)
    nodes = [multiply_node("dense", "Gemm", geometry), move_node("relu", "Relu", 100, 100)]
    (wide, moved), (narrow, _) = (report_layers(profile, nodes, bits, bits) for bits in (32, 8))
    assert wide.widths == Widths(32, 32)
    assert wide.traffic_bytes[profile.memories[0].name] == 4 * 3 * 512**2 + 8 * 512
    assert wide.energy_by_part_j["compute"] == wide.macs * profile.rate(32, 32).energy_j_per_mac
    assert wide.latency_s >= wide.macs / profile.rate(32, 32).macs_per_s
    assert wide.latency_s > narrow.latency_s
    assert (moved.widths, moved.traffic_bytes[profile.memories[0].name]) == (None, 4 * 200)


def test_unknown_operators_are_named_together() -> None:
    unknown = [move_node("one", "NonZero", 4, 4), move_node("two", "TopK", 4, 4)]
    with pytest.raises(UnsupportedOperatorError, match=r"NonZero \(node 'one'\), TopK \(node 'two'\)"):
        report_layers(ARRAY, unknown, 8, 8)
