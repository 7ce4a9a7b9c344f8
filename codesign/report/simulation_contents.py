"""What a simulation found, as immutable values that the page, the table and the JSON file are made from."""

import math
from dataclasses import dataclass

from codesign.cost.layer_report import LayerReport
from codesign.hardware.profile import HardwareProfile
from codesign.ir.annotations import Provenance
from codesign.quantization.scheme import Widths


@dataclass(frozen=True)
class SimulationResult:
    """What was found.

    Attributes:
        source: The network or table.
        network: The only one of the table that was taken; None for all.
        profile: The device as it was priced.
        provenance: What cycles, utilisation and latency are.
        widths: Of weights and activations.
        layers: Everything that takes time, at least one, in the order of the input.
    """

    source: str
    network: str | None
    profile: HardwareProfile
    provenance: Provenance
    widths: Widths
    layers: tuple[LayerReport, ...]

    @property
    def energy_provenance(self) -> Provenance:
        """What energy and traffic are: a calibration measures time alone."""
        return "estimated" if self.provenance == "calibrated" else self.provenance

    @property
    def title(self) -> str:
        """What was priced."""
        return self.source if self.network is None else f"{self.network} of {self.source}"

    @property
    def device(self) -> str:
        """The profile's name, with size and kind of its array."""
        array = self.profile.array
        return self.profile.name + ("" if array is None else f", {array.rows}x{array.columns} {array.kind} array")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def cycles(self) -> float | None:
        """Cycles that the array is busy; None without an array."""
        if self.profile.array is None:
            return None
        return math.fsum(layer.cycles for layer in self.layers if layer.cycles is not None)

    @property
    def utilisation(self) -> float:
        """Multiply-accumulates by what the peak would have done in the time that each layer's utilisation counts."""
        possible = math.fsum(layer.macs / layer.utilisation for layer in self.layers if layer.utilisation)
        return self.macs / possible if possible else 0.0

    @property
    def latency_s(self) -> float:
        """Seconds of all layers, one after the other."""
        return math.fsum(layer.latency_s for layer in self.layers)

    @property
    def energy_j(self) -> float:
        """Joules of all layers."""
        return math.fsum(layer.energy_j for layer in self.layers)

    @property
    def traffic_bytes(self) -> dict[str, float]:
        """Read and written at each memory level by all layers."""
        names = [level.name for level in self.profile.memories]
        return {name: math.fsum(layer.traffic_bytes[name] for layer in self.layers) for name in names}

    def to_json(self) -> dict[str, object]:
        """The result as values that JSON holds.

        Returns:
            Layers in the order of the input; totals under the same keys; the device with what of it is not verified;
            and `details` of the layers, in the same order.
        """
        return {
            "source": self.source,
            "network": self.network,
            "profile": self.profile.name,
            "array": None if self.profile.array is None else self.profile.array.model_dump(mode="json"),
            "unverified": list(self.profile.unverified),
            "provenance": self.provenance,
            "energy_provenance": self.energy_provenance,
            "weight_bits": self.widths.weight,
            "activation_bits": self.widths.activation,
            "layers": [{"name": layer.name, **_costs(layer)} for layer in self.layers],
            "details": [_details(layer) for layer in self.layers],
            "totals": {"macs": self.macs, **_costs(self)},
        }


def _costs(found: LayerReport | SimulationResult) -> dict[str, object]:
    costs: dict[str, object] = {
        "cycles": found.cycles,
        "utilisation": found.utilisation,
        "latency_s": found.latency_s,
        "energy_j": found.energy_j,
        "traffic_bytes": dict(found.traffic_bytes),
    }
    return costs | ({"bound": found.bound} if isinstance(found, LayerReport) else {})


def _details(layer: LayerReport) -> dict[str, object]:
    return {
        "operator": layer.op_type,
        "macs": layer.macs,
        "dataflow": layer.dataflow,
        "weight_bits": None if layer.widths is None else layer.widths.weight,
        "activation_bits": None if layer.widths is None else layer.widths.activation,
        "energy_by_part_j": dict(layer.energy_by_part_j),
    }
