"""Tensor intrinsics of AVX512-VNNI's `vpdpbusd`: 16 int32 lanes += 4 unsigned bytes times 16 x 4 signed bytes.

TVM 0.27 ships one that passes `<16 x i32>` operands; LLVM 22's intrinsic takes `<64 x i8>` ones, so these reinterpret
them. They are built, not parsed: TVM's parser takes half a second for the four functions, in each compiling process.
"""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from codesign.backend.kernels.packing import INNER, LANES

DOT_16X4 = "codesign_dot_16x4_u8s8s32"
"""Name under which the intrinsic is registered when this module is imported."""
SCALE_16 = "codesign_multiply_16_u8s8s32"
"""Name of the intrinsic that adds 16 products of one unsigned and one signed byte each, as depthwise layers need."""
Expression = Any
"""A TIR expression."""
Buffer = Any
"""A TIR buffer."""


def _function(inputs: int, depth: int, body: Callable[[Buffer, Buffer, Buffer], None]) -> tirx.PrimFunc:
    """A function of `inputs` unsigned bytes, 16 x `depth` signed ones and 16 sums, which `body` adds to."""
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name("main")
        handles = [build.arg(name, build.handle()) for name in "abc"]
        a = build.match_buffer(handles[0], (inputs,), "uint8", offset_factor=1)
        b = build.match_buffer(handles[1], (LANES, depth), "int8", offset_factor=1)
        c = build.match_buffer(handles[2], (LANES,), "int32", offset_factor=1, scope="local")
        with build.sblock("root"):
            build.reads([c[0:LANES], a[0:inputs], b[0:LANES, 0:depth]])
            build.writes([c[0:LANES]])
            body(a, b, c)
    return builder.get()


def _dot_described(a: Buffer, b: Buffer, c: Buffer) -> None:
    with build.serial(0, LANES) as i, build.serial(0, INNER) as k, build.sblock("update"):
        lane, part = build.axis.remap("SR", [i, k])
        build.buffer_store(c, c[lane] + a[part].astype("int32") * b[lane, part].astype("int32"), [lane])


def _dot_by_vnni(a: Buffer, b: Buffer, c: Buffer) -> None:
    four = tirx.reinterpret("int32", a.vload([0], "uint8x4"))
    _accumulate(c, tirx.reinterpret("uint8x64", tirx.Broadcast(four, LANES)), b.vload([0, 0], "int8x64"))


def _scale_described(a: Buffer, b: Buffer, c: Buffer) -> None:
    with build.serial(0, LANES) as i, build.sblock("update"):
        lane = build.axis.spatial(LANES, i)
        build.buffer_store(c, c[lane] + a[lane].astype("int32") * b[lane, 0].astype("int32"), [lane])


def _scale_by_vnni(a: Buffer, b: Buffer, c: Buffer) -> None:
    inputs, factors = a.vload([0], "uint8x16").astype("int32x16"), b.vload([0, 0], "int8x16").astype("int32x16")
    _accumulate(c, tirx.reinterpret("uint8x64", inputs), tirx.reinterpret("int8x64", factors))


def _accumulate(sums: Buffer, inputs: Expression, factors: Expression) -> None:
    total = with_dot_products(sums.vload([0], "int32x16"), inputs, factors)
    build.buffer_store(sums, total, [tirx.Ramp(0, 1, LANES)])


def with_dot_products(sums: Expression, inputs: Expression, factors: Expression) -> Expression:
    """The instruction: each sum with four products more.

    Args:
        sums: `int32x16`.
        inputs: `uint8x64`.
        factors: `int8x64`.

    Returns:
        `int32x16`.
    """
    return tirx.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", sums, inputs, factors)


TensorIntrin.register(SCALE_16, _function(LANES, 1, _scale_described), _function(LANES, 1, _scale_by_vnni))
TensorIntrin.register(DOT_16X4, _function(INNER, INNER, _dot_described), _function(INNER, INNER, _dot_by_vnni))
