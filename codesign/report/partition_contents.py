"""What planning a placement found, as immutable values that the page, the table and the JSON file are made from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.partition.mesh import Mesh
from codesign.partition.modes import Mode
from codesign.partition.network import Network
from codesign.partition.objective import Goal, Price
from codesign.partition.pipeline_stages import Pipeline
from codesign.partition.planner import Planned
from codesign.partition.strategies import Strategy
from codesign.report.quantities import seconds as shown_seconds

HIDDEN = frozenset({"Between", "Output"})
"""Steps that are no layers of the network; what they take counts with the layer beside them."""


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: Of the layer.
        placement: How it is shared out, such as `batch=16 out=32`.
        price: What it takes, changes of layout of its operands included.
    """

    name: str
    placement: str
    price: Price


@dataclass(frozen=True)
class ScalingPoint:
    """Times on some number of devices.

    Attributes:
        devices: How many.
        seconds: By mode; None where the mode is impossible.
    """

    devices: int
    seconds: Mapping[Mode, float | None]


@dataclass(frozen=True)
class PartitionResult:
    """What was found.

    Attributes:
        source: The network or table.
        network: With its batch.
        mesh: The devices.
        goal: What was minimised.
        redistribution: Whether changes of layout between layers count.
        with_compute: Whether computing counts, or communication alone.
        plans: By mode; None where the mode is impossible.
        mode: Which plan is shown layer by layer.
        pipeline: The best stages and the device of each, where asked for.
        scaling: Times over numbers of devices, where asked for.
    """

    source: str
    network: Network
    mesh: Mesh
    goal: Goal
    redistribution: bool
    with_compute: bool
    plans: Mapping[Mode, Planned | None]
    mode: Mode
    pipeline: tuple[Pipeline, tuple[str, ...]] | None
    scaling: tuple[ScalingPoint, ...]

    @property
    def chosen(self) -> Planned:
        """The plan that is shown layer by layer."""
        found = self.plans[self.mode]
        assert found is not None
        return found

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        """The layers of the chosen plan; their prices add up to the whole."""
        rows: list[LayerRow] = []
        waiting = Price()
        for op, placed in zip(self.network.operators, self.chosen.operators, strict=True):
            if op.kind not in HIDDEN:
                rows.append(LayerRow(placed.name, placement_text(placed.option.strategy), waiting + placed.price))
                waiting = Price()
            else:
                waiting += placed.price
        last = rows[-1]
        return (*rows[:-1], LayerRow(last.name, last.placement, last.price + waiting))

    @property
    def devices_text(self) -> str:
        """The devices in words."""
        if self.mesh.free:
            return f"{self.mesh.devices} devices, a grid of its own for each layer"
        return " x ".join(f"{axis.name}={axis.size}" for axis in self.mesh.axes)

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        chosen = self.chosen
        return {
            "model": self.source,
            "devices": self.mesh.devices,
            "mesh": {axis.name: axis.size for axis in self.mesh.axes},
            "batch": self.network.batch,
            "objective": self.goal,
            "redistribution": self.redistribution,
            "provenance": "simulated",
            "mode": self.mode,
            "layers": [
                {
                    "name": row.name,
                    "placement": row.placement,
                    "bytes": row.price.traffic.bytes,
                    "seconds": row.price.seconds,
                    "compute_seconds": row.price.compute_s,
                }
                for row in self.layers
            ],
            "totals": {mode: None if p is None else p.price.seconds for mode, p in self.plans.items()},
            "energy_j": {mode: None if p is None else p.price.energy_j for mode, p in self.plans.items()},
            "memory_bytes": {mode: None if p is None else p.price.memory_bytes for mode, p in self.plans.items()},
            "gap": chosen.gap,
            "method": chosen.method,
            "planning_seconds": math.fsum(p.seconds for p in self.plans.values() if p is not None),
            "pipeline": None if self.pipeline is None else self._pipeline_json(*self.pipeline),
            "scaling": [{"devices": p.devices, "seconds": dict(p.seconds)} for p in self.scaling],
        }

    def _pipeline_json(self, pipeline: Pipeline, devices: tuple[str, ...]) -> dict[str, object]:
        names = [op.name for op in self.network.operators]
        return {
            "micro_batches": pipeline.micro_batches,
            "seconds": pipeline.seconds,
            "stages": [
                {
                    "device": device,
                    "first": names[stage.first],
                    "last": names[min(stage.end, len(names) - 1) - (stage.end == len(names))],
                    "seconds": stage.seconds,
                }
                for stage, device in zip(pipeline.stages, devices, strict=True)
            ],
        }


def placement_text(strategy: Strategy) -> str:
    """A strategy in words.

    Args:
        strategy: How an operator is shared out.

    Returns:
        Such as `batch=16 out=32`, the most significant digit first.
    """
    return (
        " ".join(f"{loop or 'same'}={parts}" for parts, loop in zip(strategy.parts, strategy.loops, strict=True))
        or "one device"
    )


def ratio_text(value: float | None, best: float) -> str:
    """A time with its ratio to the best.

    Args:
        value: Seconds; None where a mode is impossible.
        best: Seconds of the best plan.

    Returns:
        Such as `11.2 ms (1.63 x)`.
    """
    if value is None:
        return "impossible"
    return shown_seconds(value) + (f" ({value / best:.2f} x)" if best > 0 else "")
