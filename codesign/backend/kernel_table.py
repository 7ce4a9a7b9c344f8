"""Which kernels a compiled network calls, in what order, with what arguments: a JSON file beside the library."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codesign.backend.operations import Generic, Operation
from codesign.errors import MeasurementError
from codesign.files import write_json

if TYPE_CHECKING:
    import tvm
    from tvm import relax

SUFFIX = ".kernels.json"
VIEW = re.compile(r"reshape\d*")
"""Functions that are never called: a later pass turns them into views of the same memory."""


@dataclass(frozen=True)
class KernelArgument:
    """A tensor that a kernel reads or writes.

    Attributes:
        shape: As stored.
        dtype: Such as `uint8`.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class KernelCall:
    """One call of a kernel in one run of a network.

    Attributes:
        kernel: Name of the function in the library; several calls may share one.
        operation: Name of the graph's node that the call computes, empty where several nodes were merged.
        arguments: Operands in the function's order; the last one is the result.
        identity: Of a kernel whose loops can be tuned (kernels/layer_kernel.py); empty for others.
    """

    kernel: str
    operation: str
    arguments: tuple[KernelArgument, ...]
    identity: str = ""


@dataclass(frozen=True)
class TemplateCall:
    """A call that a template wrote, whose name stays the same through compilation.

    Attributes:
        kernel: Name of the function.
        position: Which operation of the network needed it.
        identity: Of a kernel whose loops can be tuned; empty for others.
    """

    kernel: str
    position: int
    identity: str = ""


def kernel_calls(
    main: "relax.Function", templates: Sequence[TemplateCall], operations: Sequence[Operation]
) -> tuple[KernelCall, ...]:
    """Lists the calls of a network and the nodes that they compute.

    Calls of templates are recognised by their order. Whatever stands between two of them was made of operations
    without a template: of the only one there, or of each one in turn if there are as many.

    Args:
        main: The network after fusion, before memory is planned.
        templates: Calls of templates in order.
        operations: The network's operations in order.

    Returns:
        The calls in order.
    """
    found: list[KernelCall] = []
    between: list[tuple[str, tuple[KernelArgument, ...]]] = []
    waiting, last = list(templates), 0

    def settle(until: int) -> None:
        names = _names_between(operations, last, until, len(between))
        found.extend(KernelCall(kernel, name, given) for (kernel, given), name in zip(between, names, strict=True))
        between.clear()

    for kernel, arguments in _calls_of(main):
        if waiting and waiting[0].kernel == kernel:
            template = waiting.pop(0)
            settle(template.position)
            last = template.position
            found.append(KernelCall(kernel, operations[last].name, arguments, template.identity))
        else:
            between.append((kernel, arguments))
    settle(len(operations) - 1)
    return tuple(found)


def _names_between(operations: Sequence[Operation], first: int, last: int, calls: int) -> list[str]:
    others = [operation.name for operation in operations[first : last + 1] if isinstance(operation, Generic)]
    if len(others) == calls:
        return others
    if len(others) == 1:
        return others * calls
    return [operations[first].name if operations and not others else ""] * calls


def _calls_of(main: "relax.Function") -> list[tuple[str, tuple[KernelArgument, ...]]]:
    from tvm import relax

    calls = []
    for block in main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
                if VIEW.fullmatch(str(value.args[0].name_hint)):
                    continue
                types = [operand.ty for operand in value.args[1].fields] + [value.ty]
                calls.append((str(value.args[0].name_hint), tuple(_argument(kind) for kind in types)))
    return calls


def _argument(kind: "tvm.relax.TensorType") -> KernelArgument:
    return KernelArgument(tuple(int(size) for size in kind.shape.values), str(kind.dtype.dtype))


def write_kernel_calls(library: Path, calls: Sequence[KernelCall]) -> None:
    """Writes the calls beside a library.

    Args:
        library: Path of the library.
        calls: Its calls.
    """
    write_json(library.with_suffix(SUFFIX), [asdict(call) for call in calls])


def read_kernel_calls(library: Path) -> tuple[KernelCall, ...]:
    """Reads the calls of a library.

    Args:
        library: Path of the library.

    Returns:
        The calls in order.

    Raises:
        MeasurementError: The file is missing or damaged.
    """
    path = library.with_suffix(SUFFIX)
    try:
        rows = json.loads(path.read_text())
        return tuple(
            KernelCall(
                row["kernel"],
                row["operation"],
                tuple(KernelArgument(tuple(a["shape"]), a["dtype"]) for a in row["arguments"]),
                row.get("identity", ""),
            )
            for row in rows
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MeasurementError(f"{path}: missing or damaged ({error}); compile the network again") from error
