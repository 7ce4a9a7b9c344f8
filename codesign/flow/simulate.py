"""What `codesign simulate` does: price every layer of a network, or of a table of layers, on a described device."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from codesign.cost.layer_report import report_layers
from codesign.cost.layers_csv import read_layers
from codesign.cost.select import cost_model_for
from codesign.errors import InputError, closest
from codesign.hardware.catalog import load_profile
from codesign.hardware.profile import DATAFLOWS, ArrayKind, Dataflow, HardwareProfile, PeArray
from codesign.plan.facts import NodeFacts
from codesign.quantization.scheme import Widths
from codesign.report.simulation_contents import SimulationResult

DataflowChoice = Literal["os", "ws", "is", "best"]
_DATAFLOW_OF: dict[DataflowChoice, Dataflow] = {
    "os": "output-stationary",
    "ws": "weight-stationary",
    "is": "input-stationary",
}
USUAL = Widths(8, 8)
"""Widths where a request names none."""


@dataclass(frozen=True)
class SimulateRequest:
    """The command's arguments.

    Attributes:
        source: A network (`.onnx`, `.pt2` or a factory) or a CSV file of layers.
        profile: Name of a shipped profile, or path of a TOML file.
        array: Rows and columns to use instead of the profile's.
        array_model: Kind of array to use instead of the profile's.
        dataflow: The one to use, or `best` for the fastest of each layer.
        weight_bits: Width of weights; None for 8, or the profile's first where it has no rate for 8 with 8.
        activation_bits: Width of activations; likewise.
        weights: For a factory.
        input_shape: For a factory.
        network: Only the layers of this network, where a CSV file holds several; None for all.
    """

    source: str
    profile: str
    array: tuple[int, int] | None = None
    array_model: ArrayKind | None = None
    dataflow: DataflowChoice = "best"
    weight_bits: int | None = None
    activation_bits: int | None = None
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    network: str | None = None


def simulate(request: SimulateRequest) -> SimulationResult:
    """Prices every layer; nothing is run.

    Args:
        request: The command's arguments.

    Returns:
        The result.

    Raises:
        InputError: Part of the request is wrong, the device has no rate for the widths or its buffer is too small for a
            layer, or there are no layers.
    """
    profile = device_of(request)
    widths = _widths(request, profile)
    layers = report_layers(profile, _nodes(request), widths.weight, widths.activation)
    if not layers:
        raise InputError(f"{request.source}: holds no layer that takes time; give a network that computes something")
    provenance = cost_model_for(profile).provenance
    return SimulationResult(request.source, request.network, profile, provenance, widths, layers)


def parse_array(text: str) -> tuple[int, int]:
    """Rows and columns from text.

    Args:
        text: Such as `16x16`.

    Returns:
        Rows and columns.

    Raises:
        InputError: It has another form, or one of the two is 0.
    """
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if found is None or 0 in (rows_columns := (int(found[1]), int(found[2]))):
        raise InputError(f"array: got {text!r}, allowed are rows and columns above 0 such as 16x16; correct it")
    return rows_columns


def device_of(request: SimulateRequest) -> HardwareProfile:
    """The profile with the array that was asked for.

    Skewed arrays are counted with `whole` folds, exactly as SCALE-Sim counts them; a search may use part of an array.
    Each processing element keeps its rate: an array of four times as many does four times as much in a second.

    Args:
        request: The command's arguments.

    Returns:
        The device.

    Raises:
        InputError: The profile has no array to change, or that kind of array cannot run the dataflow.
    """
    profile = load_profile(request.profile)
    if profile.array is None:
        if request.array is not None or request.array_model is not None or request.dataflow != "best":
            raise InputError(
                f"profile {profile.name!r}: describes a processor, which has no array to change; leave out --array, "
                f"--array-model and --dataflow, or choose a profile with an array"
            )
        return profile
    array = _array(profile.array, request)
    scale = array.macs_per_s / profile.array.macs_per_s
    compute = tuple(row.model_copy(update={"macs_per_s": row.macs_per_s * scale}) for row in profile.compute)
    return profile.model_copy(update={"array": array, "compute": compute})


def _array(array: PeArray, request: SimulateRequest) -> PeArray:
    kind = request.array_model or array.kind
    rows, columns = request.array or (array.rows, array.columns)
    dataflows = array.dataflows if kind == array.kind else DATAFLOWS[kind]
    if request.dataflow != "best":
        dataflows = (_DATAFLOW_OF[request.dataflow],)
    if not set(dataflows) <= set(DATAFLOWS[kind]):
        raise InputError(
            f"dataflow: a {kind} array cannot run {dataflows[0]}, allowed are {', '.join(DATAFLOWS[kind])}; "
            f"choose one of these or --array-model skewed"
        )
    changes = {"kind": kind, "rows": rows, "columns": columns, "dataflows": dataflows, "folds": "whole"}
    if kind == "skewed":
        changes["filters_per_element"] = 1
    return array.model_copy(update=changes)


def _widths(request: SimulateRequest, profile: HardwareProfile) -> Widths:
    pairs = [Widths(row.weight_bits, row.activation_bits) for row in profile.compute]
    usual = next((pair for pair in pairs if pair == USUAL), pairs[0])
    return Widths(
        usual.weight if request.weight_bits is None else request.weight_bits,
        usual.activation if request.activation_bits is None else request.activation_bits,
    )


def _nodes(request: SimulateRequest) -> tuple[NodeFacts, ...]:
    if request.source.lower().endswith(".csv"):
        return _nodes_of_table(request)
    if request.network is not None:
        raise InputError(f"net: got {request.network!r} for {request.source}; only CSV files hold several networks")
    if ":" not in request.source and not request.source.endswith((".onnx", ".pt2")):
        raise InputError(
            f"{request.source}: is neither a network nor a table; name a file that ends in .onnx, .pt2 or .csv, or a "
            "factory as package.module:factory or path/to/file.py:factory"
        )
    from codesign.ir.loading import load_program
    from codesign.pass_manager.base import PassContext
    from codesign.pass_manager.opt import run_pipeline
    from codesign.plan.from_graph import facts_of

    program = load_program(request.source, request.weights, request.input_shape, Path())
    run_pipeline(program, "count-work", PassContext(), None, None)
    return facts_of(program).nodes


def _nodes_of_table(request: SimulateRequest) -> tuple[NodeFacts, ...]:
    if request.weights is not None or request.input_shape is not None:
        raise InputError(f"{request.source}: a table has no weights and no input shape; leave out these options")
    layers = read_layers(Path(request.source))
    networks = {layer.network for layer in layers} - {""}
    if request.network is not None and request.network not in networks:
        raise InputError(f"{request.source}: holds no network {request.network!r}{closest(request.network, networks)}")
    return tuple(layer.node for layer in layers if request.network in {None, layer.network})
