"""Cycles of each layer on a two-dimensional array.

One group: M output positions, K filters, C channels, R x S taps, T = R S C; array of rows x columns; up() rounds up.
Groups follow one another on the array: it delivers the operands of one group at a time, as in SCALE-Sim, where each
group is a layer of its own. A depthwise layer therefore fills the array only with its positions.

Skewed arrays (SCALE-Sim 3.0, exact; version 2 and its paper count the drain of output-stationary folds separately). A
fold that uses r rows and c columns takes

    output-stationary  T + r + c - 2     M over the rows, K over the columns
    weight-stationary  M + 2 r + c - 2   T over the rows, K over the columns
    input-stationary   K + 2 r + c - 2   T over the rows, M over the columns

With `whole` folds r and c are the array's and the sum over folds less 1 is SCALE-Sim's index of the last cycle. With
`fitted` folds they are the rows and columns in use. The sum is then `folds (t - 2) + a x size over rows x column folds
+ size over columns x row folds`, which no additional row or column can raise.

Broadcast arrays (ZigZag's temporal cycles, exact): no filling and draining.

    output-stationary  up(K / rows) up(OW / columns) OH T        K over the rows, a line of outputs over the columns
    weight-stationary  up(K / rows) up(C / columns) R S M        K over the rows, C over the columns

Squeezelerator (Kwon et al., DAC 2018; uneven edges counted exactly), q filters an element, see `on_chip_traffic`:

    output-stationary  blocks K T + up(K / q) C (input positions of all blocks) / columns
    weight-stationary  up(K / columns) (up(C / rows) R S M + T)
"""

import numpy as np

from codesign.cost.layer_table import Array, LayerTable, ceil_div
from codesign.errors import InputError
from codesign.hardware.profile import DATAFLOWS, Dataflow, PeArray


def array_cycles(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> Array:
    """Cycles that the array is busy with each layer, at its native rate.

    Args:
        layers: The layers.
        array: The array.
        dataflow: What stays in the elements.

    Returns:
        Cycles of all groups together, `[layers]`.

    Raises:
        InputError: This kind of array cannot run the dataflow.
    """
    if dataflow not in DATAFLOWS[array.kind]:
        allowed = ", ".join(DATAFLOWS[array.kind])
        raise InputError(f"a {array.kind} array cannot run {dataflow}; choose one of {allowed}, or a skewed array")
    match array.kind:
        case "skewed":
            return layers.groups * _skewed(layers, array, dataflow)
        case "broadcast":
            return layers.groups * _broadcast(layers, array, dataflow)
        case "squeezelerator":
            return layers.groups * _squeezelerator(layers, array, dataflow)


def skewed_sizes(layers: LayerTable, dataflow: Dataflow) -> tuple[Array, Array, Array]:
    """Which loops a skewed array lays over its rows, over its columns, and over time.

    Args:
        layers: The layers.
        dataflow: What stays in the elements.

    Returns:
        Sizes of the three loops, each `[layers]`.
    """
    match dataflow:
        case "output-stationary":
            return layers.positions, layers.filters, layers.reduction
        case "weight-stationary":
            return layers.reduction, layers.filters, layers.positions
        case "input-stationary":
            return layers.reduction, layers.positions, layers.filters


def broadcast_lines(layers: LayerTable) -> tuple[Array, Array]:
    """Lines of outputs that a broadcast array works on, one after the other.

    Args:
        layers: The layers.

    Returns:
        Lines, and outputs of a line. Rows of a matrix product have no neighbours and form a single line.
    """
    product = layers.is_matrix_product
    lines = np.where(product, 1.0, layers.rows.outputs)
    return lines, np.where(product, layers.positions, layers.columns.outputs)


def output_blocks(layers: LayerTable, array: PeArray) -> tuple[Array, Array]:
    """Blocks of outputs that a Squeezelerator works on, one after the other.

    Args:
        layers: The layers.
        array: The array, an element an output.

    Returns:
        Blocks, and input positions that all of them load for one channel.
    """
    product = layers.is_matrix_product
    blocks = ceil_div(layers.rows.outputs, array.rows) * ceil_div(layers.columns.outputs, array.columns)
    loaded = layers.rows.tiled_span(array.rows) * layers.columns.tiled_span(array.columns)
    flat = ceil_div(layers.positions, array.rows * array.columns)
    return np.where(product, flat, blocks), np.where(product, layers.positions, loaded)


def _skewed(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> Array:
    over_rows, over_columns, over_time = skewed_sizes(layers, dataflow)
    row_folds, column_folds = ceil_div(over_rows, array.rows), ceil_div(over_columns, array.columns)
    row_passes = 1 if dataflow == "output-stationary" else 2  # what stays is first shifted in, row by row
    folds = row_folds * column_folds
    if array.folds == "whole":
        return folds * (over_time + row_passes * array.rows + array.columns - 2) - 1
    return folds * (over_time - 2) + row_passes * over_rows * column_folds + over_columns * row_folds


def _broadcast(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> Array:
    filter_folds = ceil_div(layers.filters, array.rows)
    if dataflow == "weight-stationary":
        return filter_folds * ceil_div(layers.channels, array.columns) * layers.taps * layers.positions
    lines, line = broadcast_lines(layers)
    return filter_folds * ceil_div(line, array.columns) * lines * layers.reduction


def _squeezelerator(layers: LayerTable, array: PeArray, dataflow: Dataflow) -> Array:
    if dataflow == "weight-stationary":
        passes = ceil_div(layers.channels, array.rows) * layers.taps
        return ceil_div(layers.filters, array.columns) * (passes * layers.positions + layers.reduction)
    blocks, loaded = output_blocks(layers, array)
    loads = ceil_div(layers.filters, array.filters_per_element) * layers.channels * loaded
    return blocks * layers.filters * layers.reduction + loads / array.columns
