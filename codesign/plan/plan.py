"""What was decided, as immutable values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from codesign.files import digest_of
from codesign.quantization.scheme import BitWidths


@dataclass(frozen=True)
class Plan:
    """A complete decision for one network.

    Attributes:
        architecture: Name of the architecture variant.
        bits: Node name and widths of every node with a weight, in the order of the graph.
        placement: Node name and place of every node, such as the name of a device, in the order of the graph; empty
            where there is one device.
    """

    architecture: str
    bits: tuple[tuple[str, BitWidths], ...]
    placement: tuple[tuple[str, str], ...] = ()

    @property
    def bits_of(self) -> Mapping[str, BitWidths]:
        """Widths by node name."""
        return dict(self.bits)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the plan."""
        return digest_of(self.to_json())[:12]

    def to_json(self) -> dict[str, object]:
        """The plan as JSON values."""
        bits = {name: {"weight": b.weight, "activation": b.activation} for name, b in self.bits}
        placed: dict[str, object] = {"placement": dict(self.placement)} if self.placement else {}
        return {"architecture": self.architecture, "bits": bits, **placed}

    def with_bits(self, name: str, bits: BitWidths) -> "Plan":
        """The same plan with one node changed.

        Args:
            name: Node name.
            bits: Its new widths.

        Returns:
            The changed plan.
        """
        return replace(self, bits=tuple((n, bits if n == name else b) for n, b in self.bits))


def plan_from_json(value: Mapping[str, object]) -> Plan:
    """The inverse of `Plan.to_json`.

    Args:
        value: What `to_json` returned.

    Returns:
        The plan.
    """
    table = value["bits"]
    assert isinstance(table, Mapping)
    bits = tuple((str(name), BitWidths(int(b["weight"]), int(b["activation"]))) for name, b in table.items())
    places = value.get("placement", {})
    assert isinstance(places, Mapping)
    return Plan(str(value["architecture"]), bits, tuple((str(name), str(place)) for name, place in places.items()))


@dataclass(frozen=True)
class Cost:
    """What one run of a network costs.

    Attributes:
        latency_s: Seconds.
        energy_j: Joules.
        peak_memory_bytes: Largest sum over the schedule of live activations.
        weight_bytes: All weights as packed at their widths, with scales and biases.
        bops: Bit operations: sum of MACs x weight bits x activation bits.
    """

    latency_s: float
    energy_j: float
    peak_memory_bytes: int
    weight_bytes: int
    bops: float

    @property
    def power_w(self) -> float:
        """Mean power in watts while the network runs."""
        return self.energy_j / self.latency_s if self.latency_s else 0.0
