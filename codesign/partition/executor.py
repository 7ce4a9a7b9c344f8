"""Runs a plan: each process computes its pieces of every operator, forward and backward."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.ir.batching import Layout as Held
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program, name_of
from codesign.partition.communicator import Communicator
from codesign.partition.graph_network import GraphValues, graph_values
from codesign.partition.halo import HaloPlan, halo_plan, with_halo
from codesign.partition.local_operator import LocalOperator
from codesign.partition.network import Network, Operator
from codesign.partition.placement import Layout
from codesign.partition.plan_file import ExecutionPlan
from codesign.partition.strategies import Strategy
from codesign.partition.transfers import LocalMove, local_moves, moved


@dataclass(frozen=True)
class _Step:
    """An operator of this device.

    Attributes:
        local: What it computes; None for the output.
        values: Name of each operand.
        moves: What brings each operand here.
        exit: What brings the results to their readers.
        results: Their names.
    """

    local: LocalOperator | None
    values: tuple[str, ...]
    moves: tuple[tuple[LocalMove, ...], ...]
    exit: tuple[LocalMove, ...]
    results: tuple[str, ...]


class Executor:
    """One device's part of a network.

    Args:
        program: The network.
        network: The same, with the batch.
        plan: Checked against it.
        communicator: Of this process.
        dtype: What real numbers are computed in.
        input_gradient: Whether the gradient of the input is computed too: the input then is kept whole.

    Attributes:
        parameters: By name: the piece that this device keeps; leaf tensors.
    """

    def __init__(
        self,
        program: Program,
        network: Network,
        plan: ExecutionPlan,
        communicator: Communicator,
        dtype: torch.dtype = torch.float32,
        input_gradient: bool = False,
    ) -> None:
        self.network = network
        self.plan = plan
        self.parameters: dict[str, Tensor] = {}
        self._communicator = communicator
        self._input_gradient = input_gradient
        self._constants: dict[tuple[int, int], Tensor] = {}
        graph = TorchGraph(program.graph, dtype)
        values = graph_values(graph, program)
        nodes = {name_of(node): node for node in program.graph.graph}
        self._load(_constants(graph, program))
        self._steps = tuple(
            self._step(position, nodes[op.name] if op.results else None, dtype, values)
            for position, op in enumerate(network.operators)
        )
        communicator.prepare([
            move.digit for step in self._steps for moves in (*step.moves, step.exit) for move in moves
        ])

    def _load(self, constants: Mapping[str, Tensor]) -> None:
        """Cuts out the pieces of parameters and constants that this device keeps."""
        rank, kept = self._communicator.rank, kept_layouts(self.network, self.plan)
        for position, (op, placed) in enumerate(zip(self.network.operators, self.plan.operators, strict=True)):
            for i, (operand, path) in enumerate(zip(op.operands, placed.operands, strict=True)):
                if operand.role == "parameter" and operand.value not in self.parameters:
                    piece = _piece(constants[operand.value], kept[operand.value], rank)
                    self.parameters[operand.value] = piece.clone().requires_grad_()
                elif operand.role == "constant":
                    self._constants[position, i] = _piece(constants[operand.value], path[-1], rank)

    def _step(self, position: int, node: ir.Node | None, dtype: torch.dtype, values: GraphValues) -> _Step:
        op, placed, rank = self.network.operators[position], self.plan.operators[position], self._communicator.rank
        moves = []
        for operand, path in zip(op.operands, placed.operands, strict=True):
            is_loaded = operand.value == self.network.source and not self._input_gradient
            moves.append(() if is_loaded else local_moves(path, operand.shape, rank))
        shape = op.results[0].shape if op.results else ()
        return _Step(
            None if node is None else local_operator(op, node, placed.strategy, rank, dtype, values, position),
            tuple(x.value for x in op.operands),
            tuple(moves),
            local_moves(placed.exit, shape, rank),
            tuple(y.value for y in op.results),
        )

    @property
    def output_layout(self) -> Layout:
        """How the result lies on the devices."""
        return self.plan.operators[-1].operands[0][-1]

    def forward(self, x: Tensor) -> Tensor:
        """Computes this device's piece of the output.

        Args:
            x: The whole input, `[batch, ...]`, the same on all devices.

        Returns:
            The piece, as `output_layout` says.
        """
        known: dict[str, Tensor] = {self.network.source: x, **self.parameters}
        for position, step in enumerate(self._steps):
            operands = []
            for i, (name, moves) in enumerate(zip(step.values, step.moves, strict=True)):
                if (position, i) in self._constants:
                    operands.append(self._constants[position, i])
                elif name == self.network.source and not self._input_gradient:
                    held = self.plan.operators[position].operands[i][-1]
                    operands.append(_piece(x, held, self._communicator.rank))
                else:
                    operands.append(moved(known[name], moves, self._communicator))
            if step.local is None:
                return operands[0]
            for halo in step.local.halos:
                operands[0] = with_halo(operands[0], halo, self._communicator)
            results = step.local.compute(operands)
            for name, result in zip(step.results, results, strict=True):
                known[name] = moved(result, step.exit, self._communicator)
        raise AssertionError("the last operator is the output")

    def train_step(self, x: Tensor, gradient: Tensor, learning_rate: float) -> Tensor:
        """Forward, backward and a step of gradient descent.

        Args:
            x: The whole input.
            gradient: Of the loss with respect to the whole output.
            learning_rate: Of the step.

        Returns:
            This device's piece of the output.
        """
        y = self.forward(x)
        y.backward(_piece(gradient, self.output_layout, self._communicator.rank))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=learning_rate)
        return y.detach()


def kept_layouts(network: Network, plan: ExecutionPlan) -> Mapping[str, Layout]:
    """How parameters are kept.

    Args:
        network: The network.
        plan: Its plan.

    Returns:
        Layouts by the parameters' names.
    """
    return {
        operand.value: path[0]
        for op, placed in zip(network.operators, plan.operators, strict=True)
        for operand, path in zip(op.operands, placed.operands, strict=True)
        if operand.role == "parameter"
    }


def _constants(graph: TorchGraph, program: Program) -> Mapping[str, Tensor]:
    """Contents of everything that does not depend on the input."""
    found = dict(graph.constants)
    with torch.no_grad():
        for node, results in graph.evaluate(torch.zeros(program.input_shape, dtype=graph.dtype)):
            for out, value in zip(node.outputs, results, strict=False):
                if value.layout is Held.CONSTANT:
                    found[out.name or ""] = value.data
    return found


def _piece(x: Tensor, held: Layout, rank: int) -> Tensor:
    for axis in held.axes:
        first, end = held.interval(axis, x.shape[axis], rank)
        x = x.narrow(axis, first, end - first)
    return x


def local_operator(
    op: Operator,
    node: ir.Node,
    item: Strategy,
    rank: int,
    dtype: torch.dtype,
    values: GraphValues,
    position: int,
) -> LocalOperator:
    """What a device computes of one operator.

    Args:
        op: The operator.
        node: Its node.
        item: How it is shared out.
        rank: Number of the device.
        dtype: What real numbers are computed in.
        values: Shapes of all values.
        position: Of the operator, which keeps its messages apart.

    Returns:
        Its piece.
    """
    present = [value is not None and bool(value.name) for value in node.inputs]
    order: Iterator[int] = iter(range(len(op.operands)))
    return LocalOperator(
        op,
        node,
        item,
        rank,
        dtype,
        tuple(next(order) if here else None for here in present),
        tuple(values.held[x.value] for x in op.operands),
        values.held[op.results[0].value],
        halos_of(op, item, rank, position),
    )


def halos_of(op: Operator, item: Strategy, rank: int, position: int) -> tuple[HaloPlan, ...]:
    """Exchanges that an operator needs before it runs.

    Args:
        op: The operator.
        item: How it is shared out.
        rank: Number of the device.
        position: Of the operator, which keeps its messages apart.

    Returns:
        One for each split axis that windows slide along.
    """
    split = [loop for loop in op.loops if loop.window is not None and item.parts_of(loop.name) > 1]
    return tuple(halo_plan(loop, item, rank, 8 * position + 2 * i) for i, loop in enumerate(split))
