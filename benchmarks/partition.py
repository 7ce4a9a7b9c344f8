"""The bars of placements: the published table, the optimum, planning time, execution, and two real processes.

    python benchmarks/partition.py [--only PART ...] [--plans N] [--json F]

Parts: `table`, `planning`, `execution`, `processes`. Execution compares random legal plans on four local processes with
one process, in float64; `processes` times plans on two processes with a link calibrated just before.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from curvature_setup import Bar, Part, print_table
from partition_execution import execution, processes
from torch import nn

from codesign.files import write_json
from codesign.flow.build import machine
from codesign.flow.prepare import versions
from codesign.ir.lowering import lower_module
from codesign.partition.graph_network import network_of
from codesign.partition.layers_csv import read_layers
from codesign.partition.mesh import Link, Mesh, MeshAxis, grid_of_devices, parse_mesh
from codesign.partition.modes import Mode
from codesign.partition.network import Network
from codesign.partition.objective import Objective
from codesign.partition.planner import plan
from codesign.partition.strategies import Pricing

EXAMPLES = Path(__file__).parent.parent / "examples"
CORI = Link(2e-6, 6e9)
"""Gholami et al., SPAA 2018: alpha 2 us, 6 GB/s."""
PUBLISHED = {
    8: ("72.9", "72.9", "1.00", "36.8", "2.0"),
    32: ("80.7", "80.7", "1.00", "25.5", "3.2"),
    128: ("82.7", "53.8", "1.54", "16.5", "5.0"),
    256: ("83.1", "39.6", "2.10", "13.4", "6.2"),
    512: ("83.3", "30.4", "2.74", "11.2", "7.4"),
}
"""AlexNet, B = 2048: P, then ms of pure batch and of one grid, their ratio, ms of dense on a grid, ratio."""


class Bottleneck(nn.Module):
    """ResNet-50's block."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, stride, padding=1), nn.ReLU()),
            nn.Conv2d(width, outputs, 1),
        )
        is_same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if is_same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        return torch.relu(self.layers(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 for ImageNet, BatchNorm folded."""
    blocks: list[nn.Module] = []
    inputs = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    stem = (nn.Conv2d(3, 64, 7, 2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)).eval()


def milliseconds(network: Network, devices: int, mode: Mode, redistribution: bool) -> float:
    """Communication of one step by the paper's count."""
    mesh = grid_of_devices(devices, CORI)
    pricing = Pricing(mesh, True, Objective(1.0), halo_of_gradient=not redistribution, idle=True)
    found = plan(network, pricing, mode, redistribution)
    assert found is not None
    return found.price.seconds * 1e3


def table() -> Part:
    """The published table, without and with redistribution."""
    part, ratio_of_optimum = Part(), 0.0
    modes: tuple[Mode, ...] = ("batch", "grid", "dense-grid", "optimal")
    for title, path in (("ungrouped", "alexnet.csv"), ("grouped", "alexnet_grouped.csv")):
        network = read_layers(EXAMPLES / path, 2048)
        rows = []
        for devices, printed in PUBLISHED.items():  # the last row is P = 512
            found = {(m, r): milliseconds(network, devices, m, r) for m in modes for r in (False, True)}
            batch, grid, dense, best = (found[mode, False] for mode in modes)
            ratio_of_optimum = batch / best
            shown = (f"{batch:.1f}", f"{grid:.1f}", f"{batch / grid:.2f}", f"{dense:.1f}", f"{batch / dense:.1f}")
            counted = [found[mode, True] for mode in modes]
            rows.append([
                devices, *shown, f"{best:.1f}", f"{batch / best:.2f}",
                *(f"{value:.1f}" for value in counted), f"{counted[0] / counted[3]:.2f}",
            ])  # fmt: skip
            if title == "ungrouped":
                part.bars.append(
                    Bar(f"digits of the table that differ, P = {devices}", _differing(shown, printed), most=0)
                )
        name = f"AlexNet, {title}, B = 2048, ms a step; left without redistribution, right with it"
        head = (
            "P",
            "batch",
            "grid",
            "x",
            "dense-grid",
            "x",
            "optimal",
            "x",
            "batch",
            "grid",
            "dense-grid",
            "optimal",
            "x",
        )
        print_table(name, head, [[str(cell) for cell in row] for row in rows])
        part.numbers[title] = rows
    part.bars.append(Bar("grouped, P = 512: pure batch over optimum, paper's count", ratio_of_optimum, least=9.0))
    return part


def _differing(shown: tuple[str, ...], printed: tuple[str, ...]) -> float:
    return float(sum(a != b for a, b in zip(shown, printed, strict=True)))


def planning() -> Part:
    """ResNet-50 on 16 x 32, and time against layers and axes."""
    part = Part()
    program = lower_module(resnet50(), (1, 3, 224, 224))
    network = network_of(program, 512, "ResNet-50")
    pricing = Pricing(parse_mesh("data=16,model=32", CORI), True, Objective(1.0))
    started = time.perf_counter()
    found = plan(network, pricing)
    seconds = time.perf_counter() - started
    assert found is not None
    part.bars.append(Bar("ResNet-50 on 16 x 32, training: seconds to plan", seconds, most=5.0))
    part.bars.append(Bar("the same: gap", found.gap, most=0.0))
    rows = []
    for axes in (1, 2, 3):
        for layers in (8, 16, 32, 64):
            mesh = Mesh(tuple(MeshAxis(f"a{i}", 4, CORI) for i in range(axes)))
            chain = lower_module(_chain(layers), (1, 16, 16, 16))
            net = network_of(chain, 512, "chain")
            started = time.perf_counter()
            result = plan(net, Pricing(mesh, True, Objective(1.0)))
            assert result is not None
            rows.append([layers, axes, time.perf_counter() - started, result.method, result.gap])
    print_table("Seconds to plan a chain of convolutions", ("layers", "mesh axes", "seconds", "method", "gap"), rows)
    part.numbers["planning"] = rows
    return part


def _chain(layers: int) -> nn.Module:
    blocks = [layer for _ in range(layers) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*blocks).eval()


def main() -> None:
    """Prints tables and bars, and writes them as JSON."""
    parts: Mapping[str, Callable[[argparse.Namespace], Part]] = {
        "table": lambda _: table(),
        "planning": lambda _: planning(),
        "execution": lambda options: execution(options.plans),
        "processes": lambda options: processes(options.rounds),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(parts), default=tuple(parts))
    parser.add_argument("--plans", type=int, default=30, help="random plans a network")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each timed plan")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{machine()}; {versions()}")
    found = {name: run(options) for name, run in parts.items() if name in options.only}
    print()
    for part in found.values():
        for bar in part.bars:
            print(bar)
    if options.json is not None:
        shown = {name: {"bars": [bar.to_json() for bar in p.bars], **p.numbers} for name, p in found.items()}
        write_json(options.json, {"machine": machine(), "versions": versions(), "parts": shown})


if __name__ == "__main__":
    main()
