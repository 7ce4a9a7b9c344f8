"""A differentiable torch function made from an ONNX graph, which can stop before a node and go on from there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir
import torch
from torch import Tensor

from codesign.errors import InputError, closest, first_line
from codesign.ir.annotations import is_weighted
from codesign.ir.attributes import Attributes, to_torch
from codesign.ir.batching import Layout, Value, apply
from codesign.ir.operators import OLDEST_OPSET, OPERATORS, SUPPORTED_OPERATORS, Compute, refuse_unsupported

__all__ = ["SUPPORTED_OPERATORS", "Layout", "OnNode", "Snapshot", "TorchGraph", "Value"]

OnNode = Callable[[ir.Node, tuple[Tensor | None, ...], tuple[Tensor, ...]], tuple[Tensor, ...] | None]
"""Called after each node with its operands and results; returns other results to go on with, or None to keep them."""


@dataclass(frozen=True)
class Snapshot:
    """The values alive just before a node.

    Attributes:
        node: The node's name.
        position: Its index among the nodes.
        values: By value name: everything computed so far that this or a later node reads.
    """

    node: str
    position: int
    values: Mapping[str, Value]


@dataclass(frozen=True)
class _Step:
    node: ir.Node
    attributes: Attributes
    compute: Compute
    operands: tuple[str | None, ...]
    results: tuple[str, ...]
    dying: tuple[str, ...]


class TorchGraph:
    """An ONNX graph of one input and one output, computed by torch.

    The graph is made for one sample (a leading 1 in its shapes) and runs on N: a value of ONNX shape `[1, ...]` is held
    as `[N, ...]`, any other that depends on the input as `[N, *shape]`, and constants as they are. All operators are
    differentiable by autograd and `torch.func` where their definition is, in the input and the constants.

    Args:
        model: The graph; opset 13 or later. Nodes are run in the order in which they stand.
        dtype: What ONNX's FLOAT is computed in.
        device: Where it is computed.

    Attributes:
        constants: Initialisers by value name; floats are leaf tensors in `dtype` that require no gradient.
        weight_name_of: Node with a constant weight to the name of that weight in `constants`.

    Raises:
        InputError: The graph is older than opset 13 or has several inputs or outputs.
        UnsupportedOperatorError: It holds operators that are not supported; all of them are named.
    """

    def __init__(self, model: ir.Model, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        refuse_unsupported(model, "graph")
        opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        if opset < OLDEST_OPSET:
            raise InputError(f"graph: opset is {opset}, at least {OLDEST_OPSET} is needed; convert it")
        graph = model.graph
        inputs = [value for value in graph.inputs if value.name not in graph.initializers]
        if len(inputs) != 1 or len(graph.outputs) != 1:
            raise InputError(f"graph: has {len(inputs)} inputs and {len(graph.outputs)} outputs; one of each is needed")
        self.dtype = dtype
        self.device = torch.device(device)
        self.constants: dict[str, Tensor] = {
            name: to_torch(_content(value), dtype, f"initialiser {name!r}").to(self.device)
            for name, value in graph.initializers.items()
        }
        self.weight_name_of: dict[str, str] = {
            node.name or "": _name(node.inputs[1]) or "" for node in graph if is_weighted(node)
        }
        self._input = inputs[0].name or ""
        self._sample_sizes = None if inputs[0].shape is None else tuple(inputs[0].shape)[1:]
        self._output = graph.outputs[0].name or ""
        self._steps = self._plan(list(graph))
        self._position_of = {step.node.name: i for i, step in enumerate(self._steps)}

    def _plan(self, nodes: Sequence[ir.Node]) -> tuple[_Step, ...]:
        last_reader = {_name(operand): i for i, node in enumerate(nodes) for operand in node.inputs}
        produced_at = {_name(result): i for i, node in enumerate(nodes) for result in node.outputs}
        dying: dict[int, list[str]] = {}
        for name in ({self._input, *produced_at}) - {self._output, None}:
            assert name is not None
            dying.setdefault(last_reader.get(name, produced_at.get(name, 0)), []).append(name)
        return tuple(
            _Step(
                node,
                Attributes(node, self.dtype, self.device),
                OPERATORS[node.op_type],
                tuple(_name(operand) for operand in node.inputs),
                tuple(result.name or "" for result in node.outputs),
                tuple(sorted(dying.get(i, ()))),
            )
            for i, node in enumerate(nodes)
        )

    def run(self, x: Tensor, constants: Mapping[str, Tensor] | None = None, on_node: OnNode | None = None) -> Tensor:
        """Computes the output.

        Args:
            x: Inputs `[N, ...]`.
            constants: Tensors that stand in for `constants` of the same name.
            on_node: Observes or replaces what each node computes.

        Returns:
            The output `[N, ...]`.
        """
        start = Snapshot(self._steps[0].node.name or "", 0, self._initial(x))
        return self.resume(start, constants, on_node)

    def resume(
        self, snapshot: Snapshot, constants: Mapping[str, Tensor] | None = None, on_node: OnNode | None = None
    ) -> Tensor:
        """Computes the output from the values before a node, running that node and the later ones only.

        Args:
            snapshot: From `snapshot` or `prefixes` of this graph; it can be used again.
            constants: Tensors that stand in for `constants` of the same name; values computed before the snapshot stay.
            on_node: Observes or replaces what each node computes.

        Returns:
            The output `[N, ...]`.
        """
        values = dict(snapshot.values)
        known = self._with(constants)
        for step in self._steps[snapshot.position :]:
            self._advance(step, values, known, on_node)
        return values[self._output].data

    def snapshot(
        self,
        x: Tensor,
        before: str,
        constants: Mapping[str, Tensor] | None = None,
        on_node: OnNode | None = None,
    ) -> Snapshot:
        """Computes the values alive just before a node.

        Args:
            x: Inputs `[N, ...]`.
            before: Name of the node.
            constants: Tensors that stand in for `constants` of the same name.
            on_node: Observes or replaces what each earlier node computes.

        Returns:
            What `resume` goes on from.
        """
        return next(self.prefixes(x, (before,), constants, on_node))

    def prefixes(
        self,
        x: Tensor,
        names: Iterable[str] | None = None,
        constants: Mapping[str, Tensor] | None = None,
        on_node: OnNode | None = None,
    ) -> Iterator[Snapshot]:
        """Walks once through the graph and hands out a snapshot before each of some nodes.

        Args:
            x: Inputs `[N, ...]`.
            names: Nodes to stop before; by default those with a constant weight.
            constants: Tensors that stand in for `constants` of the same name.
            on_node: Observes or replaces what each node computes.

        Yields:
            Snapshots in the order of the nodes; the walk ends before the last of them runs.

        Raises:
            InputError: There is no node of that name.
        """
        wanted = set(self.weight_name_of if names is None else names)
        for name in sorted(wanted - set(self._position_of)):
            raise InputError(f"graph: has no node {name!r}{closest(name, filter(None, self._position_of))}")
        values = self._initial(x)
        known = self._with(constants)
        stops = sorted(self._position_of[name] for name in wanted)
        for begin, end in pairwise([0, *stops]):
            for step in self._steps[begin:end]:
                self._advance(step, values, known, on_node)
            yield Snapshot(self._steps[end].node.name or "", end, dict(values))

    def evaluate(self, x: Tensor) -> Iterator[tuple[ir.Node, tuple[Value, ...]]]:
        """Runs node by node.

        Args:
            x: Inputs `[N, ...]`.

        Yields:
            Each node with its results, as they are held for N samples.

        Raises:
            InputError: A node does not fit its operands.
        """
        values = self._initial(x)
        known = self._with(None)
        for step in self._steps:
            shapes = [list(values[n].sample_shape) for n in step.operands if n in values]
            try:
                results = self._advance(step, values, known, None)
            except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(
                    f"{step.attributes.where}: fails on inputs of shape {shapes} ({first_line(error)}); "
                    f"correct the graph or the input_shape"
                ) from error
            yield step.node, results

    def _initial(self, x: Tensor) -> dict[str, Value]:
        sizes = tuple(x.shape[1:]) if self._sample_sizes is None else self._sample_sizes
        fits = len(sizes) == x.dim() - 1 and all(
            got == size for got, size in zip(x.shape[1:], sizes, strict=True) if isinstance(size, int)
        )
        if not fits or len(x) == 0:
            taken = ", ".join(str(size) for size in sizes)
            raise InputError(f"graph: takes inputs of [N, {taken}], got {list(x.shape)}; bring the data to that shape")
        return {self._input: Value(x, Layout.MERGED)}

    def _with(self, overrides: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        if not overrides:
            return self.constants
        for name in overrides:
            if name not in self.constants:
                raise InputError(f"graph: has no constant {name!r}{closest(name, self.constants)}")
        return {**self.constants, **overrides}

    def _advance(
        self, step: _Step, values: dict[str, Value], constants: Mapping[str, Tensor], on_node: OnNode | None
    ) -> tuple[Value, ...]:
        operands = tuple(
            None if name is None else values[name] if name in values else Value(constants[name], Layout.CONSTANT)
            for name in step.operands
        )
        results = apply(step.compute, step.attributes, operands)
        if on_node is not None:
            tensors = tuple(None if value is None else value.data for value in operands)
            replaced = on_node(step.node, tensors, tuple(value.data for value in results))
            if replaced is not None:
                results = tuple(Value(new, old.layout) for new, old in zip(replaced, results, strict=True))
        values.update((name, value) for name, value in zip(step.results, results, strict=False) if name)
        for name in step.dying:
            values.pop(name, None)
        return results


def _name(value: ir.Value | None) -> str | None:
    return None if value is None or not value.name else value.name


def _content(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value
