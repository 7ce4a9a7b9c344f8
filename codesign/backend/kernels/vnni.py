"""Tensor intrinsic: 16 int32 lanes += 4 unsigned bytes times 16 x 4 signed bytes (AVX512-VNNI `vpdpbusd`).

TVM 0.27 ships one that passes `<16 x i32>` operands; LLVM 22's intrinsic takes `<64 x i8>` ones, so this one
reinterprets them.
"""

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

DOT_16X4 = "codesign_dot_16x4_u8s8s32"
"""Name under which the intrinsic is registered when this module is imported."""


@T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM ships no type information
def _description(a: T.handle, b: T.handle, c: T.handle) -> None:
    A = T.match_buffer(a, (4,), "uint8", offset_factor=1)
    B = T.match_buffer(b, (16, 4), "int8", offset_factor=1)
    C = T.match_buffer(c, (16,), "int32", offset_factor=1, scope="local")
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        for i in T.serial(0, 16):
            for k in T.serial(0, 4):
                with T.sblock("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM ships no type information
def _implementation(a: T.handle, b: T.handle, c: T.handle) -> None:
    A = T.match_buffer(a, (4,), "uint8", offset_factor=1)
    B = T.match_buffer(b, (16, 4), "int8", offset_factor=1)
    C = T.match_buffer(c, (16,), "int32", offset_factor=1, scope="local")
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), 16), dtype="uint8x64"),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )


SCALE_16 = "codesign_multiply_16_u8s8s32"
"""Name of the intrinsic that adds 16 products of one unsigned and one signed byte each, as depthwise layers need."""


@T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM ships no type information
def _products(a: T.handle, b: T.handle, c: T.handle) -> None:
    A = T.match_buffer(a, (16,), "uint8", offset_factor=1)
    B = T.match_buffer(b, (16, 1), "int8", offset_factor=1)
    C = T.match_buffer(c, (16,), "int32", offset_factor=1, scope="local")
    with T.sblock("root"):
        T.reads(C[0:16], A[0:16], B[0:16, 0:1])
        T.writes(C[0:16])
        for i in T.serial(0, 16):
            with T.sblock("update"):
                vi = T.axis.spatial(16, i)
                C[vi] = C[vi] + T.cast(A[vi], "int32") * T.cast(B[vi, 0], "int32")


@T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]  # TVM ships no type information
def _products_by_vnni(a: T.handle, b: T.handle, c: T.handle) -> None:
    A = T.match_buffer(a, (16,), "uint8", offset_factor=1)
    B = T.match_buffer(b, (16, 1), "int8", offset_factor=1)
    C = T.match_buffer(c, (16,), "int32", offset_factor=1, scope="local")
    with T.sblock("root"):
        T.reads(C[0:16], A[0:16], B[0:16, 0:1])
        T.writes(C[0:16])
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(T.Cast("int32x16", A.vload([0], "uint8x16")), dtype="uint8x64"),
            T.reinterpret(T.Cast("int32x16", B.vload([0, 0], "int8x16")), dtype="int8x64"),
            dtype="int32x16",
        )


TensorIntrin.register(SCALE_16, _products, _products_by_vnni)
TensorIntrin.register(DOT_16X4, _description, _implementation)
