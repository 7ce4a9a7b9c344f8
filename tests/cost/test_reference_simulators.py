"""Cycles, energy and latency against points that SCALE-Sim 3.0.0 and ZigZag 3.9.1 computed."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau

from codesign.cost.array_grid import GridCost, price_grid
from codesign.cost.layer_table import Array, LayerTable
from codesign.cost.layers_csv import NamedLayer, read_layers
from codesign.hardware.profile import Dataflow
from codesign.testing.reference_arrays import CYCLE_S, PICO, scalesim_array, zigzag_array

REFERENCE = Path(__file__).parents[2] / ".." / "shared" / "reference"
SCALESIM, ZIGZAG = REFERENCE / "scalesim_cycles.csv", REFERENCE / "zigzag_energy_latency.csv"
LAYERS, TOTALS = REFERENCE / "network_layers.csv", REFERENCE / "network_cycles.csv"
DATAFLOWS: dict[str, Dataflow] = {"os": "output-stationary", "ws": "weight-stationary", "is": "input-stationary"}
SIZES = (8, 16, 32)
BUFFERS = {8: 32 << 10, 16: 128 << 10, 32: 256 << 10}


def _needs(*paths: Path) -> pytest.MarkDecorator:
    missing = [path.name for path in paths if not path.is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"needs ../shared/reference/{', '.join(missing)}")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _table(layers: tuple[NamedLayer, ...]) -> LayerTable:
    return LayerTable.of([layer.geometry for layer in layers])


@_needs(SCALESIM)
def test_every_cycle_count_is_scale_sim_s() -> None:
    rows = _rows(SCALESIM)
    grid = price_grid(_table(read_layers(SCALESIM)), [(8, 8)], [scalesim_array(size, size) for size in SIZES])
    for index, row in enumerate(rows):
        at = (index, grid.dataflows.index(DATAFLOWS[row["df"]]), SIZES.index(int(row["arr"])))
        assert grid.tables.cycles[at] == int(row["cycles"]), row
        assert 100 * grid.utilisation[at] == pytest.approx(float(row["util_pct"]), abs=0.011), row
    assert rows


@_needs(LAYERS, TOTALS)
def test_totals_of_whole_networks_are_those_of_the_same_formula() -> None:
    layers, rows = read_layers(LAYERS), _rows(TOTALS)
    grid = price_grid(_table(layers), [(8, 8)], [scalesim_array(size, size) for size in SIZES])
    for row in rows:
        mine = [index for index, layer in enumerate(layers) if layer.network == row["net"]]
        cycles = grid.tables.cycles[mine][:, :2, SIZES.index(int(row["arr"]))]
        totals = [*cycles.sum(axis=0).astype(int), int(cycles.min(axis=1).sum())]
        assert totals == [int(row[key]) for key in ("OS_cycles", "WS_cycles", "hybrid_cycles")], row
    assert rows


def _zigzag() -> tuple[list[dict[str, str]], GridCost, list[NDArray[np.intp]]]:
    """Rows, the grid of their layers, and the place of each row in it."""
    rows = _rows(ZIGZAG)
    by_name = {layer.name: layer for layer in read_layers(LAYERS)}
    layers = tuple(by_name[f"{row['net']}/{row['layer']}"] for row in rows)
    grid = price_grid(_table(layers), [(8, 8)], [zigzag_array(size, BUFFERS[size]) for size in SIZES])
    dataflow = np.asarray([grid.dataflows.index(DATAFLOWS[row["df"]]) for row in rows])
    design = np.asarray([SIZES.index(int(row["arr"])) for row in rows])
    return rows, grid, [np.arange(len(rows)), dataflow, design]


def _column(rows: list[dict[str, str]], key: str) -> Array:
    return np.asarray([float(row[key]) for row in rows])


@_needs(LAYERS, ZIGZAG)
def test_energy_latency_and_choice_of_dataflow_agree_with_zigzag() -> None:
    rows, grid, (layer, dataflow, design) = _zigzag()
    assert (grid.tables.cycles[layer, dataflow, design] == _column(rows, "zz_compute")).all()
    ours = {
        "zz_energy_pJ": grid.energy_j[layer, 0, dataflow, design, 0] / PICO,
        "zz_latency": grid.latency_s[layer, 0, dataflow, design, 0] / CYCLE_S,
    }
    for key, largest_mape, least_tau in (("zz_energy_pJ", 0.03, 0.98), ("zz_latency", 0.06, 0.95)):
        theirs = _column(rows, key)
        assert np.abs(ours[key] / theirs - 1).mean() <= largest_mape
        assert kendalltau(ours[key], theirs).statistic >= least_tau
        places = sorted(range(len(rows)), key=lambda index: (rows[index]["uid"], rows[index]["arr"]))
        grouped = itertools.groupby(places, key=lambda index: (rows[index]["uid"], rows[index]["arr"]))
        pairs = [list(group) for _, group in grouped]
        regrets = [
            theirs[min(pair, key=ours[key].__getitem__)] / min(theirs[pair]) - 1 for pair in pairs if len(pair) > 1
        ]
        assert len(regrets) > 50
        assert np.mean(regrets) <= 0.01
