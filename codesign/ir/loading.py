"""Networks from what a user names: a factory of torch modules, an exported program, or an ONNX file."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from codesign.errors import InputError, first_line
from codesign.factory import call_factory
from codesign.ir.exported_file import read_exported
from codesign.ir.lowering import (
    RELATIVE_ERROR,
    check_finite,
    check_input_shape,
    lower_exported,
    lower_module,
    refuse_not_finite,
    relative_difference,
)
from codesign.ir.normalization import SEQUENCE_OPERATORS, normalize
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.operators import refuse_unsupported
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph
from codesign.ir.weights_file import assign_weights, read_weights


def load_program(source: str, weights: str | None, input_shape: tuple[int, ...] | None, base: Path) -> Program:
    """Loads a network and brings it into the form that all steps work on.

    Args:
        source: `package.module:factory`, `path/to/file.py:factory`, or a path to an `.onnx` or `.pt2` file.
        weights: A file for `load_module`; None to keep what the factory gives.
        input_shape: Shape of one input, the batch of one included; an `.onnx` or `.pt2` file usually tells it itself.
        base: Folder that relative paths start from.

    Returns:
        The program.

    Raises:
        InputError: The source has another form, or one of its parts is wrong.
    """
    is_file = source.endswith((".onnx", ".pt2"))
    if is_file and weights is not None:
        raise InputError(f"weights: {source} holds its own, got {weights} beside it; remove one of the two")
    if source.endswith(".onnx"):
        return load_onnx(base / source, input_shape)
    if source.endswith(".pt2"):
        return load_exported(base / source, input_shape)
    module = load_module(source, None if weights is None else base / weights, base)
    if input_shape is None:
        raise InputError(f"{source}: a module does not tell its input_shape; give it, such as [1, 3, 32, 32]")
    return lower_module(module, input_shape)


def load_module(spec: str, weights: Path | None, base: Path) -> nn.Module:
    """Calls a factory of torch modules and loads trained weights.

    Args:
        spec: `package.module:factory` or `path/to/file.py:factory`; the factory takes no arguments.
        weights: `.pth`, `.th`, `.pt` or `.safetensors`; None to keep what the factory gives.
        base: Folder that relative paths, and modules that are not installed, are looked for in.

    Returns:
        The module, in eval mode.

    Raises:
        InputError: The factory cannot be found or fails, gives no module, or the weights do not fit or hold NaN.
    """
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise InputError(
            f"{spec}: is no network; name a factory as package.module:factory or path/to/file.py:factory, "
            f"or a file that ends in .onnx or .pt2"
        )
    module = call_factory(spec, base)
    if not isinstance(module, nn.Module):
        raise InputError(f"{spec}: gives {type(module).__name__}; it must return a torch.nn.Module")
    if weights is not None:
        assign_weights(module, read_weights(weights), str(weights))
    check_finite(module, spec)
    return module.eval()


def load_exported(path: Path, input_shape: tuple[int, ...] | None = None) -> Program:
    """Loads a program saved by `torch.export.save`, exported with a batch of one or a dynamic batch.

    Args:
        path: The `.pt2` file.
        input_shape: Shape of one input, needed where sizes other than the batch are dynamic.

    Returns:
        The program.

    Raises:
        InputError: The file is damaged or holds pickled objects, has several inputs, or open sizes.
    """
    exported = read_exported(path)
    names = exported.graph_signature.user_inputs
    if len(names) != 1:
        raise InputError(f"{path}: has {len(names)} inputs; one is needed")
    placeholder = next(node for node in exported.graph.nodes if node.op == "placeholder" and node.name == names[0])
    sizes = [size if isinstance(size, int) else str(size) for size in placeholder.meta["val"].shape]
    return lower_exported(exported, _fixed_shape(sizes, input_shape, names[0], path), str(path))


def load_onnx(path: Path, input_shape: tuple[int, ...] | None = None) -> Program:
    """Loads an ONNX file.

    Args:
        path: The `.onnx` file; a dynamic batch becomes 1.
        input_shape: Shape of one input, needed where sizes other than the batch are dynamic.

    Returns:
        The program, without a module.

    Raises:
        InputError: The file is damaged, holds NaN, has several inputs or outputs, open sizes, or mixes samples.
        UnsupportedOperatorError: It holds operators that are not supported; all of them are named.
    """
    model = load_graph(path)
    refuse_unsupported(model, str(path), SEQUENCE_OPERATORS)
    _check_onnx(model, path)
    inputs = [value for value in model.graph.inputs if value.name not in model.graph.initializers]
    if len(inputs) != 1 or len(model.graph.outputs) != 1:
        raise InputError(
            f"{path}: has {len(inputs)} inputs and {len(model.graph.outputs)} outputs; one of each is needed"
        )
    if inputs[0].dtype != ir.DataType.FLOAT:
        kind = "unknown" if inputs[0].dtype is None else inputs[0].dtype.name
        raise InputError(f"{path}: input {inputs[0].name!r} has type {kind}, FLOAT is needed; convert the model")
    sizes = None if inputs[0].shape is None else [d if isinstance(d, int) else str(d) for d in inputs[0].shape]
    inputs[0].shape = ir.Shape(_fixed_shape(sizes, input_shape, inputs[0].name or "", path))
    try:
        normalize(model)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    program = Program(model)
    _check_batches(program, path)
    return program


def _fixed_shape(
    sizes: list[int | str] | None, given: tuple[int, ...] | None, name: str, path: Path
) -> tuple[int, ...]:
    cure = "set input_shape, such as [1, 3, 224, 224]"
    if given is not None:
        check_input_shape(given)
    if sizes is None:
        if given is None:
            raise InputError(f"{path}: input {name!r} has no shape; {cure}")
        return given
    if isinstance(sizes[0], int) and sizes[0] != 1:
        raise InputError(
            f"{path}: input {name!r} has a fixed batch of {sizes[0]}; export it with a batch of 1 or a dynamic batch"
        )
    if given is None:
        dynamic = [f"{size!r} (axis {axis})" for axis, size in enumerate(sizes) if axis and isinstance(size, str)]
        if dynamic:
            raise InputError(f"{path}: input {name!r} has dynamic dimensions {', '.join(dynamic)}; {cure}")
        given = (1, *(int(size) for size in sizes[1:]))
        check_input_shape(given)
    fits = len(given) == len(sizes) and all(isinstance(s, str) or s == g for s, g in zip(sizes, given, strict=True))
    if not fits:
        raise InputError(f"input_shape: got {list(given)}, but input {name!r} of {path} is {sizes}; correct it")
    return given


def _check_onnx(model: ir.Model, path: Path) -> None:
    constants = {name: value.const_value for name, value in model.graph.initializers.items()}
    refuse_not_finite([n for n, t in constants.items() if t is not None and not _is_finite(t)], str(path))
    proto = ir.to_proto(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.SetInParent()  # the checker wants shapes that may be left out, and that we find
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise InputError(f"{path}: is not valid ONNX ({first_line(error)}); export it again") from None


def _is_finite(tensor: ir.TensorProtocol) -> bool:
    floats = tensor.dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16}
    return not floats or bool(np.isfinite(tensor.numpy()).all())


def _check_batches(program: Program, path: Path) -> None:
    graph = TorchGraph(program.graph)
    output = program.graph.graph.outputs[0].shape
    if output is None or len(output) < 2 or output[0] != 1:
        raise InputError(f"{path}: its output is {output}; it must be [1, ..., classes]")
    x = torch.randn((2, *program.input_shape[1:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, apart = graph.run(x), torch.cat([graph.run(x[:1]), graph.run(x[1:])])
    if not relative_difference(together, apart) <= RELATIVE_ERROR:
        raise InputError(
            f"{path}: gives NaN, or a batch of two gives other results than two single samples; "
            f"check the network on normally distributed inputs"
        )
