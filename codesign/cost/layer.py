"""One group of a convolution as an array sees it: loop bounds, spans of input rows, bytes of elements."""

from dataclasses import dataclass

from codesign.plan.facts import ConvGeometry


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution.

    Attributes:
        outputs: Output positions.
        inputs: Input positions, padding excluded.
        kernel: Taps.
        stride: Distance between the windows of neighbouring outputs.
        dilation: Distance between taps.
    """

    outputs: int
    inputs: int
    kernel: int
    stride: int
    dilation: int

    def span(self, outputs: int) -> int:
        """Input positions that neighbouring outputs touch, at most those that exist.

        Args:
            outputs: How many neighbouring outputs.

        Returns:
            `min(window, outputs x kernel, inputs)`, window = (outputs - 1) stride + (kernel - 1) dilation + 1: with a
            stride above the kernel the positions between windows are not touched.
        """
        window = (outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        return min(window, outputs * self.kernel, self.inputs)

    def tiled_span(self, tile: int) -> int:
        """Input positions touched by all tiles together, overlaps counted in each.

        Args:
            tile: Outputs of a tile; the last tile takes what is left.

        Returns:
            Positions.
        """
        whole, rest = divmod(self.outputs, tile)
        return whole * self.span(tile) + (self.span(rest) if rest else 0)


@dataclass(frozen=True)
class Layer:
    """One of the equal groups of a convolution, or a matrix product.

    Attributes:
        groups: How many such groups the node has.
        filters: Output channels of the group, K.
        channels: Input channels of the group, C.
        rows: Vertical axis; samples of a batch are stacked on it.
        columns: Horizontal axis.
    """

    groups: int
    filters: int
    channels: int
    rows: Axis
    columns: Axis

    @property
    def taps(self) -> int:
        """Kernel positions, R S."""
        return self.rows.kernel * self.columns.kernel

    @property
    def positions(self) -> int:
        """Output positions, M."""
        return self.rows.outputs * self.columns.outputs

    @property
    def reduction(self) -> int:
        """Products that make up one output, T = R S C."""
        return self.taps * self.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, M K T."""
        return self.positions * self.filters * self.reduction

    @property
    def is_matrix_product(self) -> bool:
        """Whether positions are rows of a matrix, without neighbours."""
        return self.taps == 1 and self.columns.outputs == 1


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of each kind of element.

    Attributes:
        weight: One weight, packed.
        activation: One input or output.
        partial_sum: One accumulator.
        filter_overhead: Scale and bias of one output channel.
    """

    weight: float
    activation: float
    partial_sum: float
    filter_overhead: float


def layer_of(geometry: ConvGeometry) -> Layer:
    """One group of a node.

    Args:
        geometry: The node's loop bounds.

    Returns:
        The group.
    """
    axes = [
        Axis(*axis)
        for axis in zip(
            (geometry.batch * geometry.output_size[0], geometry.output_size[1]),
            (geometry.batch * geometry.input_size[0], geometry.input_size[1]),
            geometry.kernel,
            geometry.stride,
            geometry.dilation,
            strict=True,
        )
    ]
    groups = geometry.groups
    return Layer(groups, geometry.output_channels // groups, geometry.input_channels // groups, axes[0], axes[1])
