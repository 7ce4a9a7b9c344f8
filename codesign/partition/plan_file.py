"""A placement that can be carried out, as JSON that travels with the network, and its check."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import onnx_ir as ir

from codesign.errors import InputError, closest
from codesign.files import digest_of
from codesign.partition.network import Network, Operator
from codesign.partition.placement import Layout, layout_from_text
from codesign.partition.resharding import move_between
from codesign.partition.strategies import Strategy, is_legal, strategy

VERSION = 1
METADATA_KEY = "codesign.placement"
"""Entry of an ONNX model's `metadata_props` that holds the plan."""
Path = tuple[Layout, ...]
"""Layouts that follow one another, one collective apart."""


@dataclass(frozen=True)
class OperatorPlacement:
    """How one operator is run.

    Attributes:
        name: Of the operator.
        strategy: How it is shared out.
        operands: For each operand, the layouts on its way here: the last one is what the strategy reads. The first is
            what the producer gives, or what a parameter, or the network's input, is kept in.
        exit: The layouts of its results, from what the strategy gives to what their readers see.
    """

    name: str
    strategy: Strategy
    operands: tuple[Path, ...]
    exit: Path


@dataclass(frozen=True)
class ExecutionPlan:
    """How a network is run on several devices.

    Attributes:
        network: Digest of the network.
        batch: Samples of one step.
        mesh: Name and size of each axis.
        operators: In the order in which they run.
    """

    network: str
    batch: int
    mesh: tuple[tuple[str, int], ...]
    operators: tuple[OperatorPlacement, ...]

    @property
    def devices(self) -> int:
        """How many devices it is for."""
        total = 1
        for _, size in self.mesh:
            total *= size
        return total

    @cached_property
    def digest(self) -> str:
        """Names the plan."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "version": VERSION,
            "network": self.network,
            "batch": self.batch,
            "mesh": [{"name": name, "size": size} for name, size in self.mesh],
            "operators": [
                {
                    "name": op.name,
                    "parts": list(op.strategy.parts),
                    "loops": list(op.strategy.loops),
                    "operands": [[str(item) for item in path] for path in op.operands],
                    "exit": [str(item) for item in op.exit],
                }
                for op in self.operators
            ],
        }


def plan_from_json(value: object, network: Network, where: str) -> ExecutionPlan:
    """Reads a plan and checks that it fits a network, step by step.

    Args:
        value: Parsed JSON.
        network: What shall be run.
        where: Where the plan comes from, for messages.

    Returns:
        The plan.

    Raises:
        InputError: It has another form, is for another network, batch or number of operators, or some step of it is not
            legal; the message names the operator.
    """
    if not isinstance(value, Mapping) or value.get("version") != VERSION:
        raise InputError(f"{where}: is no placement of version {VERSION}; make it again with codesign partition")
    try:
        plan = _parsed(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: is damaged ({error!r}); make it again with codesign partition") from None
    check_plan(plan, network, where)
    return plan


def _parsed(value: Mapping[str, object]) -> ExecutionPlan:
    mesh = tuple((str(axis["name"]), int(axis["size"])) for axis in cast(Sequence[Mapping[str, str]], value["mesh"]))
    operators = []
    for entry in cast(Sequence[Mapping[str, list[object]]], value["operators"]):
        parts = [int(cast(int, part)) for part in entry["parts"]]
        loops = [None if loop is None else str(loop) for loop in entry["loops"]]
        paths = tuple(_path(cast(list[str], path)) for path in entry["operands"])
        item = strategy(parts, loops)
        operators.append(OperatorPlacement(str(entry["name"]), item, paths, _path(cast(list[str], entry["exit"]))))
    return ExecutionPlan(str(value["network"]), int(cast(int, value["batch"])), mesh, tuple(operators))


def _path(texts: Sequence[str]) -> Path:
    found = [layout_from_text(text) for text in texts]
    if not found or None in found:
        raise ValueError(f"{list(texts)} are no layouts")
    return tuple(item for item in found if item is not None)


def check_plan(plan: ExecutionPlan, network: Network, where: str) -> None:
    """Refuses a plan that does not fit a network, or cannot be carried out.

    Args:
        plan: The plan.
        network: What shall be run.
        where: Where the plan comes from, for messages.

    Raises:
        InputError: As said.
    """
    if plan.network != network.digest:
        raise InputError(
            f"{where}: is for another network (digest {plan.network[:12]}, this one is {network.digest[:12]}); "
            "plan this network"
        )
    if plan.batch != network.batch:
        raise InputError(f"{where}: is for a batch of {plan.batch}, got {network.batch}; plan again for this batch")
    names = [op.name for op in network.operators]
    for placed in plan.operators:
        if placed.name not in names:
            raise InputError(f"{where}: operator {placed.name!r} is not in the network{closest(placed.name, names)}")
    if [placed.name for placed in plan.operators] != names:
        raise InputError(f"{where}: has {len(plan.operators)} operators, the network {len(names)}; plan again")
    exits = {r.value: p.exit[-1] for op, p in zip(network.operators, plan.operators, strict=True) for r in op.results}
    for op, placed in zip(network.operators, plan.operators, strict=True):
        _check_operator(op, placed, plan.devices, exits, f"{where}: operator {op.name!r}")


def _check_operator(
    op: Operator, placed: OperatorPlacement, devices: int, exits: Mapping[str, Layout], where: str
) -> None:
    item = placed.strategy
    for name in item.loops:
        if name is not None and name not in op.loop_of:
            raise InputError(f"{where}: loop {name!r} is unknown{closest(name, op.loop_of)}")
    product = 1
    for parts in item.parts:
        product *= parts
    if product != devices:
        raise InputError(f"{where}: is shared out among {product} devices, the mesh has {devices}; plan again")
    if not is_legal(op, item, idle=False):
        illegal = [op.loop_of[name] for name in item.loops if name and not is_legal_alone(op, item, name)]
        if not illegal:
            raise InputError(f"{where}: loops {' and '.join(filter(None, item.loops))} split the same axis; keep one")
        loop = illegal[0]
        raise InputError(
            f"{where}: loop {loop.name!r} of {loop.size} cannot be shared out in {item.parts_of(loop.name)} parts: "
            + (
                "it must divide evenly"
                if loop.aligned
                else "each device needs at least one, and halos reach one neighbour only"
            )
        )
    if len(placed.operands) != len(op.operands):
        raise InputError(f"{where}: has {len(placed.operands)} operands, the network's has {len(op.operands)}")
    for i, (operand, path) in enumerate(zip(op.operands, placed.operands, strict=True)):
        if path[-1] != item.operand_layout(op, i):
            raise InputError(f"{where}: operand {operand.value!r} arrives as {path[-1]}, not as the strategy reads it")
        if operand.value in exits and path[0] != exits[operand.value]:
            raise InputError(f"{where}: operand {operand.value!r} starts as {path[0]}, its producer gives another")
        _check_path(path, operand.shape, devices, f"{where}: operand {operand.value!r}")
    if placed.exit[0] != item.result_layout(op):
        raise InputError(f"{where}: its results are said to come as {placed.exit[0]}, the strategy gives another")
    for result in op.results:
        _check_path(placed.exit, result.shape, devices, f"{where}: result {result.value!r}")


def is_legal_alone(op: Operator, item: Strategy, name: str) -> bool:
    """Whether one loop of a strategy is legal.

    Args:
        op: The operator.
        item: The strategy.
        name: Of the loop.

    Returns:
        False if it is what makes the strategy illegal.
    """
    return is_legal(op, strategy([item.parts_of(name)], [name]), idle=False)


def _check_path(path: Path, shape: Sequence[int], devices: int, where: str) -> None:
    for item in path:
        if item.devices != devices:
            raise InputError(f"{where}: layout {item} is for {item.devices} devices, the mesh has {devices}")
        if not item.fits(shape):
            raise InputError(
                f"{where}: layout {item} does not fit the shape {list(shape)}: some device would hold nothing"
            )
    for before, after in pairwise(path):
        if move_between(before, after) is None:
            raise InputError(f"{where}: from {before} to {after} is not one collective")


def write_plan(model: ir.Model, plan: ExecutionPlan) -> None:
    """Puts a plan into a graph's metadata.

    Args:
        model: Changed in place.
        plan: The plan.
    """
    model.metadata_props[METADATA_KEY] = json.dumps(plan.to_json(), sort_keys=True)


def read_plan(model: ir.Model, network: Network, where: str) -> ExecutionPlan:
    """Takes a plan from a graph's metadata.

    Args:
        model: The graph.
        network: What it is.
        where: Its file, for messages.

    Returns:
        The plan, checked.

    Raises:
        InputError: There is none, or it does not fit.
    """
    text = model.metadata_props.get(METADATA_KEY)
    if text is None:
        raise InputError(f"{where}: carries no placement; make one with codesign partition --plan")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: its placement is not JSON ({error}); make it again") from None
    return plan_from_json(value, network, where)
