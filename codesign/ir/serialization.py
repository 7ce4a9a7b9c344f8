"""Graphs on disk: `.onnx` files whose nodes carry their facts as JSON in `metadata_props`."""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped] # ships no types
from pydantic import ValidationError

from codesign.errors import CodesignError, InputError
from codesign.files import write_bytes
from codesign.ir.annotation import METADATA_PREFIX, Annotation, annotate, annotations_of
from codesign.ir.annotations import ANNOTATION_KINDS
from codesign.ir.fingerprint import graph_digest
from codesign.ir.onnx_file import read_onnx

__all__ = ["graph_digest", "load_graph", "restore_facts", "save_graph"]


def save_graph(model: ir.Model, path: Path) -> None:
    """Writes a graph, weights included, with every fact that is not stale; the file appears whole or not at all.

    Facts are entries `codesign.<key>` of a node's `metadata_props`, each a JSON object. Entries that are no facts of
    this process, such as `codesign.weight-bits` or facts of kinds unknown here, are written as they are.

    Args:
        model: The graph; it is not changed.
        path: Where the `.onnx` file shall stand.

    Raises:
        CodesignError: The graph is too large for one file, or the file cannot be written.
    """
    proto = ir.serde.serialize_model(model)
    for node, written in zip(model.graph, proto.graph.node, strict=True):
        _write_facts(node, written)
    try:
        data = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise CodesignError(
            f"{path}: the graph cannot be written as one .onnx file ({error}); "
            f"files hold at most 2 GiB: use a smaller network"
        ) from error
    write_bytes(path, data)


def load_graph(path: Path) -> ir.Model:
    """Reads an `.onnx` file with its weights, and turns stored facts back into values on `node.meta`.

    Args:
        path: The file; weights beside it (external data) are read into memory.

    Returns:
        The graph. Facts of kinds that codesign does not know stay in `metadata_props`.

    Raises:
        InputError: The file is missing, truncated or not ONNX, or a stored fact is corrupted.
    """
    model = _build(read_onnx(path), path)
    _load_weights(model, path)
    try:
        restore_facts(model, ANNOTATION_KINDS)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return model


def restore_facts(model: ir.Model, kinds: Iterable[type[Annotation]]) -> None:
    """Moves stored facts of some kinds from `metadata_props` to `node.meta`; refuses a fact that does not fit its kind.

    Args:
        model: The graph.
        kinds: Which kinds; facts of others stay as they are.
    """
    by_key = {METADATA_PREFIX + kind.key: kind for kind in kinds}
    for node in model.graph:
        for key in sorted(by_key.keys() & node.metadata_props.keys()):
            annotate(node, _parse(node, by_key[key], node.metadata_props[key]))
            del node.metadata_props[key]


def _write_facts(node: ir.Node, written: onnx.NodeProto) -> None:
    entries = {entry.key: entry.value for entry in written.metadata_props}
    for key, value in node.meta.items():
        if isinstance(value, Annotation):
            entries.pop(METADATA_PREFIX + key, None)  # what this process knows replaces what the file said
    entries |= {METADATA_PREFIX + fact.key: fact.model_dump_json() for fact in annotations_of(node)}
    del written.metadata_props[:]
    written.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=value) for key, value in sorted(entries.items())
    )


def _parse(node: ir.Node, kind: type[Annotation], text: str) -> Annotation:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "value"
        raise InputError(
            f"node {node.name!r}: stored fact {METADATA_PREFIX}{kind.key} is corrupted ({field}: {first['msg']}); "
            f"annotate the graph again"
        ) from None


def _build(proto: onnx.ModelProto, path: Path) -> ir.Model:
    try:
        return ir.serde.deserialize_model(proto)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while isinstance(cause, ir.serde.SerdeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"{path}: holds a malformed graph ({cause}); export it again") from error


def _load_weights(model: ir.Model, path: Path) -> None:
    for graph in model.graphs():
        ir.external_data.set_base_dir(graph, path.parent)
    try:
        ir.external_data.load_to_model(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: its weights cannot be read ({error}); keep the data file beside it") from None
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.UNDEFINED:
            raise InputError(f"{path}: weight {name!r} has no type or contents; export or copy the file again")
        if tensor.dtype != ir.DataType.STRING and len(tensor.tobytes()) != tensor.nbytes:
            raise InputError(
                f"{path}: weight {name!r} holds {len(tensor.tobytes())} bytes, its type and shape say {tensor.nbytes}; "
                f"export or copy the file again"
            )
