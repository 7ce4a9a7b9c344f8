"""Runs a network in torch with the values that its integers would stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from codesign.ir.annotation import find, read
from codesign.ir.annotations import ActivationRange, InputMean, is_weighted
from codesign.ir.onnx_to_torch import OnNode, TorchGraph
from codesign.ir.program import name_of
from codesign.quantization.layer import QuantizedLayer, bias_of, quantize_layer, weight_of
from codesign.quantization.quantizer import ActivationScale, activation_scale
from codesign.quantization.regions import quantized_values
from codesign.quantization.scheme import BitWidths

BATCH = 64


def activation_ranges(model: ir.Model) -> dict[str, tuple[float, float]]:
    """The range that gives the scale of every activation that is held in integers.

    Args:
        model: A graph whose nodes carry activation ranges.

    Returns:
        `(low, high)` by value name.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for node in model.graph:
        seen = read(node, ActivationRange)
        for value, span in zip(node.inputs, seen.inputs, strict=True):
            if value is not None and span is not None:
                ranges.setdefault(str(value.name), span)
        for value, span in zip(node.outputs, seen.outputs, strict=True):
            if span is not None:
                ranges[str(value.name)] = span
    owners = quantized_values(model).scale_owner
    return {name: ranges[owner] for name, owner in owners.items()}


def activation_scales(model: ir.Model) -> dict[str, ActivationScale]:
    """Scale and zero point of every activation that is held in integers.

    Args:
        model: A graph whose nodes carry activation ranges.

    Returns:
        By value name.
    """
    return {name: activation_scale(*span) for name, span in activation_ranges(model).items()}


@dataclass(frozen=True)
class LayerError:
    """What quantising one node changes.

    Attributes:
        weight: Quantised weight minus weight, shape of the weight.
        bias: Quantised bias minus bias, shaped so that it is added to the node's result; None for MatMul, which has no
            bias operand, and where there is neither a bias nor a correction.
    """

    weight: Tensor
    bias: Tensor | None


class QuantizedLayers:
    """Layers of a network in integers, computed once for each width.

    The bias is corrected where nodes carry mean operands and `bias_correction` is on.
    """

    def __init__(self, model: ir.Model, bias_correction: bool = True) -> None:
        self.scales = activation_scales(model)
        self.nodes = {name_of(node): node for node in model.graph if is_weighted(node)}
        self._bias_correction = bias_correction
        self._layers: dict[tuple[str, int], QuantizedLayer] = {}

    def layer(self, name: str, weight_bits: int) -> QuantizedLayer:
        """One layer at one width.

        Args:
            name: Node name.
            weight_bits: Width of its weight.

        Returns:
            Its integers.
        """
        if (name, weight_bits) not in self._layers:
            node = self.nodes[name]
            assert node.inputs[0] is not None
            mean = find(node, InputMean) if self._bias_correction else None
            scale = self.scales[str(node.inputs[0].name)]
            self._layers[name, weight_bits] = quantize_layer(node, weight_bits, scale, mean)
        return self._layers[name, weight_bits]


