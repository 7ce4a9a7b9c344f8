"""One function for a whole network: kernels call one after the other, without an interpreter between them.

TVM's virtual machine takes 0.5 us a call to allocate a tensor, to look up the arguments, and to check and unpack them,
which is more than a small kernel takes. Here Relax only allocates the output and one piece of memory, and calls one
function, which calls the kernels with addresses in that memory and in one array of all constants.

Every kernel becomes a private function of addresses; beside it stays a public function of tensors under the
kernel's name, so that it can be timed alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import ir, relax, tirx
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from codesign.backend.kernels.amx_instructions import WHOLE_LINES
from codesign.backend.memory_plan import LINE, Lifetime, MemoryPlan, plan_memory
from codesign.backend.row_streams import Stream
from codesign.errors import CompileError

NETWORK_KERNEL = "network"
PIPELINE = "codesign"
"""Name of the lowering of this module's functions among TVM's pipelines."""
STACK_BYTES = 4_096
"""Largest buffer of a kernel that lies on the stack: LLVM aligns it there to 16 bytes, which costs large ones more than
taking it from a pool."""
_CODE = ir.PrimType("int32")
"""What functions return: 0, or -1 after an error whose message TVM keeps."""
_CPU = 1
"""DLPack's number of the kind of device."""
RELAX_PIPELINE = tvm.transform.Sequential([
    relax.transform.ToNonDataflow(),
    relax.transform.RemovePurityChecking(),
    relax.transform.CallTIRRewrite(),
    relax.transform.LowerAllocTensor(),
    relax.transform.KillAfterLastUse(),
    relax.transform.LowerRuntimeBuiltin(),
    relax.transform.ComputePrimValue(),
    relax.transform.VMShapeLower(),
])
"""TVM's own, without its memory plan, and without its names for functions, which would make all of them public."""
Place = int | None
"""Number of a result in the memory plan; None for the network's input."""


@dataclass(frozen=True)
class Call:
    """One call of a kernel.

    Attributes:
        kernel: The function.
        operands: Places of activations, and constants.
        results: Places.
        stream: How this kernel and the one before it take turns; None for a kernel by itself.
        before: The call before it, which a stream includes.
    """

    kernel: ir.GlobalVar
    operands: tuple[Place | ir.GenericConst, ...]
    results: tuple[int, ...]
    stream: Stream | None = None
    before: "Call | None" = None

    @property
    def parts(self) -> tuple["Call", ...]:
        """The calls of kernels for whole images that it stands for, in order."""
        return (self,) if self.before is None else (self.before, self)


@dataclass(frozen=True)
class Steps:
    """What `main` does.

    Attributes:
        calls: In order.
        sizes: Bytes of each place.
        output: Place of the network's output.
    """

    calls: tuple[Call, ...]
    sizes: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class OneFunction:
    """A network whose `main` calls one function.

    Attributes:
        module: For `relax.build` with `RELAX_PIPELINE` and the TIR pipeline `PIPELINE`.
        arena_bytes: Memory that holds the intermediate results.
    """

    module: tvm.IRModule
    arena_bytes: int


