"""Plans carried out: random ones against one process, and the model's ranking against two real processes."""

from collections.abc import Callable, Sequence

import torch
from curvature_setup import Bar, Part, print_table
from torch import nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.architecture.squeezenext import SqueezeNext
from codesign.architecture.squeezenext_config import SqueezeNextConfig, Stage, Stem
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program
from codesign.partition.execution_plan import execution_plan, random_plan
from codesign.partition.graph_network import network_of
from codesign.partition.link_measurement import fit_link, measure_links
from codesign.partition.mesh import Device, Link, grid_of_devices, parse_mesh
from codesign.partition.network import Network, Operator
from codesign.partition.objective import Objective
from codesign.partition.options import Option, direct_option, problem_of
from codesign.partition.plan_file import ExecutionPlan
from codesign.partition.planner import plan
from codesign.partition.strategies import Pricing, strategies_of
from codesign.partition.verification import Verification, verify
from codesign.solver.elimination import eliminate
from codesign.testing.networks import SmallTransformer, randomize

ANY = Link(1e-6, 1e9)
TOLERANCE = 1e-10
PLANS_AT_ONCE = 6
EAGER_DISPATCH_S = 4e-5
"""Of one operator, its autograd and the interpreter; measured on this kind of machine."""
EAGER_MACS_PER_S = 3e10
EAGER_BYTES_PER_S = 5e9
PREFERENCES = {"batch": ("batch",), "model": ("out", "group"), "domain": ("height", "batch")}
"""What layers with weights share out, the first that is possible; other operators follow cheaply."""


def squeezenext() -> nn.Module:
    """A SqueezeNext for 32x32 images."""
    stages = (Stage(16, 2, 1), Stage(32, 2), Stage(64, 2))
    return SqueezeNext(SqueezeNextConfig(Stem(16, 3, 1, 1), stages, 64, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20": (resnet20, (1, 3, 32, 32)),
    "SqueezeNext": (squeezenext, (1, 3, 32, 32)),
    "transformer": (SmallTransformer, (1, 3, 16, 16)),
}


def execution(plans: int) -> Part:
    """Random legal plans on four processes."""
    part, rows = Part(), []
    for name, (factory, shape) in NETWORKS.items():
        program = lower_module(randomize(factory()), shape)
        network = network_of(program, 6, name)
        pricings = [
            Pricing(mesh, True, Objective(1.0)) for mesh in (parse_mesh("a=2,b=2", ANY), grid_of_devices(4, ANY))
        ]
        made = [random_plan(network, pricings[seed % 2], seed) for seed in range(plans)]
        found: list[Verification] = []
        for first in range(0, plans, PLANS_AT_ONCE):
            found += verify(program, network, made[first : first + PLANS_AT_ONCE])
        halos = sum("halo" in v.counted[0] for v in found)
        kinds = sorted({kind for v in found for counts in v.counted for kind in counts})
        worst = max(v.largest_error for v in found)
        rows.append([name, len(found), halos, worst, sum(v.as_planned for v in found), ", ".join(kinds)])
        part.bars.append(Bar(f"{name}: largest difference from one process, {len(found)} plans", worst, most=TOLERANCE))
        part.bars.append(
            Bar(f"{name}: plans whose calls or bytes differ", sum(not v.as_planned for v in found), most=0)
        )
    head = ("network", "plans", "with halos", "largest difference", "as planned", "collectives")
    print_table("Random plans on 4 processes, float64", head, rows)
    part.numbers["execution"] = rows
    return part


def processes(rounds: int) -> Part:
    """Does the mode that the model ranks first win on two processes?"""
    fit = fit_link(measure_links(2, 30), 2)
    link = Link(fit.latency_s, fit.bandwidth_bytes_per_s)
    print(
        f"\nLink calibrated: alpha {link.latency_s * 1e6:.1f} us, {link.bandwidth_bytes_per_s / 1e9:.3f} GB/s, "
        f"median error {fit.relative_error:.0%} on held-out collectives"
    )
    device = Device(EAGER_MACS_PER_S, EAGER_BYTES_PER_S, EAGER_DISPATCH_S)
    pricing = Pricing(grid_of_devices(2, link), True, Objective(1.0), 4.0, device)
    part, rows = Part(), []
    for name, (factory, shape) in NETWORKS.items():
        program = lower_module(randomize(factory()), shape)
        network = network_of(program, 32, name)
        predicted, plans = _plans(network, pricing)
        measured = _measured(program, network, plans, rounds)
        best_by_model = min(predicted, key=lambda mode: predicted[mode])
        fastest = min(measured.values())
        for mode, seconds in measured.items():
            rows.append([name, mode, predicted[mode] * 1e3, seconds * 1e3, seconds / fastest])
        part.bars.append(
            Bar(
                f"{name}: {best_by_model} (first by the model) over the fastest",
                measured[best_by_model] / fastest,
                most=1.05,
            )
        )
    print_table("Two processes, float32, batch 32", ("network", "mode", "model ms", "measured ms", "x fastest"), rows)
    part.numbers |= {"processes": rows, "alpha_s": link.latency_s, "bandwidth": link.bandwidth_bytes_per_s}
    return part


def _plans(network: Network, pricing: Pricing) -> tuple[dict[str, float], dict[str, ExecutionPlan]]:
    predicted, plans = {}, {}
    for mode, preference in PREFERENCES.items():
        options = [_preferred(op, pricing, preference) for op in network.operators]
        solution = eliminate(problem_of(network, options, pricing, True))
        assert solution is not None
        chosen = [offered[pick] for offered, pick in zip(options, solution.picks, strict=True)]
        predicted[mode], plans[mode] = solution.value, execution_plan(network, chosen, pricing)
    best = plan(network, pricing)
    assert best is not None
    predicted["mixed"] = best.value
    plans["mixed"] = execution_plan(network, [placed.option for placed in best.operators], pricing)
    return predicted, plans


def _preferred(op: Operator, pricing: Pricing, preference: Sequence[str]) -> tuple[Option, ...]:
    items = strategies_of(op, pricing.mesh, idle=False)
    if op.is_weighted:
        for loop in preference:
            fitting = tuple(item for item in items if item.loops == (loop,))
            if fitting:
                return tuple(direct_option(op, item, pricing) for item in fitting)
    return tuple(direct_option(op, item, pricing) for item in items)


def _measured(program: Program, network: Network, plans: dict[str, ExecutionPlan], rounds: int) -> dict[str, float]:
    """Least of the medians of alternating rounds."""
    taken: dict[str, list[float]] = {mode: [] for mode in plans}
    for _ in range(rounds):
        found = verify(program, network, list(plans.values()), torch.float32, input_gradient=False, repeats=7)
        for mode, verification in zip(plans, found, strict=True):
            taken[mode].append(verification.seconds)
    return {mode: min(times) for mode, times in taken.items()}
