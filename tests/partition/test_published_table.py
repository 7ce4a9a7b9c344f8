"""The formulas of Gholami et al. (SPAA 2018) are special cases of the general rules; the table comes out of them."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.partition.layers_csv import read_layers
from codesign.partition.mesh import Link, divisors, grid_of_devices
from codesign.partition.modes import Mode
from codesign.partition.network import Network
from codesign.partition.objective import Objective
from codesign.partition.options import layer_option
from codesign.partition.planner import Planned, plan
from codesign.partition.strategies import Pricing, Strategy, strategy

ALPHA, BETA = 2e-6, 4 / 6e9
MESSAGE = Link(ALPHA, 6e9)


@cache
def pricing(devices: int) -> Pricing:
    mesh = grid_of_devices(devices, MESSAGE)
    return Pricing(mesh, True, Objective(1.0), 4.0, halo_of_gradient=True, idle=True)


def lg(devices: int) -> int:
    return math.ceil(math.log2(devices))


@dataclass(frozen=True)
class Sizes:
    weights: int
    inputs: int
    outputs: int


def sizes_of(network: Network) -> list[Sizes]:
    weighted = [op for op in network.operators if op.is_weighted]
    return [
        Sizes(
            op.operands[1].elements, op.operands[0].elements // network.batch, op.results[0].elements // network.batch
        )
        for op in weighted
    ]


def integrated(layer: Sizes, is_first: bool, batch: int, rows: int, columns: int) -> float:
    """Section 4.2's 1.5-D formula, one layer's terms."""
    forward = ALPHA * lg(rows) + BETA * batch / columns * (rows - 1) / rows * layer.outputs
    backward = 2 * (ALPHA * lg(rows) + BETA * batch / columns * (rows - 1) / rows * layer.inputs)
    weights = 2 * (ALPHA * lg(columns) + BETA * (columns - 1) / columns * layer.weights / rows)
    return forward + (0.0 if is_first else backward) + weights


def domain(network: Network, position: int, rows: int, columns: int) -> float:
    """Section 4.2's domain terms of one layer, with samples over columns; the first layer sends back nothing."""
    op = network.operators[position]
    (_, x_channels, _, x_width), (_, y_channels, _, y_width) = op.operands[0].shape, op.results[0].shape
    window = op.loop_of["height"].window
    assert window is not None
    reach, batch, devices = window.kernel // 2, network.batch / columns, rows * columns
    halos = (
        2 * ALPHA + BETA * batch * reach * (x_width * x_channels + y_width * y_channels) if reach and rows > 1 else 0.0
    )
    return halos + 2 * (ALPHA * lg(devices) + BETA * (devices - 1) / devices * op.operands[1].elements)


def counted(network: Network, item: Strategy, devices: int, position: int) -> float:
    op = network.operators[position]
    return layer_option(op, item, pricing(devices), network.source).price.seconds


