"""A chain of layers from a table, for networks that are known only from a paper."""

import csv
from collections.abc import Mapping
from pathlib import Path

from codesign.errors import InputError, closest
from codesign.files import digest_of
from codesign.partition.network import Loop, Network, Operand, Operator, Result, Window

COLUMNS = (
    "name", "kind", "weights", "input_elements", "output_elements", "kernel_h", "kernel_w",
    "input_h", "input_w", "input_c", "output_h", "output_w", "output_c",
)  # fmt: skip
"""Of the table; elements are those of one sample."""
KINDS = {
    **dict.fromkeys(("conv", "conv2d", "convolution"), "Conv"),
    **dict.fromkeys(("dense", "fc", "fully-connected", "gemm", "linear"), "Gemm"),
}
"""What a layer may be."""
LARGEST = 10**15


def read_layers(path: Path, batch: int) -> Network:
    """Reads a chain of layers.

    Between two layers whose sizes differ stands an operator that pools or flattens without communication.

    Args:
        path: The CSV file.
        batch: Samples.

    Returns:
        The network; strides and padding are not known, so that a window takes half a kernel from either side.

    Raises:
        InputError: The file cannot be read, a column is missing, or a value is wrong; the message names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"{path}: has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            rows = [(f"{path}: line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); check the path and the file") from None
    if not rows:
        raise InputError(f"{path}: holds no layers; add a line for each")
    names = [row["name"] for _, row in rows]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: layer {max(names, key=names.count)!r} occurs twice; give each its own name")
    operators: list[Operator] = []
    for where, row in rows:
        _append(operators, _layer(row, batch, where))
    last = operators[-1].results[0]
    sink = Operand(last.value, last.shape, "activation")
    operators.append(Operator("output", "Output", (sink,), (), (Loop("batch", batch, (0,), 0),)))
    return Network(path.stem, digest_of(path), tuple(operators), batch, operators[0].operands[0].value)


def _append(operators: list[Operator], layer: Operator) -> None:
    """Joins a layer to the chain."""
    if not operators:
        operators.append(layer)
        return
    made, read = operators[-1].results[0], layer.operands[0]
    if made.shape != read.shape:
        loops = [Loop("batch", made.shape[0], (0,), 0)]
        if len(made.shape) == len(read.shape) == 4 and made.shape[1] == read.shape[1]:
            loops.append(Loop("channel", made.shape[1], (1,), 1))
            loops.append(Loop("height", min(made.shape[2], read.shape[2]), (2,), 2))
        elif len(read.shape) == 2 and read.shape[1] % made.shape[1] == 0:
            loops.append(Loop("channel", made.shape[1], (1,), 1, aligned=True))
        operand, value = Operand(made.value, made.shape, "activation"), f"{layer.name}:input"
        operators.append(
            Operator(f"before {layer.name}", "Between", (operand,), (Result(value, read.shape),), tuple(loops))
        )
        made = operators[-1].results[0]
    operands = (Operand(made.value, made.shape, "activation"), *layer.operands[1:])
    operators.append(Operator(**{**vars(layer), "operands": operands}))


def _layer(row: Mapping[str, str | None], batch: int, where: str) -> Operator:
    def number(column: str) -> int:
        text = (row[column] or "").strip()
        if not text.isdecimal() or not 1 <= int(text[:20]) <= LARGEST:
            raise InputError(f"{where}: {column}: got {row[column]!r}, allowed are whole numbers above 0; correct it")
        return int(text)

    kind = (row["kind"] or "").strip().lower()
    if kind not in KINDS:
        raise InputError(f"{where}: kind: got {row['kind']!r}{closest(kind, KINDS)}")
    name = (row["name"] or "").strip()
    if not name:
        raise InputError(f"{where}: the layer has no name; give it one")
    if KINDS[kind] == "Gemm":  # has no kernel and no image
        return _dense(name, batch, {column: number(column) for column in COLUMNS[2:5]})
    return _convolution(name, batch, {column: number(column) for column in COLUMNS[2:]}, where)


def _dense(name: str, batch: int, sizes: Mapping[str, int]) -> Operator:
    inputs, outputs = sizes["input_elements"], sizes["output_elements"]
    loops = (
        Loop("batch", batch, (0, None), 0),
        Loop("out", outputs, (None, 0), 1),
        Loop("in", inputs, (1, 1), None),
    )
    weight = Operand(f"{name}:weight", _weight_shape(outputs, sizes["weights"]), "parameter")
    operands = (Operand(f"{name}:input", (batch, inputs), "activation"), weight)
    result = Result(f"{name}:output", (batch, outputs))
    return Operator(name, "Gemm", operands, (result,), loops, batch * sizes["weights"], True, True)


def _convolution(name: str, batch: int, sizes: Mapping[str, int], where: str) -> Operator:
    def image(side: str) -> tuple[int, ...]:
        shape = (batch, sizes[f"{side}_c"], sizes[f"{side}_h"], sizes[f"{side}_w"])
        if shape[1] * shape[2] * shape[3] != sizes[f"{side}_elements"]:
            raise InputError(
                f"{where}: {side}_elements: got {sizes[f'{side}_elements']}, but {side}_h x {side}_w x {side}_c is "
                f"{shape[1] * shape[2] * shape[3]}; correct one of them"
            )
        return shape

    x, y = image("input"), image("output")

    def window(axis: str) -> Window:
        kernel = sizes[f"kernel_{axis}"]
        return Window(kernel, None, 1, kernel // 2, sizes[f"input_{axis}"], sizes[f"output_{axis}"])

    groups = max(1, round(x[1] * y[1] * sizes["kernel_h"] * sizes["kernel_w"] / sizes["weights"]))
    loops = [
        Loop("batch", batch, (0, None), 0),
        Loop("out", y[1], (None, 0), 1),
        Loop("height", min(x[2], y[2]), (2, None), 2, window=window("h")),
        Loop("width", min(x[3], y[3]), (3, None), 3, window=window("w")),
    ]
    if groups == 1:
        loops.append(Loop("in", x[1], (1, 1), None))
    else:
        loops.append(Loop("group", groups, (1, 0), 1, aligned=True))
    weight = Operand(f"{name}:weight", _weight_shape(y[1], sizes["weights"]), "parameter")
    macs = batch * sizes["weights"] * y[2] * y[3]
    operands = (Operand(f"{name}:input", x, "activation"), weight)
    return Operator(name, "Conv", operands, (Result(f"{name}:output", y),), tuple(loops), macs, True)


def _weight_shape(outputs: int, weights: int) -> tuple[int, ...]:
    """`[outputs, inputs]`, or a plain vector where a bias or the like makes the number odd."""
    return (outputs, weights // outputs) if weights % outputs == 0 else (weights, 1)
