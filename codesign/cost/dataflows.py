"""Cycles and on-chip traffic of one layer on a two-dimensional array, for both dataflows of the Squeezelerator.

M output positions, K filters, C channels, R x S taps, T = R S C; q filters an element; up() rounds up. Where the sizes
divide evenly the cycles are those of Kwon et al. (DAC 2018) as modelled here; uneven edges are counted exactly, so that
a larger array is never slower.
"""

from dataclasses import dataclass

from codesign.cost.layer import ElementBytes, Layer
from codesign.hardware.profile import PeArray


@dataclass(frozen=True)
class OnChip:
    """What one group of a layer does on the array.

    Attributes:
        cycles: Cycles that the array is busy.
        buffer_bytes: Bytes read from and written to the global buffer, without what DRAM fills in.
        register_bytes: Bytes read from and written to register files.
        sums_in_buffer: Whether partial sums go back to the global buffer.
    """

    cycles: float
    buffer_bytes: float
    register_bytes: float
    sums_in_buffer: bool


def output_stationary(layer: Layer, element: ElementBytes, array: PeArray) -> OnChip:
    """Each element keeps the sums of one output position for q filters; weights are broadcast one a cycle.

    A block of rows x columns positions is computed for all filters: `blocks K T` cycles of arithmetic. Before each
    channel of each q filters, the block's inputs are loaded, one a column and cycle:
    `up(K / q) C (input positions of all blocks) / columns` cycles.

    Args:
        layer: One group of a convolution.
        element: Bytes of elements.
        array: The array.

    Returns:
        Cycles and traffic: inputs `up(K/q) C positions`, weights `blocks K T`, outputs written and read once.
    """
    blocks, positions = _blocks(layer, array)
    loads = -(-layer.filters // array.filters_per_element) * layer.channels * positions
    broadcasts = blocks * layer.filters * layer.reduction
    outputs = 2 * layer.positions * layer.filters * element.activation
    return OnChip(
        cycles=broadcasts + loads / array.columns,
        buffer_bytes=loads * element.activation + broadcasts * element.weight + outputs,
        register_bytes=2 * layer.macs * element.partial_sum,
        sums_in_buffer=False,
    )


def weight_stationary(layer: Layer, element: ElementBytes, array: PeArray) -> OnChip:
    """Each element keeps the weight of one channel (row) and filter (column); inputs stream, sums run down the columns.

    For each tap: `up(K / columns) (up(C / rows) M + C)` cycles, the last term for loading the weights row by row.

    Args:
        layer: One group of a convolution.
        element: Bytes of elements.
        array: The array.

    Returns:
        Cycles and traffic: inputs `M T up(K / columns)`, weights `K T`, and with n = `up(C / rows) R S` passes
        `M K (2 n b_p + b_a)` for sums and outputs, or `2 M K b_a` for a single pass.
    """
    folds = -(-layer.filters // array.columns)
    passes = -(-layer.channels // array.rows) * layer.taps
    outputs = layer.positions * layer.filters
    sum_bytes = 2 * element.activation if passes == 1 else 2 * passes * element.partial_sum + element.activation
    weights = layer.filters * layer.reduction
    inputs = layer.positions * layer.reduction * folds
    return OnChip(
        cycles=folds * (passes * layer.positions + layer.reduction),
        buffer_bytes=inputs * element.activation + weights * element.weight + outputs * sum_bytes,
        register_bytes=2 * weights * element.weight,
        sums_in_buffer=passes > 1,
    )


def _blocks(layer: Layer, array: PeArray) -> tuple[int, int]:
    """Blocks of output positions, and input positions that all of them load for one channel."""
    if layer.is_matrix_product:
        return -(-layer.positions // (array.rows * array.columns)), layer.positions
    blocks = -(-layer.rows.outputs // array.rows) * -(-layer.columns.outputs // array.columns)
    return blocks, layer.rows.tiled_span(array.rows) * layer.columns.tiled_span(array.columns)
