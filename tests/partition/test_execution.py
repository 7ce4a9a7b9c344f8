"""Random legal plans on four local processes give what one process gives, with exactly the planned messages."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from codesign.architecture.resnet_cifar import CifarResNet
from codesign.errors import CodesignError, InputError
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program
from codesign.partition.execution_plan import random_plan
from codesign.partition.graph_network import network_of
from codesign.partition.mesh import Link, grid_of_devices, parse_mesh
from codesign.partition.network import Network
from codesign.partition.objective import Objective
from codesign.partition.plan_file import ExecutionPlan, plan_from_json, read_plan, write_plan
from codesign.partition.processes import check_machine, check_same_plan, run_processes
from codesign.partition.strategies import Pricing
from codesign.partition.verification import verify
from codesign.testing.networks import PlainNet, SmallMobileNet, SmallTransformer, randomize

LINK = Link(1e-6, 1e9)
MESHES = (parse_mesh("a=2,b=2", LINK), grid_of_devices(4, LINK))
TOLERANCE = 1e-10


class Windows(nn.Module):
    """What the other networks lack: odd windows, pooling, groups that no number of devices divides, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, (5, 3), stride=(2, 1), padding=(2, 1))
        self.grouped = nn.Conv2d(6, 9, 3, padding=2, dilation=2, groups=3)
        self.side = nn.Conv2d(6, 7, 1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        y = torch.cat([self.grouped(x), self.side(x)], 1)
        y = F.max_pool2d(y, 3, 2, padding=1, ceil_mode=True)
        y = F.avg_pool2d(y, 3, 1, padding=1)
        logits: torch.Tensor = self.last(F.softmax(y, 1).mean((2, 3)))
        return logits


def resnet() -> CifarResNet:
    return CifarResNet(blocks=1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (resnet, (1, 3, 32, 32)),
    "mobilenet": (SmallMobileNet, (1, 3, 16, 16)),
    "transformer": (SmallTransformer, (1, 3, 16, 16)),
    "windows": (Windows, (1, 3, 23, 12)),
}


def loaded(name: str, batch: int) -> tuple[Program, Network]:
    factory, shape = NETWORKS[name]
    program = lower_module(randomize(factory()), shape)
    return program, network_of(program, batch, name)


def random_plans(network: Network, count: int) -> list[ExecutionPlan]:
    pricings = [Pricing(mesh, True, Objective(1.0)) for mesh in MESHES]
    return [random_plan(network, pricings[seed % 2], seed) for seed in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
def test_random_plans_equal_one_process(name: str) -> None:
    program, network = loaded(name, batch=6)
    plans = random_plans(network, 2)  # benchmarks/partition.py runs 30 a network
    for plan, found in zip(plans, verify(program, network, plans), strict=True):
        assert found.largest_error < TOLERANCE, plan.digest
        assert found.as_planned, plan.digest
        assert found.counted[0]


def test_a_plan_survives_its_file() -> None:
    program, network = loaded("windows", batch=6)
    (plan,) = random_plans(network, 1)
    assert plan_from_json(plan.to_json(), network, "here") == plan
    with pytest.raises(InputError, match="carries no placement"):
        read_plan(program.graph, network, "net.onnx")
    write_plan(program.graph, plan)
    assert read_plan(program.graph, network, "net.onnx").digest == plan.digest


@pytest.fixture(scope="module")
def plain() -> tuple[Program, Network, ExecutionPlan]:
    program = lower_module(randomize(PlainNet()), (1, 1, 8, 8))
    network = network_of(program, 4, "plain")
    return program, network, random_plans(network, 1)[0]


def test_plans_that_do_not_fit_are_refused(plain: tuple[Program, Network, ExecutionPlan]) -> None:
    program, network, plan = plain
    value = plan.to_json()
    with pytest.raises(InputError, match="is for another network"):
        plan_from_json({**value, "network": "0" * 32}, network, "here")
    with pytest.raises(InputError, match="is for a batch of 4, got 8"):
        plan_from_json(value, network_of(program, 8, "plain"), "here")
    with pytest.raises(InputError, match="the mesh has 8"):
        plan_from_json({**value, "mesh": [{"name": "devices", "size": 8}]}, network, "here")
    with pytest.raises(InputError, match="no placement of version"):
        plan_from_json({**value, "version": 2}, network, "here")
    for damaged in ({}, {"operators": 3}, {"operators": [{"name": "conv1"}]}, {"mesh": [{"name": "a", "size": "x"}]}):
        with pytest.raises(InputError):
            plan_from_json({"version": 1, **({**value, **damaged} if damaged else {})}, network, "here")


def test_a_step_that_is_no_collective_is_refused(plain: tuple[Program, Network, ExecutionPlan]) -> None:
    _, network, plan = plain
    first = plan.operators[0]
    wrong = replace(first, exit=(first.exit[0], first.exit[0]))
    with pytest.raises(InputError, match="is not one collective"):
        plan_from_json(replace(plan, operators=(wrong, *plan.operators[1:])).to_json(), network, "here")


def test_fewer_rows_than_devices_are_refused(plain: tuple[Program, Network, ExecutionPlan]) -> None:
    _, network, plan = plain
    value = plan.to_json()
    assert isinstance(value["operators"], list)
    value["operators"][0] |= {"parts": [16], "loops": ["height"]}
    value["mesh"] = [{"name": "devices", "size": 16}]
    with pytest.raises(InputError, match="loop 'height' of 8 cannot be shared out in 16 parts"):
        plan_from_json(value, network, "here")


def test_a_process_that_dies_ends_the_others() -> None:
    def work(rank: int) -> int:
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()
        return rank

    with pytest.raises(CodesignError, match="process 2 of 4 was ended by SIGKILL"):
        run_processes(4, work, timeout_s=20)


def test_a_process_that_fails_or_hangs_is_named() -> None:
    def fails(rank: int) -> None:
        if rank == 1:
            raise CodesignError("no more paper")
        dist.barrier()

    with pytest.raises(CodesignError, match="process 1 of 2 failed: no more paper"):
        run_processes(2, fails, timeout_s=20)

    def hangs(rank: int) -> None:
        if rank == 0:
            signal.pause()

    with pytest.raises(CodesignError, match=r"process 0.* did not end within 1 s"):
        run_processes(2, hangs, timeout_s=20, limit_s=1.0)


def test_different_plans_are_noticed_before_the_first_message() -> None:
    with pytest.raises(CodesignError, match="processes 1 have another plan than process 0"):
        run_processes(2, lambda rank: check_same_plan("ab" * 16 if rank else "cd" * 16, 2))
    with pytest.raises(CodesignError, match="the plan is for 4 devices, 2 processes were started"):
        run_processes(2, lambda rank: check_same_plan("ab" * 16, 4))


def test_a_mesh_larger_than_the_machine_is_refused() -> None:
    with pytest.raises(InputError, match="is for 100000 devices, but this machine has"):
        check_machine(100_000)
