"""Layers from a CSV file, one a line.

Columns, in any order:

    layer (or name)  C  K  R  S  OH  OW  stride (or sh and sw)  [H  W]  [groups]  [net]

C and K count channels over all groups, R x S is the kernel, OH x OW the output. Without H and W the input is as large
as the windows reach: an input that is already padded. Columns that simulators write beside these are skipped; any other
is an error, because a name that is misspelt, or a property that has no part in the cost, would change it unnoticed.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import InputError, closest
from codesign.plan.facts import ConvGeometry, NodeFacts

_NEEDED = ("C", "K", "R", "S", "OH", "OW")
_OTHERS = ("layer", "name", "net", "stride", "sh", "sw", "H", "W", "groups")
_SKIPPED = frozenset({"uid", "ph", "pw", "fc", "df", "arr", "cycles", "stalls", "util_pct", "cpu_s"})
"""Identity, padding (it follows from the sizes), kind, and results of simulators."""
LARGEST = 10**6
"""Of one number; tables of tile sizes grow with it."""


@dataclass(frozen=True)
class NamedLayer:
    """A line of the file.

    Attributes:
        name: Of the layer, behind its network's and a slash where the file names networks.
        network: Network, empty where the file has no such column.
        geometry: Loop bounds.
    """

    name: str
    network: str
    geometry: ConvGeometry

    @property
    def node(self) -> NodeFacts:
        """The layer as a node of its own: a convolution without scales and biases."""
        geometry = self.geometry
        image = geometry.input_size[0] * geometry.input_size[1]
        positions = geometry.batch * geometry.output_size[0] * geometry.output_size[1]
        taps = geometry.kernel[0] * geometry.kernel[1]
        weights = taps * geometry.input_channels // geometry.groups * geometry.output_channels
        inputs, outputs = geometry.batch * geometry.input_channels * image, positions * geometry.output_channels
        return NodeFacts(
            name=self.name,
            op_type="Conv",
            macs=positions * weights,
            weight_elements=weights,
            output_channels=0,
            input_elements=inputs,
            output_elements=outputs,
            live_elements=inputs + outputs,
            geometry=geometry,
            loss_increase_nats={},
            consumers=(),
        )


def read_layers(path: Path) -> tuple[NamedLayer, ...]:
    """Reads layers.

    Args:
        path: The file.

    Returns:
        The layers, in the order of the file.

    Raises:
        InputError: The file is missing, lacks a column or has an unknown one, or holds a value that is no whole number
            above 0, or channels that groups do not divide; the message names line and column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file)
            columns = _checked_columns(reader.fieldnames or (), path)
            found = tuple(_layer(row, columns, f"{path}: line {reader.line_num}") for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); check the path and the file") from None
    if not found:
        raise InputError(f"{path}: holds no layers; add a line for each")
    return found


def _checked_columns(header: Sequence[str], path: Path) -> frozenset[str]:
    columns = frozenset(header)
    missing = [name for name in _NEEDED if name not in columns]
    if not columns & {"layer", "name"}:
        missing.append("layer (or name)")
    if "stride" not in columns and not {"sh", "sw"} <= columns:
        missing.append("stride (or sh and sw)")
    if len({"H", "W"} & columns) == 1:
        missing.append("W (beside H)" if "H" in columns else "H (beside W)")
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; it has {', '.join(sorted(columns)) or 'none'}")
    for name in header:
        if name not in _SKIPPED.union(_NEEDED, _OTHERS):
            raise InputError(
                f"{path}: line 1: column {name!r} is unknown{closest(name, (*_NEEDED, *_OTHERS))}; rename or remove it"
            )
        if header.count(name) > 1:
            raise InputError(f"{path}: line 1: column {name!r} is there twice; remove one of the two")
    return columns


def _layer(row: Mapping[str | None, str | None], columns: frozenset[str], where: str) -> NamedLayer:
    def number(column: str) -> int:
        text = (row[column] or "").strip()
        if not text.isdecimal() or len(text) > len(str(LARGEST)) or not 1 <= int(text) <= LARGEST:
            raise InputError(
                f"{where}: {column}: got {row[column]!r}, allowed are whole numbers above 0, at most {LARGEST}; "
                "correct the value"
            )
        return int(text)

    if None in row:
        raise InputError(f"{where}: holds more values than there are columns; remove what is too much")
    stride = (number("stride"),) * 2 if "stride" in columns else (number("sh"), number("sw"))
    kernel, output = (number("R"), number("S")), (number("OH"), number("OW"))
    windows = ((output[0] - 1) * stride[0] + kernel[0], (output[1] - 1) * stride[1] + kernel[1])
    size = (number("H"), number("W")) if {"H", "W"} <= columns else windows
    groups = number("groups") if "groups" in columns else 1
    channels, filters = number("C"), number("K")
    if channels % groups or filters % groups:
        raise InputError(
            f"{where}: groups: got {groups}, which does not divide C = {channels} and K = {filters}; correct a value"
        )
    name = (row["layer"] if "layer" in columns else row["name"]) or ""
    if not name:
        raise InputError(f"{where}: the layer has no name; give it one")
    network = (row["net"] if "net" in columns else "") or ""
    geometry = ConvGeometry(1, channels, filters, kernel, stride, output, size, groups)
    return NamedLayer(f"{network}/{name}" if network else name, network, geometry)
