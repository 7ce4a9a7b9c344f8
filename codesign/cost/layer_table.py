"""Loop bounds of many convolutions and matrix products, as arrays with one entry a layer.

All sizes are float64: they are whole numbers far below 2^53, so sums, products and quotients rounded up are exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.plan.facts import ConvGeometry

Array = NDArray[np.float64]


def ceil_div(size: Array | float, part: Array | float) -> Array:
    """How many parts cover a size.

    Args:
        size: Whole numbers.
        part: Whole numbers above 0.

    Returns:
        `size / part`, rounded up.
    """
    return np.asarray(np.ceil(np.asarray(size, np.float64) / part))


@dataclass(frozen=True)
class Axis:
    """One spatial axis of each layer.

    Attributes:
        outputs: Output positions.
        inputs: Input positions, padding excluded.
        kernel: Taps.
        stride: Distance between the windows of neighbouring outputs.
        dilation: Distance between taps.
    """

    outputs: Array
    inputs: Array
    kernel: Array
    stride: Array
    dilation: Array

    def span(self, outputs: Array | float) -> Array:
        """Input positions that neighbouring outputs touch, at most those that exist.

        Args:
            outputs: How many neighbouring outputs.

        Returns:
            `min(window, outputs x kernel, inputs)`, window = (outputs - 1) stride + (kernel - 1) dilation + 1: with a
            stride above the kernel the positions between windows are not touched. 0 for no outputs.
        """
        outputs = np.asarray(outputs, np.float64)
        window = (outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        touched = np.minimum(np.minimum(window, outputs * self.kernel), self.inputs)
        return np.asarray(np.where(outputs > 0, touched, 0.0))

    def tiled_span(self, tile: Array | float) -> Array:
        """Input positions touched by all tiles together, overlaps counted in each.

        Args:
            tile: Outputs of a tile; the last tile takes what is left.

        Returns:
            Positions.
        """
        whole, rest = np.divmod(self.outputs, tile)
        return np.asarray(whole * self.span(tile) + self.span(rest))

    def take(self, index: NDArray[np.intp]) -> "Axis":
        """The axes of some layers.

        Args:
            index: Which layers, repetitions allowed.

        Returns:
            Their axes.
        """
        return Axis(
            self.outputs[index], self.inputs[index], self.kernel[index], self.stride[index], self.dilation[index]
        )


@dataclass(frozen=True)
class LayerTable:
    """One of the equal groups of each layer; a matrix product is a 1x1 convolution.

    Attributes:
        groups: How many such groups the layer has.
        filters: Output channels of the group, K.
        channels: Input channels of the group, C.
        rows: Vertical axis; samples of a batch are stacked on it.
        columns: Horizontal axis.
        filter_overhead_bytes: Scale and bias of one output channel, stored beside the weights.
    """

    groups: Array
    filters: Array
    channels: Array
    rows: Axis
    columns: Axis
    filter_overhead_bytes: Array

    def __len__(self) -> int:
        return len(self.groups)

    @classmethod
    def of(
        cls, geometries: Sequence[ConvGeometry], filter_overhead_bytes: Sequence[float] | float = 0.0
    ) -> "LayerTable":
        """Tabulates layers.

        Args:
            geometries: Loop bounds.
            filter_overhead_bytes: Scale and bias of one output channel, of each layer or of all.

        Returns:
            The table, in the same order.
        """
        bounds = np.asarray([_bounds(geometry) for geometry in geometries], np.float64).reshape(len(geometries), 13).T
        overhead = np.broadcast_to(np.asarray(filter_overhead_bytes, np.float64), len(geometries))
        return cls(bounds[0], bounds[1], bounds[2], Axis(*bounds[3:8]), Axis(*bounds[8:13]), overhead)

    def take(self, index: NDArray[np.intp]) -> "LayerTable":
        """Some of the layers.

        Args:
            index: Which, repetitions allowed.

        Returns:
            Their table.
        """
        return LayerTable(
            self.groups[index],
            self.filters[index],
            self.channels[index],
            self.rows.take(index),
            self.columns.take(index),
            self.filter_overhead_bytes[index],
        )

    @property
    def taps(self) -> Array:
        """Kernel positions, R S."""
        return self.rows.kernel * self.columns.kernel

    @property
    def positions(self) -> Array:
        """Output positions, M."""
        return self.rows.outputs * self.columns.outputs

    @property
    def reduction(self) -> Array:
        """Products that make up one output, T = R S C."""
        return self.taps * self.channels

    @property
    def macs(self) -> Array:
        """Multiply-accumulates of one group, M K T."""
        return self.positions * self.filters * self.reduction

    @property
    def outputs(self) -> Array:
        """Output elements of one group, M K."""
        return self.positions * self.filters

    @property
    def touched_inputs(self) -> Array:
        """Input elements of one group that some output needs."""
        touched = self.rows.span(self.rows.outputs) * self.columns.span(self.columns.outputs)
        return np.asarray(touched * self.channels)

    @property
    def is_matrix_product(self) -> NDArray[np.bool_]:
        """Whether positions are rows of a matrix, without neighbours."""
        return np.asarray((self.taps == 1) & (self.columns.outputs == 1))


def _bounds(geometry: ConvGeometry) -> tuple[int, ...]:
    groups = geometry.groups
    axes = [
        (geometry.output_size[i], geometry.input_size[i], geometry.kernel[i], geometry.stride[i], geometry.dilation[i])
        for i in range(2)
    ]
    rows = (geometry.batch * axes[0][0], geometry.batch * axes[0][1], *axes[0][2:])
    return groups, geometry.output_channels // groups, geometry.input_channels // groups, *rows, *axes[1]
