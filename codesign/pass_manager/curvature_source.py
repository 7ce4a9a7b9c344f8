"""Where passes take curvature from: a network, its weights, and the samples."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.tap_check import layers_seen_whole
from codesign.curvature.tapped_network import check_samples_apart
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.ir.linearity import gauss_newton_obstacle, weight_uses
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.calibration_samples import Samples, own_samples
from codesign.pass_manager.graph_network import GraphNetwork

WeightsOf = Literal["folded", "module"]
"""`folded`: weights that the graph holds and that are quantised; `module`: the torch module's own parameters."""

DTypeName = Literal["float32", "float64"]
DTYPES: Mapping[DTypeName, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class CurvatureSource:
    """A network, and where the weights of the graph's nodes are in it.

    Attributes:
        network: What is run: the graph, or the module.
        layer_of: Node name to the layer that would be tapped for it; some have no such layer in the network.
        weight_of: Node name to the name of its weight in `network.weights`.
        parameter_of: Node name to what the user knows the weight by: the module's parameter, else the initialiser.
        weights_of: Whose weights they are.
    """

    network: GraphNetwork | ModuleNetwork
    layer_of: Mapping[str, str]
    weight_of: Mapping[str, str]
    parameter_of: Mapping[str, str]
    weights_of: WeightsOf

    @classmethod
    def of(
        cls, program: Program, weights_of: WeightsOf = "folded", dtype: torch.dtype = torch.float32
    ) -> "CurvatureSource":
        """Makes the network of a program.

        Args:
            program: With `weights_of="module"` it must come from a torch module.
            weights_of: Whose weights.
            dtype: What the network is computed in.

        Returns:
            The source.

        Raises:
            InputError: There is no module, it is in train mode, or a node's weight is none of its parameters.
        """
        nodes = [name_of(node) for node in program.weighted_nodes]
        if weights_of == "folded":
            graph = GraphNetwork(program.graph, dtype)
            known = {node: program.parameter_of.get(node, graph.weight_of[node]) for node in nodes}
            return cls(graph, {node: node for node in nodes}, graph.weight_of, known, weights_of)
        if program.module is None:
            raise InputError(
                "weights-of=module needs the torch module, but there is none that takes batches; use weights-of=folded"
            )
        module = ModuleNetwork(program.module, dtype)
        parameters = {node: program.parameter_of.get(node, "") for node in nodes}
        weight_of = {node: module.canonical_name(parameter) for node, parameter in parameters.items()}
        missing = [node for node, weight in weight_of.items() if weight is None]
        if missing:
            raise InputError(
                f"weights-of=module, but the weights of {', '.join(missing)} are no parameters of the module; "
                f"use weights-of=folded"
            )
        found = {node: weight for node, weight in weight_of.items() if weight is not None}
        layer_of = {node: _owner(parameter) for node, parameter in parameters.items()}
        return cls(module, layer_of, found, parameters, weights_of)

    def weight(self, node: ir.Node) -> Tensor:
        """The weight of a node, in the type that the network computes in.

        Args:
            node: A node with a constant weight.

        Returns:
            A tensor that requires no gradient.
        """
        return self.network.weights[self.weight_of[name_of(node)]]

    def weights(self, nodes: Iterable[ir.Node]) -> dict[str, Tensor]:
        """The weights of some nodes; one entry for a weight that several share.

        Args:
            nodes: Nodes with a constant weight.

        Returns:
            By the weight's name.
        """
        return {self.weight_of[name_of(node)]: self.weight(node) for node in nodes}

    def with_weights(self, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Runs the network with some of its weights exchanged.

        Args:
            inputs: `[N, ...]`.
            weights: By name.

        Returns:
            Logits `[N, ..., C]`, differentiable in `weights`.
        """
        return self.network.with_weights(inputs, weights)

    def uses(self, node: ir.Node) -> int:
        """How often the weight of a node is used; folding may have made one parameter several weights of the graph.

        Args:
            node: A node with a constant weight.

        Returns:
            The number of uses.
        """
        return max(Counter(self.weight_of.values())[self.weight_of[name_of(node)]], weight_uses(node))

    def obstacle(self, node: ir.Node) -> str | None:
        """Why the cross-entropy's Hessian block in a node's weight differs from its Gauss-Newton block.

        Args:
            node: A node with a constant weight.

        Returns:
            The reason, or None where they are equal.
        """
        uses = self.uses(node)
        if uses > 1:
            return f"its weight {self.weight_of[name_of(node)]!r} is used {uses} times"
        return gauss_newton_obstacle(node, shift_invariant_loss=True)

    def tapped(self, nodes: Iterable[ir.Node], images: Tensor) -> dict[ir.Node, str]:
        """Nodes whose weight's gradients can be found from what enters and leaves one layer.

        Args:
            nodes: Nodes with a constant weight.
            images: `[N, ...]`; two are run to see which layers run once, and see each use of their weight.

        Returns:
            Node to layer.
        """
        once = check_samples_apart(self.network, images)
        layers = {node: self.layer_of[name_of(node)] for node in nodes if self.uses(node) == 1}
        layers = {node: layer for node, layer in layers.items() if layer in once}
        if layers and self.weights_of == "module":  # a module can do anything with its parameters; a graph shows it
            weight_of = {layer: self.weight_of[name_of(node)] for node, layer in layers.items()}
            whole = layers_seen_whole(self.network, self.with_weights, self.network.weights, weight_of, images)
            layers = {node: layer for node, layer in layers.items() if layer in whole}
        return layers


def _owner(parameter: str) -> str:
    """Path of the layer whose `weight` a parameter is; a name that no layer has for other parameters."""
    return "" if parameter == "weight" else parameter.removesuffix(".weight")


def all_samples(pass_name: str, program: Program, context: PassContext, limit: int, dtype: torch.dtype) -> Samples:
    """The first samples of the calibration data, for engines that take this process's part of them themselves.

    Args:
        pass_name: Who asks, for messages.
        program: What will run on them.
        context: Holds the data.
        limit: How many samples at most.
        dtype: What images are converted to.

    Returns:
        The samples, the same in all processes.

    Raises:
        InputError: There is no data, it does not fit the network, or it holds NaN or infinity.
    """
    return own_samples(pass_name, program, replace(context, shard=Shard()), limit, dtype, elements=1)


def labels_of(samples: Samples, why: str) -> Tensor:
    """The labels, where there is no going on without them.

    Args:
        samples: That should have labels.
        why: What depends on them, for the message.

    Returns:
        The labels.

    Raises:
        InputError: There are none.
    """
    if samples.labels is None:
        raise InputError(f"{why} depends on labels, and the calibration data has none: give labelled data")
    return samples.labels
