"""Bytes that each layer moves between the global buffer, the elements and their register files.

One group as in `array_cycles`; b_w, b_a, b_p bytes of a weight, an activation and a partial sum. Without what DRAM
fills into the buffer:

    skewed     output-stationary  M T up(K / columns) b_a + K T up(M / rows) b_w
               weight-stationary  M T up(K / columns) b_a + K T b_w
               input-stationary   M T b_a + K T up(M / columns) b_w
    broadcast  output-stationary  M T up(K / rows) b_a + K T lines up(line / columns) b_w, one of the two divided by q
               weight-stationary  M T up(K / rows) b_a + K T b_w
    squeezelerator  output-stationary  up(K / q) C (input positions of all blocks) b_a + blocks K T b_w
                    weight-stationary  M T up(K / columns) b_a + K T b_w

An element with q sums reads a weight once for q positions or an input once for q filters, whichever saves more. Outputs
are written once and read once by DRAM: `2 M K b_a`. Where n > 1 passes add to the same output, sums go back to the
buffer, `M K (2 n b_p + b_a)`; n = up(T / rows) in skewed arrays and R S up(C / columns or rows) in the others.

Registers: sums `2 M K T b_p` (output-stationary), weights `2 K T b_w`, or inputs `2 M T b_a`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.cost.array_cycles import broadcast_lines, output_blocks
from codesign.cost.element_bytes import ElementBytes
from codesign.cost.layer_table import Array, LayerTable, ceil_div
from codesign.hardware.profile import Dataflow, PeArray


@dataclass(frozen=True)
class OnChipTraffic:
    """Traffic of each layer, all groups together.

    Attributes:
        buffer_bytes: Read from and written to the global buffer, without what DRAM fills in, `[layers, pairs]`.
        register_bytes: Read from and written to register files, `[layers, pairs]`.
        sums_in_buffer: Whether partial sums go back to the global buffer, `[layers]`.
    """

    buffer_bytes: Array
    register_bytes: Array
    sums_in_buffer: NDArray[np.bool_]


@dataclass(frozen=True)
class _Reads:
    """Elements of one group that the array reads from the buffer, each `[layers]`.

    Attributes:
        inputs: Inputs, each as often as it is read.
        weights: Weights, each as often as it is read.
        input_reuse: How much a register file of several sums could divide `inputs` by.
        weight_reuse: The same of `weights`, instead of `inputs`.
        passes: How often an output is added to.
    """

    inputs: Array
    weights: Array
    input_reuse: Array
    weight_reuse: Array
    passes: Array


def on_chip_traffic(
    layers: LayerTable, array: PeArray, dataflow: Dataflow, buffer: ElementBytes, register: ElementBytes
) -> OnChipTraffic:
    """Traffic inside the device.

    Args:
        layers: The layers.
        array: The array.
        dataflow: What stays in the elements.
        buffer: Bytes of elements in the global buffer.
        register: Bytes of elements in register files.

    Returns:
        The traffic.
    """
    reads = _READS[array.kind](layers, array, dataflow)
    inputs, weights = reads.inputs[:, None] * buffer.activation, reads.weights[:, None] * buffer.weight
    operands = np.minimum(inputs / reads.input_reuse[:, None] + weights, inputs + weights / reads.weight_reuse[:, None])
    is_single = reads.passes[:, None] == 1
    sums = 2 * reads.passes[:, None] * buffer.partial_sum + buffer.activation
    outputs = layers.outputs[:, None] * np.where(is_single, 2 * buffer.activation, sums)
    return OnChipTraffic(
        buffer_bytes=layers.groups[:, None] * (operands + outputs),
        register_bytes=layers.groups[:, None] * _register_bytes(layers, dataflow, register),
        sums_in_buffer=reads.passes > 1,
    )


def _register_bytes(layers: LayerTable, dataflow: Dataflow, register: ElementBytes) -> Array:
    match dataflow:
        case "output-stationary":
            kept = layers.macs[:, None] * np.full_like(register.weight, register.partial_sum)
        case "weight-stationary":
            kept = (layers.filters * layers.reduction)[:, None] * register.weight
        case "input-stationary":
            kept = (layers.positions * layers.reduction)[:, None] * register.activation
    return 2 * kept


def _skewed(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> _Reads:
    once = np.ones(len(layers))
    windows, weights = layers.positions * layers.reduction, layers.filters * layers.reduction
    passes = ceil_div(layers.reduction, array.rows)
    match dataflow:
        case "output-stationary":
            windows = windows * ceil_div(layers.filters, array.columns)
            weights, passes = weights * ceil_div(layers.positions, array.rows), once
        case "weight-stationary":
            windows = windows * ceil_div(layers.filters, array.columns)
        case "input-stationary":
            weights = weights * ceil_div(layers.positions, array.columns)
    return _Reads(windows, weights, once, once, passes)


def _broadcast(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> _Reads:
    once = np.ones(len(layers))
    folds = ceil_div(layers.filters, array.rows)
    windows, weights = layers.positions * layers.reduction * folds, layers.filters * layers.reduction
    if dataflow == "weight-stationary":
        passes = ceil_div(layers.channels, array.columns) * layers.taps
        return _Reads(windows, weights, once, once, passes)
    lines, line = broadcast_lines(layers)
    stretches = lines * ceil_div(line, array.columns)
    sums = float(array.filters_per_element)
    return _Reads(windows, weights * stretches, np.minimum(sums, folds), np.minimum(sums, stretches), once)


def _squeezelerator(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> _Reads:
    once = np.ones(len(layers))
    weights = layers.filters * layers.reduction
    if dataflow == "weight-stationary":
        windows = layers.positions * layers.reduction * ceil_div(layers.filters, array.columns)
        return _Reads(windows, weights, once, once, ceil_div(layers.channels, array.rows) * layers.taps)
    blocks, loaded = output_blocks(layers, array)
    loads = ceil_div(layers.filters, array.filters_per_element) * layers.channels * loaded
    return _Reads(loads, weights * blocks, once, once, once)


_READS = {"skewed": _skewed, "broadcast": _broadcast, "squeezelerator": _squeezelerator}
