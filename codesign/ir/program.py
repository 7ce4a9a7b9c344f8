"""What flows through the steps: a graph, and what is known of where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from codesign.ir.annotations import is_weighted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Program:
    """A network lowered to ONNX.

    Attributes:
        graph: The ONNX model: one input `[1, ...]`, one output of logits `[1, classes]` or `[1, ..., classes]`, static
            shapes, constants as initialisers, unique node names that do not change from run to run.
        module: The torch module it was lowered from, in eval mode, or None for a network that came as `.onnx`.
        parameter_of: Node name to the name of the module's parameter that became its weight; empty without a module.
    """

    graph: ir.Model
    module: "torch.nn.Module | None" = None
    parameter_of: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the one input, batch of one included."""
        shape = self.graph.graph.inputs[0].shape
        assert shape is not None
        return shape.numpy()

    @property
    def weighted_nodes(self) -> tuple[ir.Node, ...]:
        """Nodes with a constant weight, in the order in which they run."""
        return tuple(node for node in self.graph.graph if is_weighted(node))


def name_of(node: ir.Node) -> str:
    """A node's name; lowering gives every node one.

    Args:
        node: A node of a lowered graph.

    Returns:
        The name.
    """
    assert node.name
    return node.name
