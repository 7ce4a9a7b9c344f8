"""Where activations are while a Relax module is written: layouts, conversions between them, shared kernels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod

import tvm
from tvm import relax, tirx

from codesign.backend.kernel_table import TemplateCall
from codesign.backend.kernels import movement
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packing import LANES, round_up
from codesign.backend.kernels.parameters import KernelParameters
from codesign.backend.operations import Tensor
from codesign.backend.row_streams import Stream

OPAQUE = 8
"""TVM's kind of a function that is never fused with others."""


class Layout(Enum):
    """Order of a tensor's elements."""

    PLAIN = "plain"
    """As in the graph."""
    IMAGE = "image"
    """`[1, C, H, W]` by pixel, `[1, H, W, C']`."""
    ROWS = "rows"
    """Rows of the last axis, each padded to C' elements."""


@dataclass(frozen=True)
class Stored:
    """A tensor in some layout.

    Attributes:
        value: The Relax value.
        channels: C', 0 for `PLAIN`.
    """

    value: relax.Expr
    channels: int = 0


@dataclass(frozen=True)
class RowKernels:
    """How rows of an image are computed.

    Attributes:
        shape: Loop bounds of the convolution that makes all of it.
        kernel: Name of its kernel.
        element_bytes: Of the convolution's input.
        reads_singly: Whether the kernel reads one element of it after the other.
        add: Adds the kernel for other rows and gives its name, which is None where it would need other constants.
    """

    shape: ConvolutionShape
    kernel: str
    element_bytes: int
    reads_singly: bool
    add: Callable[[ConvolutionShape], str | None]


def image_size(tensor: Tensor) -> tuple[int, int, int]:
    """Channels, height and width.

    Args:
        tensor: An image `[1, C, H, W]`, or `[1, C]` for one pixel.

    Returns:
        C, H, W.
    """
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return channels, height, width


def row_count(tensor: Tensor) -> int:
    """Rows of the last axis.

    Args:
        tensor: Any tensor.

    Returns:
        Product of all other axes.
    """
    return prod(tensor.shape[:-1])


