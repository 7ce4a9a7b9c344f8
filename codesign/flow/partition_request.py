"""The arguments of `codesign partition`, and what they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.errors import InputError
from codesign.hardware.catalog import load_profile, load_target
from codesign.hardware.target import Target
from codesign.partition.layers_csv import read_layers
from codesign.partition.mesh import Device, Link, Mesh, MeshAxis, grid_of_devices, parse_mesh, slowest
from codesign.partition.modes import Mode
from codesign.partition.network import Network
from codesign.partition.objective import Goal
from codesign.partition.pipeline_stages import DeviceKind

if TYPE_CHECKING:
    from codesign.ir.program import Program

ALPHA_S, BANDWIDTH = 2e-6, 6e9
"""Where neither a target nor the command says more: Cori's network (Gholami et al., SPAA 2018)."""
REAL_BITS = 32


@dataclass(frozen=True)
class PartitionRequest:
    """The command's arguments.

    Attributes:
        model: A network (`.onnx`, `.pt2` or a factory); None with `layers`.
        layers: CSV table of layers.
        target: Name or path of a target.
        mesh: Such as `data=4,model=8`.
        devices: How many, arranged as each layer likes.
        batch: Samples of one step.
        goal: What to minimise.
        mode: Whose layers to show.
        alpha_s: Latency of the links.
        bandwidth: Bytes per second of the links.
        element_bytes: Bytes of one number.
        redistribution: Whether changes of layout between layers count.
        micro_batches: Parts of the batch in a pipeline; None for no pipeline unless the target's devices differ.
        memory_bytes: What a device can hold; None for what the target says, or no limit.
        overlap: Whether halos travel while interiors are computed.
        weights: For a factory.
        input_shape: For a factory.
        with_scaling: Whether to plan for other numbers of devices too.
    """

    model: str | None = None
    layers: Path | None = None
    target: str | None = None
    mesh: str | None = None
    devices: int | None = None
    batch: int = 1
    goal: Goal = "training"
    mode: Mode = "optimal"
    alpha_s: float | None = None
    bandwidth: float | None = None
    element_bytes: float = 4.0
    redistribution: bool = True
    micro_batches: int | None = None
    memory_bytes: float | None = None
    overlap: bool = False
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    with_scaling: bool = False


@dataclass(frozen=True)
class Machine:
    """The devices of a request.

    Attributes:
        mesh: How they are arranged.
        device: What equal shares run on; None where only communication counts.
        kinds: For pipelines; empty without a target.
    """

    mesh: Mesh
    device: Device | None
    kinds: tuple[DeviceKind, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether the devices differ."""
        return len(self.kinds) > 1


def network_of_request(request: PartitionRequest) -> Network:
    """Loads what is to be planned.

    Args:
        request: The command's arguments.

    Returns:
        The network.

    Raises:
        InputError: Neither or both of a model and a table are given, or there are no samples.
    """
    if request.batch < 1:
        raise InputError(f"batch: got {request.batch}, allowed are 1 and more")
    if (request.model is None) == (request.layers is None):
        raise InputError("give either a MODEL (.onnx, .pt2 or a factory) or --layers LAYERS.csv")
    if request.layers is not None:
        return read_layers(request.layers, request.batch)
    from codesign.partition.graph_network import network_of

    assert request.model is not None
    return network_of(program_of_request(request), request.batch, request.model)


def program_of_request(request: PartitionRequest) -> "Program":
    """Loads the network.

    Args:
        request: The command's arguments, with a model.

    Returns:
        The network; one that was written with its plan is taken as it was written.
    """
    from codesign.ir.loading import load_program
    from codesign.ir.program import Program
    from codesign.ir.serialization import load_graph
    from codesign.partition.plan_file import METADATA_KEY

    assert request.model is not None
    if request.model.endswith(".onnx"):
        graph = load_graph(Path(request.model))
        if METADATA_KEY in graph.metadata_props:
            return Program(graph)
    return load_program(request.model, request.weights, request.input_shape, Path())


def machine_of_request(request: PartitionRequest) -> Machine:
    """The devices.

    Args:
        request: The command's arguments.

    Returns:
        Mesh and rates.

    Raises:
        InputError: Nothing says how many devices there are, several things do, or a target has one device only.
    """
    if not request.element_bytes > 0:
        raise InputError(f"element-bytes: got {request.element_bytes}, allowed are numbers above 0")
    if request.mesh is not None and request.devices is not None:
        raise InputError("give either --mesh or --devices, not both")
    target = None if request.target is None else load_target(request.target)
    link = _link(request, target)
    if request.mesh is not None:
        mesh = parse_mesh(request.mesh, link)
    elif request.devices is not None:
        mesh = grid_of_devices(request.devices, link)
    elif target is not None:
        mesh = mesh_of(target, link)
    else:
        raise InputError("how many devices? give --devices P, --mesh data=4,model=8 or --target NAME")
    kinds = () if target is None else _kinds(target, mesh.devices, request.element_bytes)
    return Machine(mesh, slowest([kind.device for kind in kinds]) if kinds else None, kinds)


def _link(request: PartitionRequest, target: Target | None) -> Link:
    known = None if target is None or target.link is None else target.link
    alpha = request.alpha_s if request.alpha_s is not None else known.latency_s if known else ALPHA_S
    bandwidth = request.bandwidth if request.bandwidth is not None else known.bandwidth_bytes_per_s if known else None
    return Link(alpha, BANDWIDTH if bandwidth is None else bandwidth, known.energy_j_per_byte if known else 0.0)


def mesh_of(target: Target, link: Link) -> Mesh:
    """How the equal devices of a target are arranged.

    Args:
        target: A target of several devices.
        link: Between them.

    Returns:
        The mesh.

    Raises:
        InputError: It is one device.
    """
    if len(target.mesh_shape) == 1:
        if target.mesh_shape[0] == 1:
            raise InputError(f"target {target.name!r} is one device; give --devices P or --mesh to use several of them")
        return grid_of_devices(target.mesh_shape[0], link)
    return Mesh(tuple(MeshAxis(f"axis{i}", size, link) for i, size in enumerate(target.mesh_shape)))


def _kinds(target: Target, devices: int, element_bytes: float) -> tuple[DeviceKind, ...]:
    if not target.devices:
        return (DeviceKind(target.name, _device(target.profile, target.threads, 1.0, element_bytes), devices),)
    known = sum(group.count for group in target.devices)
    if devices != known:
        raise InputError(f"target {target.name!r} has {known} devices, got {devices}; leave out --devices and --mesh")
    return tuple(
        DeviceKind(g.name, _device(g.profile, target.threads, g.speed, element_bytes), g.count) for g in target.devices
    )


def _device(profile_name: str, threads: int, speed: float, element_bytes: float) -> Device:
    """What a profile amounts to for one width of numbers."""
    profile = load_profile(profile_name, threads)
    bits = min(int(8 * element_bytes), REAL_BITS)
    rate = next((row for row in profile.compute if row.weight_bits == row.activation_bits == bits), None)
    if rate is None:
        both = sorted(row.weight_bits for row in profile.compute if row.weight_bits == row.activation_bits)
        raise InputError(
            f"profile {profile.name!r}: has no rate for numbers of {bits} bits; it has {', '.join(map(str, both))}: "
            f"set --element-bytes to an eighth of one of these"
        )
    outermost = profile.memories[-1]
    return Device(
        rate.macs_per_s * rate.efficiency * speed,
        outermost.bandwidth_bytes_per_s * speed,
        profile.dispatch_s / speed,
        outermost.capacity_bytes,
        profile.idle_power_w,
    )
