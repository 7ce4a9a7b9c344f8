"""What a processor offers to the schedule templates, read from LLVM's feature list."""

from dataclasses import dataclass

import tvm


@dataclass(frozen=True)
class InstructionSet:
    """What the templates need to know of a processor.

    Attributes:
        vnni: Whether AVX512-VNNI multiplies unsigned by signed bytes and adds four products into an int32 lane.
        registers: Vectors of 16 lanes of 32 bits that registers hold, sums and operands.
        amx: Whether AMX multiplies tiles of unsigned by tiles of signed bytes.
    """

    vnni: bool
    registers: int
    amx: bool = False


def instruction_set(target: "tvm.target.Target") -> InstructionSet:
    """Looks up what a target offers.

    Args:
        target: An LLVM target.

    Returns:
        Its instruction set.
    """
    has = tvm.target.codegen.target_has_features
    if _is_x86(target) and has("avx512f", target):
        vnni = bool(has("avx512vnni", target))
        return InstructionSet(vnni, registers=31, amx=vnni and bool(has("amx-int8", target)))
    if _is_x86(target) and not has("avx2", target):
        return InstructionSet(vnni=False, registers=4)
    return InstructionSet(vnni=False, registers=7)


def _is_x86(target: "tvm.target.Target") -> bool:
    triple = str(target.attrs.get("mtriple") or tvm.target.codegen.llvm_get_system_triple())
    return triple.startswith(("x86_64", "i686"))
