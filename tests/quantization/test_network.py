"""A whole network quantised: observed, simulated, written as QDQ and run by onnxruntime."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from codesign.errors import InputError
from codesign.ir.annotation import annotate, read
from codesign.ir.annotations import ActivationRange, InputMean
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.apply_bit_widths import ApplyBitWidthsPass
from codesign.passes.kl_sensitivity import KlSensitivityPass
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.progress import Silent
from codesign.quantization.layer import mean_output_error, output_axis, quantize_layer, weight_of
from codesign.quantization.observer import least_error_range, mean_operand, observe, percentile_range
from codesign.quantization.qdq import WEIGHT_BITS_KEY, write_qdq
from codesign.quantization.quantizer import ActivationScale
from codesign.quantization.regions import quantized_values
from codesign.quantization.scheme import WEIGHT_BITS, BitWidths
from codesign.quantization.simulation import SimulatedNetwork

torch.set_num_threads(1)


class Residual(nn.Module):
    """Strided, grouped and pointwise convolutions, a residual addition, pooling and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.point = nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.grouped(x))
        x = torch.relu(self.point(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(48, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def lowered() -> Program:
    torch.manual_seed(0)
    return lower_module(Residual(), (1, 3, 12, 12))


@pytest.fixture
def program(lowered: Program, images: NDArray[np.float32]) -> Program:
    fresh = Program(lowered.graph.clone())
    ObserveActivationsPass().run(fresh, PassContext(CalibrationData(images)))
    return fresh


def _run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_qdq_file_computes_what_was_simulated(
    program: Program, images: NDArray[np.float32], bits: int, tmp_path: Path
) -> None:
    simulated = SimulatedNetwork(program.graph)
    expected = simulated.logits(images, {name: BitWidths(bits, 8) for name in simulated.layers.nodes})
    step = simulated.layers.scales[str(program.graph.graph.outputs[0].name)].scale
    ApplyBitWidthsPass(weight=bits).run(program, PassContext())
    path = tmp_path / "qdq.onnx"
    ir.save(program.graph, path)
    onnx.checker.check_model(str(path), full_check=True)
    found = _run(path, images)
    assert np.abs(found - expected).max() <= step * 1.001
    assert (np.abs(found - expected) < step / 2).mean() > 0.85  # ties of float32 sums fall either way
    assert [node.metadata_props[WEIGHT_BITS_KEY] for node in program.graph.graph if node.op_type == "Conv"] == [
        str(bits)
    ] * 3


def test_narrow_weights_are_stored_as_int4_and_wider_ones_as_int8(program: Program) -> None:
    names = [name_of(node) for node in program.weighted_nodes]
    widths = dict(zip(names, (2, 4, 5, 8), strict=True))
    write_qdq(program.graph, {name: BitWidths(bits, 8) for name, bits in widths.items()}, bias_correction=True)
    stored = {name: program.graph.graph.initializers[f"{name}.weight_quantized"].dtype for name in names}
    assert list(stored.values()) == [ir.DataType.INT4, ir.DataType.INT4, ir.DataType.INT8, ir.DataType.INT8]


def test_float_weights_and_activations_give_the_float_network(
    program: Program, images: NDArray[np.float32], tmp_path: Path
) -> None:
    ir.save(program.graph, tmp_path / "float.onnx")
    found = SimulatedNetwork(program.graph).logits(images, None, quantize_activations=False)
    np.testing.assert_allclose(found, _run(tmp_path / "float.onnx", images), rtol=1e-4, atol=1e-5)


def test_more_bits_are_closer(program: Program, images: NDArray[np.float32]) -> None:
    network = SimulatedNetwork(program.graph)
    reference = network.logits(images, None, quantize_activations=False)
    errors = [
        np.abs(network.logits(images, {n: BitWidths(b, 8) for n in network.layers.nodes}) - reference).mean()
        for b in (2, 4, 8)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_mean_operands_predict_the_mean_output_of_any_weight(program: Program, images: NDArray[np.float32]) -> None:
    """mean over n, y, x of conv(x, w) = sum w E[x], padding, stride and groups included."""
    means: dict[str, NDArray[np.float32]] = {}

    def hook(node: ir.Node, _: object, outputs: tuple[torch.Tensor, ...]) -> None:
        if node.op_type in {"Conv", "Gemm"}:
            total = outputs[0].double()
            means[name_of(node)] = total.movedim(1, 0).reshape(total.shape[1], -1).mean(1).numpy()

    network = SimulatedNetwork(program.graph)
    network.graph.run(torch.from_numpy(images), on_node=hook)
    for node in program.weighted_nodes:
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        offset = 0 if bias is None else bias.const_value.numpy()  # type: ignore[union-attr]  # biases are constants here
        predicted = mean_output_error(weight_of(node), output_axis(node), read(node, InputMean)) + offset
        np.testing.assert_allclose(predicted, means[name_of(node)], rtol=1e-4, atol=1e-5)


def test_bias_correction_removes_the_mean_error_of_a_layer(program: Program) -> None:
    for node in program.weighted_nodes:
        mean = read(node, InputMean)
        plain = quantize_layer(node, 3, ActivationScale(0.01, 0), None)
        corrected = quantize_layer(node, 3, ActivationScale(0.01, 0), mean)
        error = plain.weight.dequantized() - weight_of(node)
        expected = mean_output_error(error, plain.weight.axis, mean)
        old, new = plain.dequantized_bias(), corrected.dequantized_bias()
        assert new is not None
        shift = new if old is None else new - old
        np.testing.assert_allclose(shift, -expected, atol=2 * float(corrected.bias_scales.max()))


def test_a_bias_too_large_for_its_channel_widens_the_scale(program: Program) -> None:
    node = program.weighted_nodes[0]
    weight = node.inputs[1]
    assert weight is not None
    tiny = weight_of(node).copy()
    tiny[0] = 1e-12
    weight.const_value = ir.tensor(tiny)
    layer = quantize_layer(node, 8, ActivationScale(0.01, 0), None)
    bias = layer.dequantized_bias()
    assert bias is not None
    original = node.inputs[2].const_value.numpy()  # type: ignore[union-attr]  # a constant
    np.testing.assert_allclose(bias[0], original[0], rtol=1e-6)


def test_regions_fuse_activations_and_stay_in_integers(program: Program) -> None:
    owners = quantized_values(program.graph).scale_owner
    for node in program.graph.graph:
        output = str(node.outputs[0].name)
        readers = list(node.outputs[0].consumers())
        fused = len(readers) == 1 and readers[0].op_type == "Relu"
        assert (output in owners) != fused, node.name
    assert str(program.graph.graph.inputs[0].name) in owners


def test_plans_that_do_not_fit_are_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit the graph"):
        write_qdq(program.graph, {"nothing": BitWidths(8, 8)}, True)
    with pytest.raises(InputError, match="either weight=BITS or plan=FILE"):
        ApplyBitWidthsPass().run(program, PassContext())
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not a readable plan"):
        ApplyBitWidthsPass(plan=str(tmp_path / "broken.json")).run(program, PassContext())


def test_kl_sensitivity_equals_a_whole_forward_with_one_layer_quantised(
    program: Program, images: NDArray[np.float32]
) -> None:
    KlSensitivityPass(bits=(2, 8), samples=40, temperature=1.0).run(program, PassContext(CalibrationData(images)))
    from codesign.ir.annotations import KlSensitivity

    network = SimulatedNetwork(program.graph)
    reference = torch.from_numpy(network.logits(images[:40], None, False)).double().log_softmax(-1)
    for node in program.weighted_nodes:
        for entry in read(node, KlSensitivity).by_bits:
            logits = network.logits(images[:40], {name_of(node): BitWidths(entry.weight_bits, 8)}, False)
            log_q = torch.from_numpy(logits).double().log_softmax(-1)
            expected = float((reference.exp() * (reference - log_q)).sum(-1).mean())
            assert entry.loss_increase_nats == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_passes_that_need_data_say_so(program: Program) -> None:
    for pass_ in (ObserveActivationsPass(), KlSensitivityPass()):
        with pytest.raises(InputError, match="needs calibration data"):
            pass_.run(program, PassContext())


def test_nan_on_calibration_data_is_refused(lowered: Program, images: NDArray[np.float32]) -> None:
    broken = images.copy()
    broken[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        observe(lowered.graph, broken, "min-max", 99.9, Silent())


def test_percentile_and_least_error_ranges_cut_a_lonely_outlier() -> None:
    counts = np.zeros(1000)
    counts[:100] = 1e7
    counts[999] = 1
    for low, high in (percentile_range(counts, (0.0, 10.0), 99.99), least_error_range(counts, (0.0, 10.0))):
        assert low == 0
        assert 0.9 <= high <= 2.0
    assert percentile_range(counts, (0.0, 10.0), 100) == (0.0, 10.0)


@pytest.mark.parametrize("rule", ["percentile", "mse"])
def test_other_range_rules_never_widen_the_extremes(lowered: Program, images: NDArray[np.float32], rule: str) -> None:
    widest = observe(lowered.graph, images, "min-max", 99.9, Silent()).ranges
    narrowed = observe(lowered.graph, images, rule, 99.9, Silent()).ranges  # type: ignore[arg-type]  # one of the literals
    assert set(narrowed) == set(widest)
    for name, (low, high) in narrowed.items():
        assert low >= min(widest[name][0], 0) - 1e-6
        assert high <= max(widest[name][1], 0) + 1e-5 * abs(high)


def test_mean_operand_of_a_one_dimensional_convolution() -> None:
    x = torch.randn(3, 4, 9)
    weight = torch.randn(6, 2, 3)
    node = ir.node("Conv", [ir.Value(name="x"), ir.Value(name="w")], {"group": 2, "pads": [1, 0], "strides": [2]})
    mean, _ = mean_operand(node, x, weight)
    padded = torch.nn.functional.pad(x, (1, 0))
    expected = torch.nn.functional.conv1d(padded, weight, None, 2, 0, 1, 2).mean((0, 2)).double()
    found = (mean.repeat_interleave(3, 0) * weight).sum((1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_annotations_of_integers_may_lack_ranges() -> None:
    node = ir.node("Shape", [ir.Value(name="x")], name="shape")
    annotate(node, ActivationRange(inputs=((0.0, 1.0),), outputs=(None,), rule="min-max", samples=1))
    assert read(node, ActivationRange).outputs == (None,)