@dataclass
class ValueStore:
    """Writes kernels and calls of one function, and knows in which layouts each activation already is.

    Attributes:
        isa: The processor.
        threads: Threads to schedule for.
        choices: Loops by the identity of a kernel, where the rules shall not choose.
        blocks: Relax's builder.
        kernels: Kernels by what identifies them.
        values: Activations by name and layout.
        weight_bytes: Bytes of weights stored so far.
        position: Which operation is being written.
        calls: Calls of kernels so far.
        views: What values are that only have another shape.
        asked_for_amx: Whether a kernel so far asks for permission to use AMX.
        bfloat16_layers: Layers so far that multiply operands rounded to bfloat16.
        convolved: Images by the name of their value, with how rows of them are computed.
        streams: Convolutions and poolings of their results that can be computed in turns.
        row_kernels: Name and function of the kernels of streams, by what identifies them; they are not in Relax's
            module, whose passes drop what `main` does not call.
    """

    isa: InstructionSet
    threads: int
    choices: Mapping[str, KernelParameters] = field(default_factory=dict)
    blocks: relax.BlockBuilder = field(default_factory=relax.BlockBuilder)
    kernels: dict[tuple[object, ...], tvm.ir.GlobalVar] = field(default_factory=dict)
    values: dict[tuple[str, Layout], Stored] = field(default_factory=dict)
    weight_bytes: int = 0
    position: int = 0
    calls: list[TemplateCall] = field(default_factory=list)
    views: dict[str, relax.Expr] = field(default_factory=dict)
    asked_for_amx: bool = False
    bfloat16_layers: int = 0
    convolved: dict[str, RowKernels] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    row_kernels: dict[tuple[object, ...], tuple[str, tirx.PrimFunc]] = field(default_factory=dict)

    def row_kernel(self, key: tuple[object, ...], make: Callable[[], tirx.PrimFunc]) -> str:
        """A kernel of a stream, written once for each key.

        Args:
            key: Identifies it; its first element names it.
            make: Writes it.

        Returns:
            Its name, which no kernel of the network has.
        """
        if key not in self.row_kernels:
            self.row_kernels[key] = f"{key[0]}_rows{len(self.row_kernels)}", make().without_attr("global_symbol")
        return self.row_kernels[key][0]

    def call(
        self,
        key: tuple[object, ...],
        make: Callable[[], tirx.PrimFunc],
        arguments: list[relax.Expr],
        shape: tuple[int, ...],
        dtype: str,
        identity: str = "",
    ) -> relax.Var:
        """Calls a kernel, written once for each key.

        Args:
            key: Identifies the kernel; its first element names it.
            make: Writes it.
            arguments: Its arguments.
            shape: Shape of its result.
            dtype: Type of its result.
            identity: Of a kernel whose loops can be tuned; empty for others.

        Returns:
            The result.
        """
        if key not in self.kernels:
            function = make().without_attr("global_symbol").with_attr("op_pattern", OPAQUE)
            self.kernels[key] = self.blocks.add_func(function, str(key[0]))
        self.calls.append(TemplateCall(str(self.kernels[key].name_hint), self.position, identity))
        return self.blocks.emit(relax.call_tir(self.kernels[key], arguments, relax.TensorType(shape, dtype)))

    def put(self, tensor: Tensor, layout: Layout, value: relax.Expr, channels: int = 0) -> None:
        """Remembers where a tensor is.

        Args:
            tensor: The tensor.
            layout: Layout of the value.
            value: Its elements.
            channels: Stored channels, 0 for `PLAIN`.
        """
        self.values[tensor.name, layout] = Stored(value, channels)

    def has(self, tensor: Tensor, layout: Layout) -> bool:
        """Whether a tensor is there in a layout.

        Args:
            tensor: The tensor.
            layout: The layout.

        Returns:
            Whether it is.
        """
        return (tensor.name, layout) in self.values

    def plain(self, tensor: Tensor) -> relax.Expr:
        """A tensor as the graph has it.

        Args:
            tensor: The tensor.

        Returns:
            Its value, converted where needed.
        """
        if self.has(tensor, Layout.PLAIN):
            return self.values[tensor.name, Layout.PLAIN].value
        if self.has(tensor, Layout.IMAGE):
            value = self._plain_image(tensor, self.values[tensor.name, Layout.IMAGE])
        else:
            value = self._plain_rows(tensor, self.values[tensor.name, Layout.ROWS])
        self.put(tensor, Layout.PLAIN, value)
        return value

    def _plain_image(self, tensor: Tensor, stored: Stored) -> relax.Expr:
        channels, height, width = image_size(tensor)
        if height * width == 1 and channels == stored.channels:
            return self.reshape(stored.value, tensor.shape)
        sizes = (channels, height, width, stored.channels, tensor.dtype)
        source = self.reshape(stored.value, (1, height, width, stored.channels))
        return self.call(
            ("from_pixels", *sizes), lambda: movement.from_pixels(*sizes), [source], tensor.shape, tensor.dtype
        )

    def _plain_rows(self, tensor: Tensor, stored: Stored) -> relax.Expr:
        rows, size = row_count(tensor), tensor.shape[-1]
        value = self._restored(stored.value, rows, size, stored.channels, size, tensor.dtype)
        return self.reshape(value, tensor.shape)

    def _restored(
        self, value: relax.Expr, pixels: int, channels: int, source: int, target: int, dtype: str
    ) -> relax.Expr:
        if source == target:
            return value
        sizes = (pixels, channels, source, target, dtype)
        flat = self.reshape(value, (pixels, source))
        return self.call(
            ("restore_channels", *sizes),
            lambda: movement.restore_channels(*sizes),
            [flat],
            (pixels, target),
            dtype,
        )

    def image(self, tensor: Tensor, channels: int | None = None) -> Stored:
        """A tensor by pixel.

        Args:
            tensor: An image.
            channels: Stored channels that it must have; None for any number.

        Returns:
            Its value, converted where needed.
        """
        size, height, width = image_size(tensor)
        if not self.has(tensor, Layout.IMAGE):
            target = channels if channels is not None else _fewest_channels(tensor)
            sizes = (size, height, width, target, tensor.dtype)
            value = self.call(
                ("to_pixels", *sizes),
                lambda: movement.to_pixels(*sizes),
                [self.plain(tensor)],
                (1, height, width, target),
                tensor.dtype,
            )
            self.put(tensor, Layout.IMAGE, value, target)
        stored = self.values[tensor.name, Layout.IMAGE]
        if channels is None or stored.channels == channels:
            return stored
        value = self._restored(stored.value, height * width, size, stored.channels, channels, tensor.dtype)
        return Stored(value, channels)

    def rows(self, tensor: Tensor) -> Stored:
        """A tensor as rows of its last axis, padded to a multiple of 16.

        Args:
            tensor: The tensor.

        Returns:
            Its value, converted where needed.
        """
        if not self.has(tensor, Layout.ROWS):
            size = tensor.shape[-1]
            target = round_up(size, LANES)
            value = self._restored(self.plain(tensor), row_count(tensor), size, size, target, tensor.dtype)
            self.put(tensor, Layout.ROWS, value, target)
        return self.values[tensor.name, Layout.ROWS]

    def reshape(self, value: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """The same bytes with another shape.

        Args:
            value: The value.
            shape: New shape.

        Returns:
            The reshaped value.
        """
        if isinstance(value, relax.Var):
            value = self.views.get(value.name, value)  # two reshapes in a row would be fused into a copy
        if tuple(int(size) for size in value.ty.shape.values) == tuple(shape):
            return value
        view = self.blocks.emit(relax.op.reshape(value, shape))
        self.views[view.name] = value
        return view

    def any_layout(self, tensor: Tensor) -> tuple[Layout, Stored]:
        """Some layout that a tensor is already in.

        Args:
            tensor: The tensor.

        Returns:
            The layout, and the value in it.

        Raises:
            KeyError: It was not computed yet.
        """
        for layout in (Layout.IMAGE, Layout.ROWS, Layout.PLAIN):
            if self.has(tensor, layout):
                return layout, self.values[tensor.name, layout]
        raise KeyError(tensor.name)


def _fewest_channels(tensor: Tensor) -> int:
    """Stored channels of the network's input: as few as its kernels take."""
    channels = tensor.shape[1]
    if channels >= LANES:
        return round_up(channels, LANES)
    return round_up(channels, 4) if tensor.quantization is not None else channels
