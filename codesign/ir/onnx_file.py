"""Reading `.onnx` files without trusting them: what is truncated, damaged or incomplete is refused in one sentence."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped] # ships no types
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped] # ships no types

from codesign.errors import InputError


def read_onnx(path: Path) -> onnx.ModelProto:
    """Reads a file and checks that it is a complete message whose values are all defined.

    Args:
        path: An `.onnx` file; weights in other files are not read.

    Returns:
        The message.

    Raises:
        InputError: The file is missing, unreadable, truncated, damaged or not ONNX.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name an .onnx file") from None
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise InputError(f"{path}: is not an ONNX file or is truncated; export or copy it again") from None
    if not proto.graph.node or not proto.opset_import or not proto.ir_version:
        raise InputError(f"{path}: holds no graph or is truncated ({len(data)} bytes); export or copy it again")
    damaged = next(_damaged_texts(proto), None)
    if damaged is not None:
        raise InputError(f"{path}: is damaged (field {damaged} is not text); export or copy it again")
    missing = _undefined_values(proto.graph)
    if missing:
        raise InputError(f"{path}: values that nothing defines are used: {', '.join(missing)}; export it again")
    return proto


def _damaged_texts(message: Message) -> Iterator[str]:
    """Full names of text fields that are not UTF-8; protobuf hands these out as bytes."""
    for field, value in message.ListFields():
        items = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in items:
                yield from _damaged_texts(item)
        elif field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(item, str) for item in items):
            yield str(field.full_name)


def _undefined_values(graph: onnx.GraphProto) -> list[str]:
    defined = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    defined |= {tensor.values.name for tensor in graph.sparse_initializer}
    defined |= {name for node in graph.node for name in node.output} | {""}
    used = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    return [repr(name) for name in dict.fromkeys(used) if name not in defined]