class SimulatedNetwork:
    """A network that can be run with any choice of widths.

    Values are those of the integer network up to the order of float32 additions: weights and biases are on their
    grids and activations are rounded and saturated wherever the integer network holds them in 8 bits.

    Args:
        model: A graph whose nodes carry activation ranges.
        bias_correction: Whether biases are corrected, where nodes carry mean operands.
        dtype: What the network is computed in.

    Attributes:
        graph: The network.
        layers: Its layers in integers.
    """

    def __init__(self, model: ir.Model, bias_correction: bool = True, dtype: torch.dtype = torch.float32) -> None:
        self.graph = TorchGraph(model, dtype)
        self.layers = QuantizedLayers(model, bias_correction)
        self._input_name = str(model.graph.inputs[0].name)
        self._scales = self.layers.scales

    def constants(self, name: str, weight_bits: int) -> dict[str, Tensor]:
        """Constants that stand in for those of one node when it is quantised.

        Args:
            name: Node name.
            weight_bits: Width of its weight.

        Returns:
            By value name.
        """
        node = self.layers.nodes[name]
        layer = self.layers.layer(name, weight_bits)
        found = {self.graph.weight_name_of[name]: self._tensor(layer.weight.dequantized())}
        bias = layer.dequantized_bias()
        if bias is not None and len(node.inputs) > 2 and node.inputs[2] is not None:
            found[str(node.inputs[2].name)] = self._tensor(bias)
        return found

    def error(self, name: str, weight_bits: int) -> LayerError:
        """How a node's weight and bias move when it is quantised; the node's result is linear in both.

        Args:
            name: Node name.
            weight_bits: Width of its weight.

        Returns:
            The error, in the network's type.
        """
        node, layer = self.layers.nodes[name], self.layers.layer(name, weight_bits)
        weight = self._tensor(layer.weight.dequantized()) - self.graph.constants[self.graph.weight_name_of[name]]
        quantized, original = layer.dequantized_bias(), None if node.op_type == "MatMul" else bias_of(node)
        if quantized is None:
            return LayerError(weight, None)
        change = self._tensor(quantized) - (0.0 if original is None else self._tensor(original))
        return LayerError(weight, _beside_result(node, change))

    def logits(
        self, images: NDArray[np.float32], bits: Mapping[str, BitWidths] | None, quantize_activations: bool = True
    ) -> NDArray[np.float32]:
        """Runs images through the network.

        Args:
            images: `[N, ...]`.
            bits: Widths by node name; nodes that are left out, or all with None, keep their float weights.
            quantize_activations: Whether activations are rounded to 8 bits.

        Returns:
            Logits `[N, ...]`.
        """
        constants: dict[str, Tensor] = {}
        for name, widths in (bits or {}).items():
            constants.update(self.constants(name, widths.weight))
        hook = self.hook({name: widths.weight for name, widths in (bits or {}).items()}, quantize_activations)
        found = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                x = self._tensor(images[start : start + BATCH])
                if quantize_activations and self._input_name in self._scales:
                    x = fake_quantize(x, self._scales[self._input_name])
                found.append(self.graph.run(x, constants=constants, on_node=hook).numpy())
        return np.concatenate(found)

    def hook(self, weight_bits: Mapping[str, int], quantize_activations: bool) -> OnNode:
        """What must be done to nodes' results beside exchanging constants.

        Args:
            weight_bits: Width of each quantised weight, by node name.
            quantize_activations: Whether activations are rounded to 8 bits.

        Returns:
            A callback for the graph: it adds corrected biases to nodes that have no bias operand, and rounds.
        """
        added = {name: self._missing_bias(name, bits) for name, bits in weight_bits.items()}

        def change(
            node: ir.Node, _: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...] | None:
            bias = added.get(node.name or "")
            if bias is not None:
                outputs = (outputs[0] + bias, *outputs[1:])
            if not quantize_activations:
                return outputs
            names = [str(value.name) for value in node.outputs]
            return tuple(
                fake_quantize(result, self._scales[name]) if name in self._scales else result
                for name, result in zip(names, outputs, strict=True)
            )

        return change

    def _missing_bias(self, name: str, weight_bits: int) -> Tensor | None:
        node = self.layers.nodes[name]
        bias = self.layers.layer(name, weight_bits).dequantized_bias()
        if bias is None or (len(node.inputs) > 2 and node.inputs[2] is not None):
            return None
        return _beside_result(node, self._tensor(bias))

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.graph.dtype)


def _beside_result(node: ir.Node, per_channel: Tensor) -> Tensor:
    """Values of output channels, shaped so that they are added to a node's result."""
    spatial = (1,) * (weight_of(node).ndim - 2) if node.op_type == "Conv" else ()
    return per_channel.reshape(-1, *spatial)


def fake_quantize(x: Tensor, to: ActivationScale) -> Tensor:
    """Rounds to the grid of an unsigned activation, half to even, and saturates.

    Args:
        x: Any shape.
        to: Scale and zero point.

    Returns:
        The values on the grid, same shape.
    """
    steps = torch.round(x / to.scale).clamp_(-to.zero_point, to.levels - to.zero_point)
    return steps.mul_(to.scale)
