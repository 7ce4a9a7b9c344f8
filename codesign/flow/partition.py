"""What `codesign partition` does: plan how a network is spread over devices, in every mode."""

from dataclasses import replace

from codesign.errors import CodesignError
from codesign.flow.partition_request import Machine, PartitionRequest, machine_of_request, network_of_request
from codesign.partition.mesh import grid_of_devices
from codesign.partition.modes import MODES, Mode
from codesign.partition.network import Network
from codesign.partition.objective import is_training, objective_of
from codesign.partition.pipeline_stages import Pipeline, cut, work_of
from codesign.partition.planner import Planned, plan
from codesign.partition.strategies import Pricing
from codesign.progress import Progress
from codesign.report.partition_contents import PartitionResult, ScalingPoint

SCALING_DEVICES = tuple(2**i for i in range(13))
"""Up to 4,096."""
SCALING_MODES: tuple[Mode, ...] = ("batch", "grid", "dense-grid", "optimal")
FEW_OPERATORS = 30
"""Larger networks are planned for every fourth power of two only."""


def partition(request: PartitionRequest, progress: Progress) -> PartitionResult:
    """Plans; nothing is run.

    Args:
        request: The command's arguments.
        progress: Told what is going on.

    Returns:
        Plans of all modes.

    Raises:
        CodesignError: The mode that was asked for is impossible.
    """
    machine = machine_of_request(request)
    network = network_of_request(request)
    pricing = pricing_of(request, machine)
    plans: dict[Mode, Planned | None] = {}
    for mode in MODES:
        progress.note(f"planning {mode} for {machine.mesh.devices} devices")
        plans[mode] = plan(network, pricing, mode, request.redistribution, memory_limit(request, mode))
    if plans[request.mode] is None:
        raise CodesignError(impossible(request.mode, network, machine))
    return PartitionResult(
        str(request.layers or request.model),
        network,
        machine.mesh,
        request.goal,
        request.redistribution,
        machine.device is not None,
        plans,
        request.mode,
        _pipeline(request, machine, network),
        _scaling(request, machine, network, progress) if request.with_scaling else (),
    )


def pricing_of(request: PartitionRequest, machine: Machine) -> Pricing:
    """What prices depend on.

    Args:
        request: The command's arguments.
        machine: The devices.

    Returns:
        The pricing. Tables of layers are counted as the paper counts them: channels may be fewer than devices, and
        without redistribution the halo of a result's gradient travels.
    """
    return Pricing(
        machine.mesh,
        is_training(request.goal),
        objective_of(request.goal),
        request.element_bytes,
        machine.device,
        halo_of_gradient=not request.redistribution,
        overlap=request.overlap,
        idle=request.layers is not None,
    )


def memory_limit(request: PartitionRequest, mode: Mode) -> float:
    """What a device may hold.

    Args:
        request: The command's arguments.
        mode: Restricted modes are only for comparison, and not limited.

    Returns:
        Bytes.
    """
    return request.memory_bytes if request.memory_bytes is not None and mode == "optimal" else float("inf")


def impossible(mode: Mode, network: Network, machine: Machine) -> str:
    """Why a mode has no plan.

    Args:
        mode: The mode.
        network: With its batch.
        machine: The devices.

    Returns:
        One sentence.
    """
    devices = machine.mesh.devices
    match mode:
        case "batch":
            return (
                f"mode 'batch' is impossible: {network.batch} samples cannot be shared out among {devices} devices; "
                "take a larger --batch, fewer devices, or --mode optimal, which splits channels and space too"
            )
        case "model":
            least = min(
                (op.loop_of["out"].size, op.name) for op in network.operators if op.is_weighted and "out" in op.loop_of
            )
            return (
                f"mode 'model' is impossible: layer {least[1]!r} has {least[0]} output channels for {devices} devices; "
                "take fewer devices or --mode optimal"
            )
        case _:
            return f"mode {mode!r} has no plan that shares all layers out among {devices} devices; take fewer devices"


def _pipeline(request: PartitionRequest, machine: Machine, network: Network) -> tuple[Pipeline, tuple[str, ...]] | None:
    if not machine.kinds or (request.micro_batches is None and not machine.is_mixed):
        return None
    parts = request.micro_batches or 1
    work = work_of(network, machine.kinds, parts, is_training(request.goal), request.element_bytes)
    found = cut(work, machine.kinds, machine.mesh.axes[0].link, parts)
    return found, tuple(machine.kinds[stage.kind].name for stage in found.stages)


def _scaling(
    request: PartitionRequest, machine: Machine, network: Network, progress: Progress
) -> tuple[ScalingPoint, ...]:
    link = machine.mesh.axes[0].link
    counts = SCALING_DEVICES if len(network.operators) <= FEW_OPERATORS else SCALING_DEVICES[::4]
    points = []
    for devices in counts:
        progress.note(f"planning for {devices} devices")
        pricing = pricing_of(request, replace(machine, mesh=grid_of_devices(devices, link)))
        found = {mode: plan(network, pricing, mode, request.redistribution) for mode in SCALING_MODES}
        points.append(ScalingPoint(devices, {m: None if p is None else p.price.seconds for m, p in found.items()}))
    return tuple(points)
