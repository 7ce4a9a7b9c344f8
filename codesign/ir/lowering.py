"""Torch modules to graphs in the form that all steps work on."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from codesign.errors import InputError, UnsupportedOperatorError, first_line
from codesign.ir.normalization import OPSET, SEQUENCE_OPERATORS, normalize
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.operators import refuse_unsupported
from codesign.ir.program import Program
from codesign.ir.traced_lowering import traced_graph

EXPORT_OPSETS = range(18, 24)
"""Opsets that torch's exporter writes."""
RELATIVE_ERROR = 1e-4
"""How far the graph may be from the module, as a share of the largest output."""


def lower_module(module: nn.Module, input_shape: tuple[int, ...], opset: int = OPSET) -> Program:
    """Lowers a module to ONNX, normalises the graph and checks it against the module.

    Convolutional networks of well-known layers are lowered by `traced_graph`, all others by torch's exporter.

    The module itself is left alone: a copy in eval mode, in float32 on the CPU, is lowered and kept in the program.

    Args:
        module: A network of one float input `[N, ...]` and one output `[N, classes]` or `[N, ..., classes]`, which
            treats the samples of a batch independently.
        input_shape: Shape of one input, the batch of one included: `(1, 3, 32, 32)`.
        opset: What the exporter writes, 18 to 23; older than 21 is converted to 21. Others than 21 are always exported.

    Returns:
        The program.

    Raises:
        InputError: The module does not take this shape, cannot be traced, holds NaN, mixes samples or is random.
        UnsupportedOperatorError: It needs operators that are not supported; all of them are named.
    """
    if opset not in EXPORT_OPSETS:
        raise InputError(f"opset: got {opset}, allowed are {EXPORT_OPSETS.start} to {EXPORT_OPSETS.stop - 1}")
    check_input_shape(input_shape)
    network = copy.deepcopy(module).float().cpu().eval()
    name = type(module).__name__
    check_finite(network, name)
    examples = _examples(input_shape)
    single = _try(network, examples[:1], name)
    if single.dim() < 2 or single.shape[0] != 1:
        raise InputError(
            f"{name}: gives {list(single.shape)} for an input of {list(input_shape)}; it must give [1, ..., classes]"
        )
    traced = traced_graph(network, input_shape) if opset == OPSET else None
    model = _export(network, examples[:1], opset, name) if traced is None else traced
    program = _program(model, network, examples, name)
    if not _takes_batches(network, examples):
        raise InputError(
            f"{name}: a batch of two gives other results than two single samples; "
            f"its samples must not interact and its reshapes must keep the batch, as x.flatten(1) does"
        )
    return program


def lower_exported(exported: torch.export.ExportedProgram, input_shape: tuple[int, ...], name: str) -> Program:
    """Lowers a program made by `torch.export` with a batch of one or a dynamic batch.

    Args:
        exported: The program.
        input_shape: Shape of one input, the batch of one included.
        name: What to call it in messages.

    Returns:
        The program. Its module is the exported graph as a module, or None if that takes a batch of one only.
    """
    network = exported.module(check_guards=False)
    check_finite(network, name)
    examples = _examples(input_shape)
    _try(network, examples[:1], name)
    model = _export(exported, examples[:1], OPSET, name)
    model.graph.inputs[0].shape = ir.Shape(input_shape)
    program = _program(model, network, examples, name)
    return program if _takes_batches(network, examples) else Program(program.graph)


def check_input_shape(shape: tuple[int, ...]) -> None:
    """Refuses shapes that are not of one sample.

    Args:
        shape: Such as `(1, 3, 32, 32)`.

    Raises:
        InputError: It has less than two sizes, sizes below 1, or a batch other than 1.
    """
    if len(shape) < 2 or shape[0] != 1 or min(shape) < 1:
        raise InputError(
            f"input_shape: got {list(shape)}; give positive sizes that begin with a batch of 1: [1, 3, 32, 32]"
        )


def check_finite(module: nn.Module, name: str) -> None:
    """Refuses modules whose weights are not numbers.

    Args:
        module: Its parameters and buffers are looked at.
        name: What to call it in the message.

    Raises:
        InputError: A weight holds NaN or infinity; up to three are named.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    refuse_not_finite(bad, name)


def refuse_not_finite(bad: list[str], source: str) -> None:
    """Refuses a network if any of its weights hold NaN or infinity.

    Args:
        bad: Names of such weights.
        source: Where they come from, for the message.

    Raises:
        InputError: There are any; up to three are named.
    """
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"{source}: NaN or infinity in {', '.join(map(repr, bad[:3]))}{more}; use weights from a run that converged"
        )


def _examples(input_shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, *input_shape[1:]), generator=generator)


def _try(network: nn.Module, x: Tensor, name: str) -> Tensor:
    try:
        with torch.no_grad():
            result = network(x)
    except Exception as error:  # a user's module may raise anything
        raise InputError(
            f"{name}: fails on an input of {list(x.shape)} ({first_line(error)}); set input_shape to what it takes"
        ) from error
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise InputError(f"{name}: returns {type(result).__name__}; a network must return one tensor of logits")
    return result


def _export(network: nn.Module | torch.export.ExportedProgram, x: Tensor, opset: int, name: str) -> ir.Model:
    try:
        with _silence():
            exported = torch.onnx.export(
                network,
                () if isinstance(network, torch.export.ExportedProgram) else (x,),
                dynamo=True,
                opset_version=opset,
                optimize=False,  # the exporter's own optimisation merges equal weights and loses their names
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        if "No ONNX function found" in str(cause) or "No decompositions registered" in str(cause):
            raise UnsupportedOperatorError(
                f"{name}: {first_line(cause)}; replace this operation in the network"
            ) from error
        raise InputError(
            f"{name}: cannot be traced ({first_line(cause)}); control flow must not depend on data"
        ) from error
    assert exported is not None
    return exported.model


@contextmanager
def _silence() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    loggers += [
        logger
        for name, logger in logging.Logger.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith(("torch.onnx.", "torch.export.", "onnxscript."))
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _program(model: ir.Model, network: nn.Module, examples: Tensor, name: str) -> Program:
    refuse_unsupported(model, name, SEQUENCE_OPERATORS)
    parameters = dict(network.named_parameters(remove_duplicate=False))
    try:
        with _silence():
            parameter_of = normalize(model, parameters)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from error
    program = Program(model, network, parameter_of)
    _check_against_module(program, network, examples, name)
    return program


def _check_against_module(program: Program, network: nn.Module, examples: Tensor, name: str) -> None:
    graph = TorchGraph(program.graph)
    with torch.no_grad():
        got = graph.run(examples)
        expected = torch.cat([network(examples[:1]), network(examples[1:])])
    difference = relative_difference(got, expected)
    if not difference <= RELATIVE_ERROR:
        raise InputError(
            f"{name}: its graph differs from it by {difference:.2g} of the largest output, allowed is "
            f"{RELATIVE_ERROR:g}; remove randomness and dependence on data from its forward function"
        )


def _takes_batches(network: nn.Module, examples: Tensor) -> bool:
    with torch.no_grad():
        expected = torch.cat([network(examples[:1]), network(examples[1:])])
        try:
            together = network(examples)
        except Exception:  # a user's module may raise anything
            return False
    return together.shape == expected.shape and relative_difference(together, expected) <= RELATIVE_ERROR


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest expected value.

    Args:
        got: Any tensor.
        expected: A tensor of the same shape.

    Returns:
        The share; NaN if either holds NaN.
    """
    scale = max(float(expected.abs().max()), torch.finfo(expected.dtype).tiny)
    return float((got - expected).abs().max()) / scale
