"""Cutting a network into stages, each on a device of its own, devices perhaps unequal.

With `M` micro-batches and stage times `t_s` of one micro-batch, one batch takes `sum_s t_s + (M - 1) max_s t_s`
(GPipe's bubble; Alpa, arXiv 2201.12023, section 5). The dynamic programme keeps, for every prefix of the operators and
every set of devices in use, all pairs of (sum, maximum) that no other pair beats; so its answer is exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from codesign.errors import InputError
from codesign.partition.mesh import Device, Link
from codesign.partition.network import Network

Counts = tuple[int, ...]
"""How many devices of each kind are in use."""


@dataclass(frozen=True)
class DeviceKind:
    """Some equal devices.

    Attributes:
        name: Such as `big`.
        device: How fast each is.
        count: How many there are.
    """

    name: str
    device: Device
    count: int


@dataclass(frozen=True)
class Work:
    """What a stage would take, operator by operator.

    Attributes:
        seconds: `[kinds][operators]`, of one micro-batch.
        weight_bytes: Parameters of each operator.
        crossing_bytes: Of each cut, of one micro-batch: what is computed before operator `i` and read from there on.
    """

    seconds: tuple[tuple[float, ...], ...]
    weight_bytes: tuple[float, ...]
    crossing_bytes: tuple[float, ...]


@dataclass(frozen=True)
class Stage:
    """A run of operators on one device.

    Attributes:
        first: Position of its first operator.
        end: Position after its last one.
        kind: Which kind of device.
        seconds: Of one micro-batch, receiving included.
    """

    first: int
    end: int
    kind: int
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Stages, in the order of the operators.

    Attributes:
        stages: At least one.
        micro_batches: How many parts of the batch follow one another.
    """

    stages: tuple[Stage, ...]
    micro_batches: int

    @property
    def seconds(self) -> float:
        """Time of the whole batch."""
        times = [stage.seconds for stage in self.stages]
        return sum(times) + (self.micro_batches - 1) * max(times)


@dataclass(frozen=True)
class _Partial:
    """Stages of a prefix, as a list from the last one back."""

    total: float
    slowest: float
    stage: Stage | None
    before: "_Partial | None"


def cut(work: Work, kinds: Sequence[DeviceKind], link: Link, micro_batches: int) -> Pipeline:
    """The stages that finish a batch first.

    Args:
        work: Times and sizes of operators.
        kinds: Devices; each runs at most one stage.
        link: Between any two devices.
        micro_batches: Parts that the batch is cut into.

    Returns:
        The best pipeline; of equals the one with the fewest stages.

    Raises:
        InputError: The parameters do not fit into the devices' memories, however they are cut, or there are no
            micro-batches.
    """
    if micro_batches < 1:
        raise InputError(f"micro-batches: got {micro_batches}, allowed are 1 and more")
    count = len(work.weight_bytes)
    none = tuple(0 for _ in kinds)
    fronts: list[dict[Counts, list[_Partial]]] = [{} for _ in range(count + 1)]
    fronts[0][none] = [_Partial(0.0, 0.0, None, None)]
    for first in range(count):
        for used, partials in fronts[first].items():
            for stage, counts in _stages_from(first, used, work, kinds, link):
                front = fronts[stage.end].setdefault(counts, [])
                for partial in partials:
                    _insert(front, _extended(partial, stage))
    whole = [partial for front in fronts[count].values() for partial in front]
    if not whole:
        needed = sum(work.weight_bytes)
        raise InputError(
            f"pipeline: {needed:.6g} bytes of parameters do not fit into the devices' memories; take more devices"
        )
    pipelines = [Pipeline(_stages_of(partial), micro_batches) for partial in whole]
    return min(pipelines, key=lambda p: (p.seconds, len(p.stages), [stage.end for stage in p.stages]))


def _stages_from(
    first: int, used: Counts, work: Work, kinds: Sequence[DeviceKind], link: Link
) -> Iterator[tuple[Stage, Counts]]:
    """All stages that begin at an operator, on each kind of device that is left."""
    received = work.crossing_bytes[first]
    receive_s = link.latency_s + received / link.bandwidth_bytes_per_s if first and received else 0.0
    for kind, what in enumerate(kinds):
        if used[kind] == what.count:
            continue
        counts = (*used[:kind], used[kind] + 1, *used[kind + 1 :])
        seconds, held = receive_s, 0.0
        for end in range(first + 1, len(work.weight_bytes) + 1):
            seconds += work.seconds[kind][end - 1]
            held += work.weight_bytes[end - 1]
            if held > what.device.memory_bytes:
                break
            yield Stage(first, end, kind, seconds), counts


def _extended(partial: _Partial, stage: Stage) -> _Partial:
    return _Partial(partial.total + stage.seconds, max(partial.slowest, stage.seconds), stage, partial)


def _insert(front: list[_Partial], new: _Partial) -> None:
    """Keeps a set of pairs in which none is at least as large as another in both numbers."""
    if any(old.total <= new.total and old.slowest <= new.slowest for old in front):
        return
    front[:] = [old for old in front if not (new.total <= old.total and new.slowest <= old.slowest)]
    front.append(new)


def _stages_of(partial: _Partial | None) -> tuple[Stage, ...]:
    found: list[Stage] = []
    while partial is not None and partial.stage is not None:
        found.append(partial.stage)
        partial = partial.before
    return tuple(reversed(found))


def work_of(
    network: Network, kinds: Sequence[DeviceKind], micro_batches: int, training: bool, element_bytes: float
) -> Work:
    """What each operator takes on each kind of device.

    Args:
        network: With the whole batch.
        kinds: Devices.
        micro_batches: Parts that the batch is cut into.
        training: Whether gradients are computed: three passes over layers with weights, two over others, and the
            gradients of crossing values come back.
        element_bytes: Bytes of one number.

    Returns:
        Times and sizes.
    """
    seconds: list[list[float]] = [[] for _ in kinds]
    weights = []
    for op in network.operators:
        moved = sum(x.elements for x in op.operands) + sum(y.elements for y in op.results)
        passes = (3 if op.is_weighted else 2) if training else 1
        for row, kind in zip(seconds, kinds, strict=True):
            own = kind.device.seconds(op.macs / micro_batches, moved * element_bytes / micro_batches)
            row.append(passes * own if op.results else 0.0)
        weights.append(sum(x.elements for x in op.operands if x.role == "parameter") * element_bytes)
    both = 2 if training else 1
    crossing = [both * size * element_bytes / micro_batches for size in _crossing_elements(network)]
    return Work(tuple(tuple(row) for row in seconds), tuple(weights), tuple(crossing))


def _crossing_elements(network: Network) -> list[int]:
    """Elements that are computed before each operator and read there or later."""
    last: dict[str, int] = {}
    for edge in network.edges:
        last[edge.value] = max(last.get(edge.value, 0), edge.consumer)
    sizes: Mapping[str, tuple[int, int]] = {
        result.value: (made, result.elements) for made, op in enumerate(network.operators) for result in op.results
    }
    return [
        sum(size for name, (made, size) in sizes.items() if made < at <= last.get(name, -1))
        for at in range(len(network.operators))
    ]
