"""`codesign partition --execute`: carries the plan out, on local processes or on those that torchrun started."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from codesign.errors import CodesignError, InputError, first_line
from codesign.flow.partition import pricing_of
from codesign.flow.partition_request import PartitionRequest, machine_of_request, program_of_request
from codesign.ir.program import Program
from codesign.partition.execution_plan import execution_plan
from codesign.partition.graph_network import network_of
from codesign.partition.network import Network
from codesign.partition.plan_file import METADATA_KEY, ExecutionPlan, check_plan, read_plan, write_plan
from codesign.partition.planner import Planned
from codesign.partition.processes import TIMEOUT_S, check_machine

REPEATS = 5
"""Steps whose median time is taken."""
TOLERANCE = 1e-10
"""Largest difference in float64 that counts as equal."""


@dataclass(frozen=True)
class Executed:
    """What carrying a plan out showed.

    Attributes:
        digest: Of the plan.
        devices: How many processes.
        errors: Largest differences from one process, in float64, by what they are of.
        as_planned: Whether every process made exactly the planned calls with the planned bytes.
        counted: Calls and bytes by kind of collective, of the first process.
        seconds: Median time of a step, in float64.
    """

    digest: str
    devices: int
    errors: Mapping[str, float]
    as_planned: bool
    counted: Mapping[str, Mapping[str, int]]
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether results are equal and messages as planned."""
        return self.as_planned and max(self.errors.values()) <= TOLERANCE

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "plan": self.digest,
            "devices": self.devices,
            "largest_errors": dict(self.errors),
            "as_planned": self.as_planned,
            "collectives": {kind: dict(numbers) for kind, numbers in self.counted.items()},
            "seconds": self.seconds,
            "provenance": "measured",
        }

    def lines(self) -> Iterator[str]:
        """In words.

        Yields:
            Sentences.
        """
        errors = ", ".join(f"{name} {value:.1e}" for name, value in self.errors.items())
        step = f"{self.seconds * 1e3:.3g} ms a step (measured)"
        yield f"Executed plan {self.digest[:12]} on {self.devices} processes: {step}."
        yield f"Largest differences from one process in float64: {errors}."
        calls = ", ".join(f"{n['calls']} {kind} of {n['bytes']:,} bytes" for kind, n in self.counted.items())
        yield f"Process 0: {calls or 'no messages'}; {'exactly as planned' if self.as_planned else 'NOT AS PLANNED'}."


def check_processes(request: PartitionRequest) -> None:
    """Refuses what this machine cannot carry out, before anything is planned.

    Args:
        request: The command's arguments.

    Raises:
        InputError: The mesh is larger than the machine, or than the number of processes that torchrun started.
    """
    devices = machine_of_request(request).mesh.devices
    if not under_torchrun():
        check_machine(devices)
    elif int(os.environ["WORLD_SIZE"]) != devices:
        raise InputError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, the mesh has {devices} devices; make the two equal"
        )


def program_and_network(request: PartitionRequest) -> tuple[Program, Network]:
    """Loads what shall be run.

    Args:
        request: The command's arguments.

    Returns:
        The network, without and with the batch.

    Raises:
        InputError: It is only a table of layers, or no training step is asked for.
    """
    if request.model is None:
        raise InputError("a table of layers says too little to be executed; give a MODEL instead of --layers")
    if request.goal in {"latency", "throughput"}:
        raise InputError(f"objective {request.goal!r}: only training steps are executed; use --objective training")
    program = program_of_request(request)
    return program, network_of(program, request.batch, request.model)


def plan_to_execute(request: PartitionRequest, program: Program, network: Network, planned: Planned) -> ExecutionPlan:
    """The plan that the network's file carries, else the one just made.

    Args:
        request: The command's arguments.
        program: The network.
        network: The same, with the batch.
        planned: What was just made.

    Returns:
        The plan, checked.

    Raises:
        InputError: The file's plan is for another network, batch or mesh.
    """
    machine = machine_of_request(request)
    if METADATA_KEY not in program.graph.metadata_props:
        plan = execution_plan(network, [placed.option for placed in planned.operators], pricing_of(request, machine))
        check_plan(plan, network, "plan")
        return plan
    found = read_plan(program.graph, network, str(request.model))
    if found.devices != machine.mesh.devices:
        raise InputError(
            f"{request.model}: its placement is for {found.devices} devices, got {machine.mesh.devices}; "
            "name as many, or plan again"
        )
    return found


def save_plan(program: Program, plan: ExecutionPlan, path: Path) -> None:
    """Writes the network with its plan.

    Args:
        program: The network; the plan is put into its metadata.
        plan: Its plan.
        path: An `.onnx` file.
    """
    from codesign.ir.serialization import save_graph

    write_plan(program.graph, plan)
    save_graph(program.graph, path)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def execute(program: Program, network: Network, plan: ExecutionPlan) -> Executed | None:
    """Runs a plan and compares it with one process.

    Args:
        program: The network.
        network: The same, with the batch.
        plan: Checked against it.

    Returns:
        What it showed; None in every process but the first of torchrun's.

    Raises:
        CodesignError: Processes are too few, or one died.
    """
    if under_torchrun():
        return _joined(program, network, plan)
    from codesign.partition.verification import verify

    (found,) = verify(program, network, [plan], repeats=REPEATS)
    errors = {
        "outputs": found.output_error,
        "input gradient": found.input_gradient_error,
        "weight gradients": found.weight_gradient_error,
        "weights after a step": found.parameter_error,
    }
    return Executed(plan.digest, plan.devices, errors, found.as_planned, found.counted[0], found.seconds)


def _joined(program: Program, network: Network, plan: ExecutionPlan) -> Executed | None:
    """One of torchrun's processes; each compares its own pieces."""
    import torch
    from torch import distributed

    from codesign.partition.verification import random_sample, rank_errors, run_plan

    with _process_group():
        rank = distributed.get_rank()
        sample = random_sample(program, network, torch.float64, 0)
        try:
            found = run_plan(program, network, plan, sample, rank, True, REPEATS)
            errors, as_planned = rank_errors(program, network, plan, sample, found, rank)
            numbers = torch.tensor([*errors.values(), float(not as_planned)], dtype=torch.float64)
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        except RuntimeError as error:
            raise CodesignError(
                f"process {rank}: another process ended or did not answer within {TIMEOUT_S:g} s ({first_line(error)})"
            ) from error
        if rank:
            return None
        largest = dict(zip(errors, numbers.tolist(), strict=False))
        count, seconds = found["count"], found["seconds"]
        assert isinstance(count, dict)
        assert isinstance(seconds, float)
        return Executed(plan.digest, plan.devices, largest, not numbers[-1].item(), count, seconds)


@contextmanager
def _process_group() -> Iterator[None]:
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_S))
    try:
        yield
    finally:
        distributed.destroy_process_group()
