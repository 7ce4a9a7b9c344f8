"""An ONNX graph as a network whose layers can be tapped, and whose weights and activations can be differentiated."""

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.tapped_network import Convolution, LayerGeometry, Linear, Tap, spatial_axes
from codesign.ir.attributes import Attributes
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.operators_linear import window_padding
from codesign.ir.program import name_of
from codesign.ir.shapes import static_shape


class GraphNetwork:
    """An ONNX graph as a network whose Conv, Gemm and MatMul nodes can be tapped, by their names.

    Args:
        model: The graph.
        dtype: What it is computed in.
    """

    def __init__(self, model: ir.Model, dtype: torch.dtype) -> None:
        self._graph = TorchGraph(model, dtype)
        self._input = next(v.name or "" for v in model.graph.inputs if v.name not in model.graph.initializers)
        found = {name_of(node): _geometry(node) for node in model.graph if name_of(node) in self._graph.weight_name_of}
        self._geometries = {name: geometry for name, geometry in found.items() if geometry is not None}

    @property
    def geometries(self) -> Mapping[str, LayerGeometry]:
        """Nodes that can be tapped, by name."""
        return MappingProxyType(self._geometries)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Constants by name."""
        return self._graph.constants

    @property
    def weight_of(self) -> Mapping[str, str]:
        """Node name to the name of its weight."""
        return self._graph.weight_name_of

    def __call__(self, inputs: Tensor, tap: Tap | None = None) -> Tensor:
        """Runs the graph.

        Args:
            inputs: `[N, ...]`.
            tap: Watches, and may replace, each tapped node's result.

        Returns:
            Logits `[N, ..., C]`.
        """

        def on_node(
            node: ir.Node, operands: tuple[Tensor | None, ...], results: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...] | None:
            name = name_of(node)
            if tap is None or name not in self._geometries:
                return None
            entering, leaving = operands[0], results[0]
            assert entering is not None
            if isinstance(self._geometries[name], Linear) or entering.ndim == self.weights[self.weight_of[name]].ndim:
                return (tap(name, entering, leaving),)
            return (tap(name, entering.flatten(0, 1), leaving.flatten(0, 1)).view_as(leaving),)  # [N, B, C, ...]

        return self._graph.run(inputs, on_node=on_node)

    def with_weights(self, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Runs the graph with some of its constants exchanged.

        Args:
            inputs: `[N, ...]`.
            weights: By name.

        Returns:
            Logits `[N, ..., C]`, differentiable in `weights`.
        """
        return self._graph.run(inputs, weights)

    def with_activations(self, inputs: Tensor, values: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the graph and hands out some of the values on the way.

        Args:
            inputs: `[N, ...]`.
            values: Names of the graph's input or of floating-point results.

        Returns:
            Logits `[N, ..., C]`, and the values by name, `[N, ...]`, in all of which the logits are differentiable.
        """
        found: dict[str, Tensor] = {}
        if self._input in values:
            inputs = found[self._input] = inputs.detach().requires_grad_()

        def on_node(
            node: ir.Node, _: tuple[Tensor | None, ...], results: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...] | None:
            shown = list(results)
            for i, (output, result) in enumerate(zip(node.outputs, results, strict=False)):
                if output.name is not None and output.name in values:
                    # a value that depends on no other leaf starts a graph of its own
                    shown[i] = result if result.requires_grad else result.detach().requires_grad_()
                    found[output.name] = shown[i]
            return tuple(shown)

        return self._graph.run(inputs, on_node=on_node), found


def taps_the_input_itself(node: ir.Node) -> bool:
    """Whether a tap on a node sees the very tensor that the node reads, and not a rearrangement of it.

    Args:
        node: A node of a lowered graph with a constant weight.

    Returns:
        False for convolutions whose ONNX batch is not one: their taps see samples and batch as one axis.
    """
    entering = node.inputs[0]
    assert entering is not None
    sizes = static_shape(entering)
    return node.op_type != "Conv" or (sizes is not None and sizes[0] == 1)


def _geometry(node: ir.Node) -> LayerGeometry | None:
    """How the weight meets the input; None for forms without per-sample gradients here, such as stacked matrices."""
    entering, weight = node.inputs[0], node.inputs[1]
    assert entering is not None and weight is not None
    shape, sizes = static_shape(weight), static_shape(entering)
    assert shape is not None
    attributes = Attributes(node, torch.float32, torch.device("cpu"))
    if node.op_type != "Conv":
        usable = len(shape) == 2 and not attributes.integer("transA", 0)
        return Linear(math.prod(shape), attributes.real("alpha", 1.0)) if usable else None
    rank = len(shape) - 2
    if sizes is None or rank not in {1, 2, 3}:
        return None
    strides = attributes.integers("strides") or (1,) * rank
    dilations = attributes.integers("dilations") or (1,) * rank
    before, _ = window_padding(attributes, sizes[2:], shape[2:], strides, dilations)
    return Convolution(
        weight_elements=math.prod(shape),
        kernel=spatial_axes(shape[2:], 1),
        stride=spatial_axes(strides, 1),
        padding=spatial_axes(before, 0),
        dilation=spatial_axes(dilations, 1),
        groups=attributes.integer("group", 1),
    )