def one_function(
    module: tvm.IRModule, streams: Sequence[Stream] = (), row_kernels: Mapping[str, tirx.PrimFunc] | None = None
) -> OneFunction:
    """Rewrites a network.

    Args:
        module: The network after fusion and scheduling: `main`, of one input and one output, calls kernels.
        streams: Pairs of kernels that are called in turns wherever one follows the other and nothing else reads what is
            between them.
        row_kernels: Kernels of the streams by name.

    Returns:
        The same with one call in `main`.

    Raises:
        CompileError: `main` does something else.
    """
    steps = _streamed(_read(module), {(stream.convolution, stream.pooling): stream for stream in streams})
    plan = plan_memory(_lifetimes(steps))
    builder = relax.BlockBuilder()
    entries: dict[str, ir.GlobalVar] = {}
    for name in dict.fromkeys(name for call in steps.calls for name in _kernels_of(call)):
        of_rows = (row_kernels or {}).get(name)
        entries[name] = _add_kernel(builder, name, module[name] if of_rows is None else of_rows)
    constants, places = _joined([operand for call in steps.calls for part in call.parts for operand in part.operands])
    start, end = module["main"].params[0].ty, module["main"].ret_ty
    function = _all_calls(steps, entries, plan, places, (start, end, len(constants)))
    entry = builder.add_func(function.with_attr("global_symbol", NETWORK_KERNEL), NETWORK_KERNEL)
    image = relax.Var("image", start)
    with builder.function("main", [image], attrs={"global_symbol": "main"}):
        with builder.dataflow():
            types = [end, relax.TensorType((max(plan.size_bytes, 1),), "uint8")]
            both = builder.emit(relax.call_tir(entry, [image, relax.const(constants)], types))
            result = builder.emit_output(relax.TupleGetItem(both, 0))
        builder.emit_func_output(result)
    return OneFunction(builder.get(), plan.size_bytes)


def kernels_alone(kernels: Mapping[str, tirx.PrimFunc]) -> tvm.IRModule:
    """Kernels as they are in a network, without one: `main` returns its input.

    Args:
        kernels: By name.

    Returns:
        A module that is compiled like that of a network.
    """
    builder = relax.BlockBuilder()
    for name, kernel in kernels.items():
        _add_kernel(builder, name, kernel)
    image = relax.Var("image", relax.TensorType((1,), "float32"))
    with builder.function("main", [image], attrs={"global_symbol": "main"}):
        builder.emit_func_output(image)
    return builder.get()


def _add_kernel(builder: relax.BlockBuilder, name: str, kernel: tirx.PrimFunc) -> ir.GlobalVar:
    """Adds the private function of addresses, which is returned, and the public one of tensors."""
    entry = builder.add_func(_of_addresses(kernel), f"{name}_at")
    builder.add_func(_of_tensors(kernel, entry).with_attr("global_symbol", name), name)
    return entry