def test_the_integrated_formula_holds_for_every_layer_and_grid(alexnet: Path, alexnet_grouped: Path) -> None:
    for path in (alexnet, alexnet_grouped):
        network = read_layers(path, 768)
        weighted = [i for i, op in enumerate(network.operators) if op.is_weighted]
        for devices in (6, 32):
            for rows in divisors(devices):
                item = strategy((devices // rows, rows), ("batch", "out"))
                for position, layer in zip(weighted, sizes_of(network), strict=True):
                    expected = integrated(layer, position == 0, 768, rows, devices // rows)
                    assert counted(network, item, devices, position) == pytest.approx(expected, rel=1e-12)


def test_pure_batch_and_pure_model_are_its_ends(alexnet: Path) -> None:
    network, devices = read_layers(alexnet, 2048), 64
    layers = sizes_of(network)
    batch = 2 * math.fsum(ALPHA * lg(64) + BETA * 63 / 64 * layer.weights for layer in layers)
    model = math.fsum(ALPHA * lg(64) + BETA * 2048 * 63 / 64 * layer.outputs for layer in layers)
    model += 2 * math.fsum(ALPHA * lg(64) + BETA * 2048 * 63 / 64 * layer.inputs for layer in layers[1:])
    for found, expected in ((planned(network, devices, "batch"), batch), (planned(network, devices, "model"), model)):
        assert found.price.seconds == pytest.approx(expected, rel=1e-12)


def test_the_domain_formula_holds_for_convolutions(alexnet: Path) -> None:
    network = read_layers(alexnet, 64)
    for rows, columns in ((4, 1), (2, 8), (1, 16)):
        item = strategy((columns, rows), ("batch", "height"))
        for position, op in enumerate(network.operators):
            if op.kind == "Conv":
                expected = domain(network, position, rows, columns)
                assert counted(network, item, rows * columns, position) == pytest.approx(expected, rel=1e-12)


PUBLISHED = {  # P: pure batch ms, one grid ms, ratio, dense on a grid ms, ratio
    8: ("72.9", "72.9", "1.00", "36.8", "2.0"),
    32: ("80.7", "80.7", "1.00", "25.5", "3.2"),
    128: ("82.7", "53.8", "1.54", "16.5", "5.0"),
    256: ("83.1", "39.6", "2.10", "13.4", "6.2"),
    512: ("83.3", "30.4", "2.74", "11.2", "7.4"),
}


def planned(network: Network, devices: int, mode: Mode, redistribution: bool = False) -> Planned:
    found = plan(network, pricing(devices), mode, redistribution)
    assert found is not None
    return found


@pytest.mark.parametrize("devices", PUBLISHED)
def test_the_table_comes_out_to_the_printed_digits(alexnet: Path, devices: int) -> None:
    network = read_layers(alexnet, 2048)
    batch, grid, dense = (planned(network, devices, m).price.seconds for m in ("batch", "grid", "dense-grid"))
    shown = (
        f"{batch * 1e3:.1f}",
        f"{grid * 1e3:.1f}",
        f"{batch / grid:.2f}",
        f"{dense * 1e3:.1f}",
        f"{batch / dense:.1f}",
    )
    assert shown == PUBLISHED[devices]


def test_with_groups_the_optimum_is_nine_times_faster(alexnet_grouped: Path) -> None:
    network = read_layers(alexnet_grouped, 2048)
    assert sum(layer.weights for layer in sizes_of(network)) == 60_954_656
    batch = planned(network, 512, "batch").price.seconds
    assert f"{batch / planned(network, 512, 'grid').price.seconds:.2f}" == "2.72"
    assert f"{batch / planned(network, 512, 'dense-grid').price.seconds:.1f}" == "8.7"
    assert batch / planned(network, 512, "optimal").price.seconds >= 9.0


@settings(max_examples=15, deadline=None)
@given(devices=st.sampled_from([2, 6, 12, 64]), batch=st.integers(64, 3000))
def test_modes_match_the_formulas_for_other_sizes(alexnet_grouped: Path, devices: int, batch: int) -> None:
    network = read_layers(alexnet_grouped, batch)
    layers = sizes_of(network)
    by_grid = {
        rows: [integrated(layer, i == 0, batch, rows, devices // rows) for i, layer in enumerate(layers)]
        for rows in divisors(devices)
    }
    assert planned(network, devices, "grid").price.seconds == pytest.approx(
        min(map(math.fsum, by_grid.values())), rel=1e-12
    )
    dense = min(math.fsum([*by_grid[1][:5], *terms[5:]]) for terms in by_grid.values())
    assert planned(network, devices, "dense-grid").price.seconds == pytest.approx(dense, rel=1e-12)
    per_layer = math.fsum(min(terms[i] for terms in by_grid.values()) for i in range(8))
    assert planned(network, devices, "optimal").price.seconds <= per_layer * (1 + 1e-12)


def test_redistribution_between_grids_is_counted_on_top(alexnet: Path) -> None:
    network = read_layers(alexnet, 2048)
    modes: tuple[Mode, ...] = ("batch", "model", "grid")
    for mode in modes:
        assert planned(network, 32, mode, True).price.seconds == planned(network, 32, mode).price.seconds
    more = planned(network, 32, "dense-grid", True).price.seconds - planned(network, 32, "dense-grid").price.seconds
    rows = 8  # the best grid, 8 x 4
    gathered = BETA * 2048 / 4 * 9216 * (rows - 1) / rows + ALPHA * lg(rows)
    scattered = 0.0  # whole rows of the gradient are cut without communication
    assert more == pytest.approx(gathered + scattered, rel=1e-9)
