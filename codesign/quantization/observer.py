"""What activations look like on calibration data: ranges of every value, and mean operands of every weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.annotations import InputMean, is_weighted
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import name_of
from codesign.progress import Progress, track
from codesign.quantization.quantizer import ACTIVATION_LEVELS
from codesign.quantization.scheme import RangeRule

BINS = 2048
BATCH = 64
_CANDIDATES = 100

Range = tuple[float, float]


@dataclass(frozen=True)
class Observations:
    """What calibration data showed.

    Attributes:
        ranges: By value name, after the range rule.
        input_means: By node name.
        samples: How many samples were seen.
    """

    ranges: Mapping[str, Range]
    input_means: Mapping[str, InputMean]
    samples: int


def observe(
    model: ir.Model, images: NDArray[np.float32], rule: RangeRule, percentile: float, progress: Progress
) -> Observations:
    """Runs the network over calibration data: once for extremes and means, again for rules that need histograms.

    Args:
        model: A lowered graph.
        images: `[N, ...]`, preprocessed.
        rule: How ranges are chosen.
        percentile: For rule `percentile`: the share of values, in percent, that a range keeps.
        progress: Told about each batch.

    Returns:
        Ranges and means.

    Raises:
        InputError: A value is not finite.
    """
    graph = TorchGraph(model)
    extremes: dict[str, Range] = {}
    means: dict[str, tuple[Tensor, int]] = {}

    def first_pass(node: ir.Node, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        for value, result in zip(node.outputs, outputs, strict=True):
            _widen(extremes, str(value.name), result)
        if is_weighted(node):
            assert inputs[0] is not None
            assert inputs[1] is not None
            mean, count = mean_operand(node, inputs[0], inputs[1])
            total, seen = means.get(name_of(node), (torch.zeros_like(mean), 0))
            means[name_of(node)] = (total + mean * count, seen + count)

    input_name = str(model.graph.inputs[0].name)
    with torch.no_grad():
        for batch in track(progress, "Observing activations", _batches(images), -(-len(images) // BATCH)):
            _widen(extremes, input_name, batch)
            graph.run(batch, on_node=first_pass)
    ranges = (
        extremes if rule == "min-max" else _clipped(graph, input_name, images, extremes, rule, percentile, progress)
    )
    input_means = {
        name: InputMean(shape=tuple(total.shape), values=tuple((total / seen).flatten().tolist()), samples=len(images))
        for name, (total, seen) in means.items()
    }
    return Observations(ranges, input_means, len(images))


def mean_operand(node: ir.Node, x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    """Mean over samples and positions of what each weight element multiplies.

    The mean output is linear in the weight, so the mean operand is its derivative; channels of one group share it.

    Args:
        node: Conv, Gemm or MatMul.
        x: What enters, `[N, ...]`.
        weight: Its weight.

    Returns:
        Means in float64, shape of the weight with one output channel per group, and the number of positions.
    """
    if node.op_type != "Conv":
        flat = x.reshape(-1, x.shape[-1]).double()
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        mean = flat.mean(0)
        return (mean[None, :] if transposed else mean[:, None]), len(flat)
    groups = node.attributes.get_int("group", 1)
    spatial = weight.dim() - 2
    kernel = torch.zeros(groups, *weight.shape[1:], dtype=torch.float64, requires_grad=True)
    pads = node.attributes.get_ints("pads", [0] * (2 * spatial))
    padded = F.pad(x.double(), [p for i in reversed(range(spatial)) for p in (pads[i], pads[i + spatial])])
    strides = tuple(node.attributes.get_ints("strides", [1] * spatial))
    dilations = tuple(node.attributes.get_ints("dilations", [1] * spatial))
    with torch.enable_grad():
        convolve = F.conv1d if spatial == 1 else F.conv2d
        y = convolve(padded, kernel, None, strides, 0, dilations, groups)
        positions = y.numel() // groups
        (gradient,) = torch.autograd.grad(y.sum(), kernel)
    return gradient.detach() / positions, positions


def _batches(images: NDArray[np.float32]) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH]))


def _widen(extremes: dict[str, Range], name: str, value: Tensor) -> None:
    if not value.is_floating_point() or value.numel() == 0:
        return
    low, high = (float(v) for v in value.aminmax())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"value {name!r} becomes NaN or infinite on calibration data; check the data and the weights")
    old_low, old_high = extremes.get(name, (low, high))
    extremes[name] = (min(low, old_low), max(high, old_high))


def _clipped(
    graph: TorchGraph,
    input_name: str,
    images: NDArray[np.float32],
    extremes: Mapping[str, Range],
    rule: RangeRule,
    percentile: float,
    progress: Progress,
) -> dict[str, Range]:
    counts = {name: np.zeros(BINS) for name in extremes}

    def count(name: str, value: Tensor) -> None:
        if name in counts:
            low, high = extremes[name]
            counts[name] += torch.histc(value.float(), BINS, low, high).numpy() if high > low else 0.0

    def second_pass(node: ir.Node, _: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        for value, result in zip(node.outputs, outputs, strict=True):
            count(str(value.name), result)

    with torch.no_grad():
        for batch in track(progress, "Choosing ranges", _batches(images), -(-len(images) // BATCH)):
            count(input_name, batch)
            graph.run(batch, on_node=second_pass)
    choose = percentile_range if rule == "percentile" else least_error_range
    return {name: choose(counts[name], extremes[name], percentile) for name in extremes}


def percentile_range(counts: NDArray[np.float64], extremes: Range, percentile: float) -> Range:
    """The shortest interval of bins, cut evenly from both ends, that keeps a share of all values.

    Args:
        counts: Histogram over `extremes`.
        extremes: Smallest and largest value seen.
        percentile: Share to keep, in percent; a range that starts at zero is cut at the top only.

    Returns:
        The range.
    """
    low, high = extremes
    total = counts.sum()
    if total == 0:
        return extremes
    width = (high - low) / len(counts)
    dropped = (1 - percentile / 100) * total
    below = dropped / 2 if low < 0 else 0.0
    first = int(np.searchsorted(counts.cumsum(), below, side="right")) if below else 0
    last = len(counts) - int(np.searchsorted(counts[::-1].cumsum(), dropped - below, side="right"))
    return (low + first * width, low + max(last, first + 1) * width)


def least_error_range(counts: NDArray[np.float64], extremes: Range, _: float = 0.0) -> Range:
    """The range, shrunk towards zero in even steps, with the least expected squared error at 8 bits.

    Values inside are rounded (error Δ²/12); values outside saturate.

    Args:
        counts: Histogram over `extremes`.
        extremes: Smallest and largest value seen.

    Returns:
        The range.
    """
    low, high = extremes
    if counts.sum() == 0 or high <= low:
        return extremes
    centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    best, best_error = extremes, np.inf
    for step in range(_CANDIDATES):
        share = 1 - step / _CANDIDATES
        candidate = (min(low, 0.0) * share, max(high, 0.0) * share)
        saturated = centres - centres.clip(*candidate)
        rounding = ((candidate[1] - candidate[0]) / ACTIVATION_LEVELS) ** 2 / 12
        error = float((counts * np.where(saturated == 0, rounding, saturated**2)).sum())
        if error < best_error:
            best, best_error = candidate, error
    return best