def _read(module: tvm.IRModule) -> Steps:
    main = module["main"]
    places: dict[ir.Expr, tuple[Place, ...]] = {main.params[0]: (None,)}
    sizes: list[int] = []
    calls: list[Call] = []
    result = main.body.body
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value = binding.value
        if isinstance(value, ir.Var) and value in places:
            places[binding.var] = places[value]
        elif isinstance(value, relax.TupleGetItem) and value.tuple_value in places:
            places[binding.var] = (places[value.tuple_value][value.index],)
        elif isinstance(value, ir.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            kernel, given = value.args[0], list(value.args[1].fields)
            operands = tuple(x if isinstance(x, ir.GenericConst) else places[x][0] for x in given)
            if is_view(module[kernel]) and isinstance(operands[0], int):
                places[binding.var] = (operands[0],)
                continue
            types = value.ty.fields if isinstance(value.ty, ir.TupleType) else [value.ty]
            made = tuple(range(len(sizes), len(sizes) + len(types)))
            sizes += [_size_bytes(kind) for kind in types]
            calls.append(Call(kernel, operands, made))
            places[binding.var] = made
        else:
            raise CompileError(f"the network calls something that is no kernel: {value}")
    (output,) = places.get(result, (None,))
    if output is None:
        raise CompileError("the network computes nothing: its output is its input")
    return Steps(tuple(calls), tuple(sizes), output)


def _streamed(steps: Steps, streams: Mapping[tuple[str, str], Stream]) -> Steps:
    """Joins calls that take turns; what lies between them becomes their buffer."""
    readers = Counter(operand for call in steps.calls for operand in call.operands if isinstance(operand, int))
    calls: list[Call] = []
    sizes = list(steps.sizes)
    for call in steps.calls:
        before = calls[-1] if calls else call
        stream = streams.get((before.kernel.name_hint, call.kernel.name_hint))
        between = call.operands[0]
        if (
            stream is not None
            and isinstance(between, int)
            and before.stream is None
            and before.results == (between,)
            and readers[between] == 1
            and steps.output not in {between, *call.results}
            and before.operands[0] is not None
        ):
            calls[-1] = replace(call, stream=stream, before=before)
            sizes[before.results[0]] = stream.buffer_bytes
        else:
            calls.append(call)
    return Steps(tuple(calls), tuple(sizes), steps.output)


def _kernels_of(call: Call) -> list[str]:
    """Kernels that a call needs, those for whole images first, which are timed alone."""
    steps = () if call.stream is None else call.stream.steps
    of_rows = [name for step in steps for name in (step.convolution, step.pooling, step.mover) if name]
    return [str(part.kernel.name_hint) for part in call.parts] + of_rows


def is_view(function: tirx.PrimFunc) -> bool:
    """Whether a kernel only gives its operand another shape.

    Args:
        function: The kernel.

    Returns:
        True if calling it can be left out.
    """
    return len(function.params) == 2 and bool(relax.analysis.has_reshape_pattern(function))


def _size_bytes(kind: relax.TensorType) -> int:
    bits = tvm.DataType(str(kind.dtype.dtype)).bits
    return prod(int(size) for size in kind.shape.values) * -(-int(bits) // 8)


def _lifetimes(steps: Steps) -> list[Lifetime]:
    """Of all places; the output lies elsewhere, so that it needs no room."""
    first, last = [0] * len(steps.sizes), [0] * len(steps.sizes)
    for number, call in enumerate(steps.calls):
        for part in call.parts:
            for place in part.results:
                first[place] = last[place] = number
            for operand in part.operands:
                if isinstance(operand, int):
                    last[operand] = number
    sizes = (0 if place == steps.output else size for place, size in enumerate(steps.sizes))
    return [Lifetime(*values) for values in zip(sizes, first, last, strict=True)]


def _joined(operands: Sequence[Place | ir.GenericConst]) -> tuple[NDArray[np.uint8], dict[ir.GenericConst, int]]:
    """All constants one after the other, each at a multiple of a cache line, and where they are."""
    places: dict[ir.GenericConst, int] = {}
    parts: list[NDArray[np.uint8]] = []
    size = 0
    for operand in operands:
        if isinstance(operand, ir.GenericConst) and operand not in places:
            part = np.ascontiguousarray(operand.value.numpy()).reshape(-1).view(np.uint8)
            parts += [part, np.zeros(-part.size % LINE, np.uint8)]
            places[operand] = size
            size += part.size + -part.size % LINE
    return np.concatenate([*parts, np.zeros(0 if size else 1, np.uint8)]), places


def _of_addresses(kernel: tirx.PrimFunc) -> tirx.PrimFunc:
    """A kernel as a private function of addresses."""
    pointers = [
        tirx.Var(f"{buffer.name}_at", ir.PointerType(ir.PrimType(str(buffer.dtype)))) for buffer in kernel.params
    ]
    views = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(kernel.params, pointers, strict=True)]
    function = tirx.PrimFunc(pointers, tirx.SeqStmt([*views, kernel.body]), ret_type=_CODE)
    if WHOLE_LINES in kernel.attrs:
        function = function.with_attr(WHOLE_LINES, True)
    return function.with_attr("tirx.noalias", True).with_attr("s_tir", True)


def _of_tensors(kernel: tirx.PrimFunc, entry: ir.GlobalVar) -> tirx.PrimFunc:
    """A kernel as a function of tensors, which calls the private one."""
    buffers = [tirx.decl_buffer(list(buffer.shape), str(buffer.dtype), buffer.name) for buffer in kernel.params]
    body = _called(entry, [buffer.data for buffer in buffers])
    return tirx.PrimFunc(buffers, body).with_attr("tirx.noalias", True).with_attr("s_tir", True)


def _called(entry: ir.GlobalVar, addresses: Sequence[ir.Expr]) -> tirx.Stmt:
    """Calls a private function, and hands on its error."""
    code = ir.Call(entry, list(addresses), ret_ty=_CODE)
    return tirx.IfThenElse(code != tirx.const(0, "int32"), tirx.Return(tirx.const(-1, "int32")), None)


def _all_calls(
    steps: Steps,
    entries: dict[str, ir.GlobalVar],
    plan: MemoryPlan,
    constants: dict[ir.GenericConst, int],
    types: tuple[relax.TensorType, relax.TensorType, int],
) -> tirx.PrimFunc:
    """The function `(image, constants, output, arena)`."""
    start, end, constant_bytes = types
    image, output = (tirx.decl_buffer(list(kind.shape.values), str(kind.dtype.dtype), "x") for kind in (start, end))
    stored = tirx.decl_buffer((constant_bytes,), "uint8", "constants")
    arena = tirx.decl_buffer((max(plan.size_bytes, 1),), "uint8", "arena")

    def address(operand: Place | ir.GenericConst, offset: int = 0) -> ir.Expr:
        if operand is None:
            return image.data
        if isinstance(operand, ir.GenericConst):
            return tirx.address_of(stored[constants[operand]])
        return output.data if operand == steps.output else tirx.address_of(arena[plan.offsets[operand] + offset])

    def in_turns(stream: Stream, first: Call, second: Call) -> list[tirx.Stmt]:
        source, between, result = first.operands[0], first.results[0], second.results[0]
        given, others = ([address(x) for x in call.operands[1:]] for call in (first, second))
        found = []
        for step in stream.steps:
            if step.mover:
                found.append(_called(entries[step.mover], [address(between, step.kept_offset), address(between)]))
            new, out = address(between, step.new_offset), address(result, step.output_offset)
            found.append(_called(entries[step.convolution], [address(source, step.input_offset), *given, new]))
            found.append(_called(entries[step.pooling], [address(between), *others, out]))
        return found

    body: list[tirx.Stmt] = []
    for call in steps.calls:
        if call.stream is not None:
            body += in_turns(call.stream, *call.parts)
        else:
            places = [address(x) for x in (*call.operands, *call.results)]
            body.append(_called(entries[call.kernel.name_hint], places))
    function = tirx.PrimFunc([image, stored, output, arena], tirx.stmt_seq(*body))
    return function.with_attr("tirx.noalias", True).with_attr("s_tir", True)


def _completed(function: tirx.PrimFunc, _module: tvm.IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    """Says of private functions where they run, so that memory in them can be allocated, and returns 0 from them.

    Both only now: TVM moves allocations to the function's start before, and frees them where the statements around
    them end.
    """
    if "global_symbol" in function.attrs:
        return function
    node = ir.StringImm("default")
    body = function.body
    if WHOLE_LINES not in function.attrs:
        body = tvm_ffi.structural_map(body, (tirx.AllocBuffer, _on_the_stack), order="post")
    placed = tirx.AttrStmt(node, "device_type", tirx.const(_CPU, "int32"), body)
    placed = tirx.AttrStmt(node, "device_id", tirx.const(0, "int32"), placed)
    return function.with_body(tirx.SeqStmt([placed, tirx.Return(tirx.const(0, "int32"))]))


def _on_the_stack(memory: tirx.AllocBuffer) -> tirx.AllocBuffer:
    """Memory of a kernel, which TVM takes from a pool where it is more than 1 kB unless told not to."""
    size = prod(int(extent) for extent in memory.buffer.shape) * tvm.DataType(str(memory.buffer.dtype)).bits // 8
    if size > STACK_BYTES:
        return memory
    return tirx.AllocBuffer(memory.buffer, {"disable_lower_builtin": tirx.const(True)})


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    """TVM's own lowering, with the step above."""
    lowering, on_host, on_device = tirx.get_tir_pipeline("s_tir")
    completion = tirx.transform.prim_func_pass(_completed, opt_level=0)
    return lowering, lambda: tvm.transform.Sequential([completion, on_host()]), on_device


register_tir_pipeline(PIPELINE, _pipeline)
