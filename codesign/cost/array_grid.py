"""Latency and energy of every combination of layer, widths, dataflow, array design and DRAM bandwidth.

    latency_s = max(DRAM bytes / bandwidth, buffer bytes / its bandwidth, busy + exposed bytes / bandwidth) + dispatch
    energy_j  = MACs e_mac + register bytes e_rf + buffer bytes e_buffer + DRAM bytes e_dram + idle power x latency

Exposed bytes are 0 where transfers are double-buffered. Feature maps go through DRAM between layers. Of several tilings
the one that is best by the objective is taken, at every point by itself.

With double-buffered designs and `fitted` folds, more bandwidth, a larger buffer, more rows or columns, or fewer bits at
the same rate never raise the objective. In the load-compute-store convention a larger buffer may be slower: tiles grow,
and nothing hides the first one. With `whole` folds a larger skewed array may be slower on small layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codesign.cost.array_tables import ArrayTables, Bits, array_of, array_tables
from codesign.cost.layer_table import Array, LayerTable
from codesign.errors import InputError
from codesign.hardware.profile import DATAFLOWS, Dataflow, HardwareProfile

Objective = Literal["latency", "energy"]


@dataclass(frozen=True)
class GridCost:
    """Costs of all groups of each layer; "points" is `[layers, pairs, dataflows, designs, bandwidths]`.

    Latency and energy are infinite where a design does not offer the dataflow or its buffer does not hold a tile.

    Attributes:
        layers: The layers.
        bits: Pairs of widths.
        dataflows: Dataflows.
        designs: Devices.
        bandwidths_bytes_per_s: Of DRAM, `[designs, bandwidths]`.
        tables: What was combined.
        latency_s: Seconds, points.
        energy_j: Joules, points.
        alternative: Which tiling was taken, points.
    """

    layers: LayerTable
    bits: tuple[Bits, ...]
    dataflows: tuple[Dataflow, ...]
    designs: tuple[HardwareProfile, ...]
    bandwidths_bytes_per_s: Array
    tables: ArrayTables
    latency_s: Array
    energy_j: Array
    alternative: NDArray[np.int8]

    @property
    def dram_bytes(self) -> Array:
        """Traffic of DRAM, points."""
        return self._taken(self.tables.dram_bytes)

    @property
    def buffer_bytes(self) -> Array:
        """Traffic of the global buffer, points."""
        return self._taken(self.tables.buffer_bytes)

    @property
    def utilisation(self) -> Array:
        """Share of the native peak that a layer reaches while the array is busy, `[layers, dataflows, designs]`.

        SCALE-Sim counts the same share. 0 where the dataflow is not offered.
        """
        elements = np.asarray([array_of(design).rows * array_of(design).columns for design in self.designs])
        work = (self.layers.groups * self.layers.macs)[:, None, None]
        return np.asarray(work / np.maximum(self.tables.cycles, 1.0) / elements)

    @property
    def energy_by_level(self) -> dict[str, Array]:
        """Joules of `compute`, the memory levels `register`, `buffer`, `dram`, and `static` power, points."""
        energies = _Energies.of(self.layers, self.bits, self.designs)
        register_j = self.tables.register_bytes * energies.register
        parts = {
            "compute": energies.arithmetic[..., None],
            "register": register_j[..., None],
            "buffer": self.buffer_bytes * energies.buffer[:, None],
            "dram": self.dram_bytes * energies.dram[:, None],
            "static": energies.idle_power_w[:, None] * self.latency_s,
        }
        return {name: np.broadcast_to(part, self.latency_s.shape) for name, part in parts.items()}

    @property
    def bound(self) -> NDArray[np.int8]:
        """What limits the latency, points: 0 `compute`, 1 the global buffer, 2 DRAM."""
        inverse = 1 / self.bandwidths_bytes_per_s
        exposed = self._taken(self.tables.exposed_bytes)
        parts = [
            np.broadcast_to(self.tables.compute_s[..., None], self.latency_s.shape),
            self.buffer_bytes / _per_design(self.designs, 1)[:, None],
            np.maximum(self.dram_bytes, exposed) * inverse,
        ]
        return np.asarray(np.argmax(np.stack(parts), axis=0), np.int8)

    def best_dataflow(self, objective: Objective = "latency") -> NDArray[np.intp]:
        """The dataflow that is best by an objective; the other one breaks ties.

        Args:
            objective: What to minimise.

        Returns:
            Index into `dataflows`, `[layers, pairs, designs, bandwidths]`.
        """
        first, second = self.latency_s, self.energy_j
        if objective == "energy":
            first, second = second, first
        is_least = first == first.min(axis=2, keepdims=True)
        return np.asarray(np.argmin(np.where(is_least, second, np.inf), axis=2))

    def _taken(self, table: Array) -> Array:
        return np.asarray(np.take_along_axis(table[..., None], self.alternative[None].astype(np.intp), axis=0)[0])


def price_grid(
    layers: LayerTable,
    bits: Sequence[Bits],
    designs: Sequence[HardwareProfile],
    bandwidths_bytes_per_s: Sequence[float] | None = None,
    dataflows: Sequence[Dataflow] | None = None,
    objective: Objective = "latency",
) -> GridCost:
    """Prices every combination.

    Args:
        layers: The layers.
        bits: Pairs of widths.
        designs: Devices with arrays.
        bandwidths_bytes_per_s: DRAM bandwidths to try with every design; None for each design's own.
        dataflows: Dataflows to try; None for all that some design offers.
        objective: What the tiling of each point minimises first; the other breaks ties.

    Returns:
        The costs.

    Raises:
        InputError: There is nothing to price, a bandwidth is not above 0, or a design has no rate for a pair of widths.
    """
    if not (len(layers) and len(bits) and len(designs)):
        raise InputError("nothing to price: give at least one layer, one pair of widths and one design")
    if dataflows is None:
        offered = {dataflow for design in designs for dataflow in array_of(design).dataflows}
        dataflows = [dataflow for dataflow in DATAFLOWS["skewed"] if dataflow in offered]
    bandwidths = _bandwidths(designs, bandwidths_bytes_per_s)
    tables = array_tables(layers, bits, dataflows, designs)
    energies = _Energies.of(layers, bits, designs)
    best = _Combination.of(tables, energies, designs, bandwidths).best(objective)
    return GridCost(layers, tuple(bits), tuple(dataflows), tuple(designs), bandwidths, tables, *best)


@dataclass(frozen=True)
class _Energies:
    """Energies of designs.

    Attributes:
        arithmetic: Joules of a layer's multiply-accumulates, `[layers, pairs, 1, designs]`.
        register: Joules a byte, `[designs]`.
        buffer: Joules a byte, `[designs]`.
        dram: Joules a byte, `[designs]`.
        idle_power_w: Watts, `[designs]`.
    """

    arithmetic: Array
    register: Array
    buffer: Array
    dram: Array
    idle_power_w: Array

    @classmethod
    def of(cls, layers: LayerTable, bits: Sequence[Bits], designs: Sequence[HardwareProfile]) -> "_Energies":
        per_mac = np.asarray([[design.rate(*pair).energy_j_per_mac for design in designs] for pair in bits])
        levels = np.asarray([[level.energy_j_per_byte for level in design.memories] for design in designs]).T
        work = (layers.groups * layers.macs)[:, None, None, None]
        idle = np.asarray([design.idle_power_w for design in designs])
        return cls(work * per_mac[:, None], levels[0], levels[1], levels[2], idle)


@dataclass(frozen=True)
class _Combination:
    """Tables with what they are multiplied by.

    Attributes:
        tables: Cycles and bytes.
        inverse: Seconds a byte of DRAM, `[designs, bandwidths]`.
        buffer_s: Seconds of the global buffer's traffic, `[alternatives, layers, pairs, dataflows, designs]`.
        on_chip_j: Joules without DRAM and static power, same shape.
        dispatch_s: Seconds, `[designs, 1]`.
        energies: Joules a byte.
    """

    tables: ArrayTables
    inverse: Array
    buffer_s: Array
    on_chip_j: Array
    dispatch_s: Array
    energies: _Energies

    @classmethod
    def of(
        cls, tables: ArrayTables, energies: _Energies, designs: Sequence[HardwareProfile], bandwidths: Array
    ) -> "_Combination":
        on_chip_j = energies.arithmetic + tables.register_bytes * energies.register
        return cls(
            tables,
            1 / bandwidths,
            tables.buffer_bytes / _per_design(designs, 1),
            on_chip_j + tables.buffer_bytes * energies.buffer,
            np.asarray([design.dispatch_s for design in designs])[:, None],
            energies,
        )

    def points(self, tiling: int, rows: slice | NDArray[np.intp]) -> tuple[Array, Array]:
        """Latency and energy of some layers under one of their tilings."""
        dram_bytes, busy = self.tables.dram_bytes[tiling, rows], self.tables.compute_s[rows]
        exposed_bytes = self.tables.exposed_bytes[tiling, rows]
        latency = dram_bytes[..., None] * self.inverse
        np.maximum(latency, np.maximum(busy, self.buffer_s[tiling, rows])[..., None], out=latency)
        if exposed_bytes.any():
            np.maximum(latency, busy[..., None] + exposed_bytes[..., None] * self.inverse, out=latency)
        latency += self.dispatch_s
        is_possible = np.isfinite(dram_bytes) & np.isfinite(busy)
        moving_j = np.where(is_possible, dram_bytes, 0.0) * self.energies.dram  # 0 x infinity is no number
        dynamic_j = np.where(is_possible, self.on_chip_j[tiling, rows] + moving_j, np.inf)[..., None]
        if not self.energies.idle_power_w.any():
            return latency, np.array(np.broadcast_to(dynamic_j, latency.shape))
        static_j = np.where(is_possible[..., None], latency, 0.0) * self.energies.idle_power_w[:, None]
        return latency, dynamic_j + static_j

    def best(self, objective: Objective) -> tuple[Array, Array, NDArray[np.int8]]:
        """Latency, energy and chosen tiling of every point."""
        latency, energy = self.points(0, slice(None))
        alternative = np.zeros(latency.shape, np.int8)
        for tiling in range(1, len(self.tables.dram_bytes)):
            differs = self.tables.dram_bytes[tiling] != self.tables.dram_bytes[0]
            rows = np.flatnonzero(differs.any(axis=(1, 2, 3)))
            found = self.points(tiling, rows)
            is_better = _precedes(found, (latency[rows], energy[rows]), objective)
            latency[rows] = np.where(is_better, found[0], latency[rows])
            energy[rows] = np.where(is_better, found[1], energy[rows])
            alternative[rows] = np.where(is_better, np.int8(tiling), alternative[rows])
        return latency, energy, alternative


def _precedes(first: tuple[Array, Array], second: tuple[Array, Array], objective: Objective) -> NDArray[np.bool_]:
    if objective == "energy":
        first, second = first[::-1], second[::-1]
    return np.asarray((first[0] < second[0]) | ((first[0] == second[0]) & (first[1] < second[1])))


def _bandwidths(designs: Sequence[HardwareProfile], bandwidths_bytes_per_s: Sequence[float] | None) -> Array:
    if bandwidths_bytes_per_s is None:
        return _per_design(designs, 2)[:, None]
    bandwidths = np.asarray(bandwidths_bytes_per_s, np.float64)
    if bandwidths.ndim != 1 or not bandwidths.size or not (np.isfinite(bandwidths) & (bandwidths > 0)).all():
        raise InputError(
            f"DRAM bandwidths: got {bandwidths_bytes_per_s}, each must be above 0 and finite; correct them"
        )
    return np.tile(bandwidths, (len(designs), 1))


def _per_design(designs: Sequence[HardwareProfile], level: int) -> Array:
    """Bandwidth of a memory level of each design."""
    return np.asarray([design.memories[level].bandwidth_bytes_per_s for design in designs])
