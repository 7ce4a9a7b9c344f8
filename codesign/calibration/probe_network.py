"""Networks that are made to be measured: chains of layers whose shapes cover the space.

Every layer is drawn from a scrambled Halton sequence: kind, channels (log-uniform, half of them multiples of 16) and
what is peculiar to its kind. Images shrink on the way (strides, pooling, kernels without padding), so that a chain
passes through sizes that are no powers of two, down to a head of dense layers; two chains make a network. A layer has
at most `MAXIMUM_MACS` multiply-accumulates: channels are reduced until it fits.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import qmc

MAXIMUM_MACS = 30_000_000
"""About 1 ms in float32 on one core: larger layers behave like these."""
LARGEST_IMAGE, SMALLEST_IMAGE = 112, 20
LEAST_TO_SHRINK = 10
"""Images of fewer rows keep their size."""
MOST_CHANNELS, FEWEST_CHANNELS = 512, 8
OPSET, IR_VERSION = 21, 10
CHAINS = 2
"""Chains from the image to the output of a network: to start a compiler and a timing process costs as much as several
kernels."""
AXES = 6
"""Coordinates that one layer takes from the sequence."""

KINDS = (
    "pointwise", "pointwise", "pointwise", "square", "square", "square", "strided", "row", "column", "unpadded",
    "large", "depthwise", "depthwise", "depthwise-strided", "residual", "residual", "sum", "max-pool", "average-pool",
)  # fmt: skip
"""What a body layer may be; those that networks have many of appear several times."""
SHRINKING = frozenset({"strided", "unpadded", "depthwise-strided", "max-pool", "average-pool", "shortcut"})
"""Kinds that make images smaller."""
LIGHT_KINDS = (
    "pointwise", "depthwise", "depthwise", "depthwise-strided", "sum", "sum", "max-pool", "max-pool", "average-pool",
    "shortcut",
)  # fmt: skip
"""What a layer of a light network may be: kernels that other networks have few of."""


@dataclass(frozen=True)
class _Recipe:
    """What a network is drawn from.

    Attributes:
        kinds: What a body layer may be.
        largest_stem: Channels that the first layer makes at most.
        body_layers: Layers before the head.
        head_layers: Dense layers.
    """

    kinds: tuple[str, ...]
    largest_stem: int
    body_layers: int
    head_layers: int


CONVOLUTIONAL, LIGHT = _Recipe(KINDS, 64, 18, 3), _Recipe(LIGHT_KINDS, 256, 16, 12)
RECIPES = (LIGHT, CONVOLUTIONAL, LIGHT)
"""Taken in turn: light networks compile quickly and hold the kernels that networks at hand have few of."""


@dataclass
class _Chain:
    """A graph being written.

    Attributes:
        size: Shape of the last value without the batch: channels, height, width; or features alone.
    """

    random: np.random.Generator
    size: tuple[int, ...]
    last: str = "x"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op_type: str, inputs: list[str], **attributes: int | list[int]) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        node = helper.make_node(op_type, inputs, [f"{name}_out"], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        self.last = f"{name}_out"
        return self.last

    def constant(self, value: NDArray[np.float64]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def integers(self, values: list[int]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def convolution(
        self, channels: int, kernel: tuple[int, int], stride: int = 1, padded: bool = True, depthwise: bool = False
    ) -> str:
        before, *image = self.size
        groups = before if depthwise else 1
        shape = (channels, before // groups, *kernel)
        pads = [kernel[0] // 2, kernel[1] // 2] if padded else [0, 0]
        weight, bias = self._weight(shape), self.constant(self.random.normal(0, 0.1, channels))
        image = [(size + 2 * pad - k) // stride + 1 for size, pad, k in zip(image, pads, kernel, strict=True)]
        self.size = (channels, *image)
        return self.node(
            "Conv", [self.last, weight, bias], kernel_shape=list(kernel), strides=[stride] * 2, pads=pads * 2,
            group=groups,
        )  # fmt: skip

    def _weight(self, shape: tuple[int, ...]) -> str:
        return self.constant(self.random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape))

    def pool(self, op_type: str, stride: int, side: int = 3) -> str:
        pad = side // 2 if side % 2 else 0
        self.size = (self.size[0], *((size + 2 * pad - side) // stride + 1 for size in self.size[1:]))
        return self.node(op_type, [self.last], kernel_shape=[side] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def shortcut(self) -> None:
        """Every second pixel, and as many channels more, of zeros, half on each side: residual networks, unweighted."""
        channels, height, width = self.size
        ends = [self.integers(values) for values in ([0, 0], [height, width], [2, 3], [2, 2])]
        more = max(0, min(channels, MOST_CHANNELS - channels) // 2 // 8 * 8)
        self.node("Slice", [self.last, *ends])
        if more:
            self.node("Pad", [self.last, self.integers([0, more, 0, 0, 0, more, 0, 0])])
        self.size = (channels + 2 * more, (height + 1) // 2, (width + 1) // 2)

    def relu(self) -> str:
        return self.node("Relu", [self.last])

    def dense(self, features: int) -> str:
        weight = self._weight((features, self.size[0]))
        self.size = (features,)
        bias = self.constant(self.random.normal(0, 0.1, features))
        return self.node("Gemm", [self.last, weight, bias], transB=1)

    def model(self, image: int) -> ir.Model:
        start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, image, image])
        end = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, [1, *self.size])
        graph = helper.make_graph(self.nodes, "probe", [start], [end], self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def probe_networks(seed: int) -> Iterator[ir.Model]:
    """Draws networks without end.

    Args:
        seed: Source of all draws; the same seed gives the same networks in the same order.

    Yields:
        Graphs in float32 from images `[1, 3, S, S]` to `[1, features]`, with static shapes and named nodes.
    """
    points = qmc.Halton(AXES, seed=seed)
    random = np.random.default_rng(seed)
    for recipe in itertools.cycle(RECIPES):
        yield _network(points, random, recipe)


def _network(points: qmc.Halton, random: np.random.Generator, recipe: _Recipe) -> ir.Model:
    draws = [points.random(recipe.body_layers + recipe.head_layers + 1) for _ in range(CHAINS)]
    image = round(_log_uniform(SMALLEST_IMAGE, LARGEST_IMAGE, draws[0][0, 0]))
    chain = _Chain(random, (3, image, image))
    ends = []
    for layers in draws:
        chain.last, chain.size = "x", (3, image, image)
        _extend(chain, layers, recipe)
        ends.append(chain.last)
    chain.node("Add", ends)
    return chain.model(image)


def _extend(chain: _Chain, layers: NDArray[np.float64], recipe: _Recipe) -> None:
    """Goes from an image to 16 features."""
    kernel = (3, 5, 7)[int(3 * layers[0, 1])]
    channels = _channels(layers[0, 2], layers[0, 3], recipe.largest_stem)
    chain.convolution(channels, (kernel, kernel), 1 if layers[0, 4] < 0.7 else 2)
    chain.relu()
    for point in layers[1 : recipe.body_layers + 1]:
        _body_layer(chain, point, recipe.kinds)
    chain.node("GlobalAveragePool", [chain.last])
    chain.node("Flatten", [chain.last])
    chain.size = chain.size[:1]
    for point in layers[recipe.body_layers + 1 :]:
        chain.dense(round(_log_uniform(16, 1500, point[1])))
        if point[2] < 0.5:
            chain.relu()
    chain.dense(16)  # whole vectors: what leaves the network needs no conversion that would count as the layer's


def _body_layer(chain: _Chain, point: NDArray[np.float64], kinds: tuple[str, ...]) -> None:
    kind = kinds[int(len(kinds) * point[0])]
    before, height, width = chain.size
    smallest, source = min(height, width), chain.last
    if smallest < LEAST_TO_SHRINK and kind in SHRINKING:
        kind = "depthwise" if kinds is LIGHT_KINDS else "square"
    if kind == "shortcut":
        chain.shortcut()
        return
    if kind == "sum":
        pooled = chain.pool("MaxPool", 1)
        chain.node("Add", [source, pooled])
        return
    if kind.endswith("pool"):
        chain.pool("MaxPool" if kind == "max-pool" else "AveragePool", 1 + int(2 * point[1]), 2 + int(2 * point[2]))
        return
    side = 3 if kind != "large" else 5
    kernel = {"pointwise": (1, 1), "row": (1, 3), "column": (3, 1)}.get(kind, (side, side))
    stride = 2 if kind in {"strided", "depthwise-strided"} else 1
    if kind.startswith("depthwise"):
        side = 3 if point[1] < 0.8 else 5
        chain.convolution(before, (side, side), stride, depthwise=True)
    elif kind == "residual":
        if before * before * 9 * height * width > MAXIMUM_MACS:
            kernel = (1, 1)
        chain.convolution(before, kernel)
        chain.node("Add", [chain.last, source])
    else:
        pixels = height * width / stride**2
        most = max(FEWEST_CHANNELS, MAXIMUM_MACS / (pixels * before * kernel[0] * kernel[1]))
        chain.convolution(_channels(point[1], point[2], most), kernel, stride, padded=kind != "unpadded")
    if point[3] < 0.7:
        chain.relu()


def _channels(position: float, kind: float, most: float) -> int:
    """Channels, half of the time a multiple of 16."""
    channels = round(_log_uniform(FEWEST_CHANNELS, min(most, MOST_CHANNELS), position))
    return max(16, round(channels / 16) * 16) if kind < 0.6 and most >= 16 else channels


def _log_uniform(low: float, high: float, position: float) -> float:
    return float(low * (high / low) ** position)


REFERENCE_LAYER = "conv_1"


def reference_network() -> ir.Model:
    """A network whose layer `REFERENCE_LAYER` shows how fast the machine is right now.

    Returns:
        A graph in float32; the layer is a 3x3 convolution of 32 channels on 16x16 pixels.
    """
    chain = _Chain(np.random.default_rng(0), (3, 16, 16))
    chain.convolution(32, (3, 3))
    chain.convolution(32, (3, 3))
    chain.node("GlobalAveragePool", [chain.last])
    chain.node("Flatten", [chain.last])
    chain.size = chain.size[:1]
    return chain.model(16)
