"""Carries a plan out on this machine and compares everything with one process."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.partition.communicator import Communicator
from codesign.partition.executor import Executor, kept_layouts
from codesign.partition.network import Network
from codesign.partition.placement import Layout
from codesign.partition.plan_file import ExecutionPlan
from codesign.partition.planned_traffic import planned_traffic
from codesign.partition.processes import TIMEOUT_S, check_same_plan, run_processes

LEARNING_RATE = 0.01
DTYPES = {"float32": torch.float32, "float64": torch.float64}
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Verification:
    """How one plan compares with one process.

    Attributes:
        output_error: Largest difference of an output.
        input_gradient_error: Largest difference of the input's gradient; 0 where it was not computed.
        weight_gradient_error: Largest difference of a parameter's gradient.
        parameter_error: Largest difference of a parameter after a step of gradient descent.
        counted: Calls and bytes by kind of collective, of each device.
        planned: The same, from the plan.
        seconds: Median time of a step, of the slowest device.
    """

    output_error: float
    input_gradient_error: float
    weight_gradient_error: float
    parameter_error: float
    counted: tuple[Counts, ...]
    planned: tuple[Counts, ...]
    seconds: float

    @property
    def largest_error(self) -> float:
        """Of all differences."""
        return max(self.output_error, self.input_gradient_error, self.weight_gradient_error, self.parameter_error)

    @property
    def as_planned(self) -> bool:
        """Whether every device made exactly the calls of the plan, with exactly its bytes."""
        return self.counted == self.planned


@dataclass(frozen=True)
class Sample:
    """Input and gradient of the output of one step.

    Attributes:
        x: `[batch, ...]`.
        gradient: Of the loss with respect to the whole output.
    """

    x: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class _Reference:
    y: Tensor
    x_gradient: Tensor
    parameters: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def random_sample(program: Program, network: Network, dtype: torch.dtype, seed: int) -> Sample:
    """Numbers from a normal distribution.

    Args:
        program: The network.
        network: The same, with the batch.
        dtype: Their type.
        seed: Their source.

    Returns:
        The sample.
    """
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(network.batch, *program.input_shape[1:], generator=source, dtype=dtype)
    shape = network.operators[-1].operands[0].shape
    return Sample(x, torch.randn(shape, generator=source, dtype=dtype))


def verify(
    program: Program,
    network: Network,
    plans: Sequence[ExecutionPlan],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    input_gradient: bool = True,
    repeats: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> tuple[Verification, ...]:
    """Runs plans one after the other on as many local processes as they have devices.

    Args:
        program: The network.
        network: The same, with the batch.
        plans: All for the same number of devices.
        dtype: What is computed in.
        seed: Source of inputs and gradients.
        input_gradient: Whether the input's gradient is compared too.
        repeats: Further steps whose time is taken; 0 for the time of the first.
        timeout_s: How long one process waits for another.

    Returns:
        One comparison a plan.
    """
    sample = random_sample(program, network, dtype, seed)
    reference = _one_process(program, network, sample)
    results = run_processes(
        plans[0].devices,
        lambda rank: [run_plan(program, network, p, sample, rank, input_gradient, repeats) for p in plans],
        timeout_s,
    )
    by_plan = zip(*cast(list[list[Mapping[str, object]]], results), strict=True)
    size = sample.x.element_size()
    return tuple(
        _compared(reference, network, plan, found, size, input_gradient)
        for plan, found in zip(plans, by_plan, strict=True)
    )


def run_plan(
    program: Program,
    network: Network,
    plan: ExecutionPlan,
    sample: Sample,
    rank: int,
    input_gradient: bool,
    repeats: int,
) -> Mapping[str, object]:
    """One process's part; torch.distributed is initialised.

    Args:
        program: The network.
        network: The same, with the batch.
        plan: Checked against it.
        sample: The same in all processes.
        rank: Number of this process.
        input_gradient: Whether the input's gradient is computed.
        repeats: Further steps whose time is taken.

    Returns:
        Tensors and numbers by name.
    """
    check_same_plan(plan.digest, plan.devices)
    communicator = Communicator(plan.devices, rank)
    executor = Executor(program, network, plan, communicator, sample.x.dtype, input_gradient)
    x = sample.x.clone().requires_grad_(input_gradient)
    started = time.perf_counter()
    y = executor.train_step(x, sample.gradient, LEARNING_RATE)
    times = [time.perf_counter() - started]
    found: dict[str, object] = {
        "y": y.clone(),
        "count": communicator.count.to_json(),
        "parameters": {name: p.detach().clone() for name, p in executor.parameters.items()},
        "gradients": {name: p.grad.clone() for name, p in executor.parameters.items() if p.grad is not None},
        "x_gradient": None if x.grad is None else x.grad.clone(),
    }
    for _ in range(repeats):
        for parameter in executor.parameters.values():
            parameter.grad = None
        started = time.perf_counter()
        executor.train_step(sample.x, sample.gradient, 0.0)
        times.append(time.perf_counter() - started)
    timed = sorted(times[1:] or times)
    found["seconds"] = timed[len(timed) // 2]
    return found


def _one_process(program: Program, network: Network, sample: Sample) -> _Reference:
    graph = TorchGraph(program.graph, sample.x.dtype)
    names = {x.value for op in network.operators for x in op.operands if x.role == "parameter"}
    leaves = {name: t.clone().requires_grad_() for name, t in graph.constants.items() if name in names}
    x = sample.x.clone().requires_grad_()
    y = graph.run(x, leaves)
    y.backward(sample.gradient)  # type: ignore[no-untyped-call]  # torch's
    gradients = {name: t.grad for name, t in leaves.items() if t.grad is not None}
    with torch.no_grad():
        moved = {
            name: t if name not in gradients else t - LEARNING_RATE * gradients[name] for name, t in leaves.items()
        }
    assert x.grad is not None
    return _Reference(y.detach(), x.grad, {name: t.detach() for name, t in moved.items()}, gradients)


def rank_errors(
    program: Program,
    network: Network,
    plan: ExecutionPlan,
    sample: Sample,
    found: Mapping[str, object],
    rank: int,
) -> tuple[Mapping[str, float], bool]:
    """Compares one process's part of a plan with one process, in that process.

    Args:
        program: The network.
        network: The same, with the batch.
        plan: Its plan.
        sample: What was run on.
        found: From `run_plan`, with the input's gradient.
        rank: Number of the process.

    Returns:
        Largest difference by what it is of, and whether its messages were as planned.
    """
    size = sample.x.element_size()
    planned = planned_traffic(network, plan, rank, size, True, True).to_json()
    errors = _errors(_one_process(program, network, sample), network, plan, found, rank)
    return errors, planned == found["count"]


def _errors(
    reference: _Reference, network: Network, plan: ExecutionPlan, found: Mapping[str, object], rank: int
) -> dict[str, float]:
    kept = kept_layouts(network, plan)
    errors = {"outputs": _difference(found["y"], reference.y, plan.operators[-1].operands[0][-1], rank)}
    x = found["x_gradient"]
    errors["input gradient"] = 0.0 if x is None else _difference(x, reference.x_gradient, Layout(()), rank)
    for key, title, whole in (
        ("gradients", "weight gradients", reference.gradients),
        ("parameters", "weights after a step", reference.parameters),
    ):
        pieces = cast(Mapping[str, Tensor], found[key])
        assert set(pieces) == set(whole), "a parameter has no gradient on one side"
        errors[title] = max(_difference(piece, whole[name], kept[name], rank) for name, piece in pieces.items())
    return errors


def _compared(
    reference: _Reference,
    network: Network,
    plan: ExecutionPlan,
    found: Sequence[Mapping[str, object]],
    element_bytes: int,
    input_gradient: bool,
) -> Verification:
    errors = [_errors(reference, network, plan, part, rank) for rank, part in enumerate(found)]
    titles = ("outputs", "input gradient", "weight gradients", "weights after a step")
    worst = [max(part[title] for part in errors) for title in titles]
    return Verification(
        worst[0],
        worst[1],
        worst[2],
        worst[3],
        tuple(cast(Counts, part["count"]) for part in found),
        tuple(
            planned_traffic(network, plan, rank, element_bytes, True, input_gradient).to_json()
            for rank in range(plan.devices)
        ),
        max(cast(float, part["seconds"]) for part in found),
    )


def _difference(piece: object, whole: Tensor, held: Layout, rank: int) -> float:
    assert isinstance(piece, Tensor)
    for axis in held.axes:
        first, end = held.interval(axis, whole.shape[axis], rank)
        whole = whole.narrow(axis, first, end - first)
    assert piece.shape == whole.shape, f"{tuple(piece.shape)} against {tuple(whole.shape)}"
    return float((piece - whole).abs().max()) if piece.numel() else 0.0
