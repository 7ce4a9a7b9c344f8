"""What a processor offers to the schedule templates, read from LLVM's feature list."""

from dataclasses import dataclass

import tvm

from codesign.errors import CompileError
from codesign.hardware.target import Products

BFLOAT16_FEATURES = ("amx-tile", "amx-bf16", "avx512bf16")


@dataclass(frozen=True)
class InstructionSet:
    """What the templates need to know of a processor.

    Attributes:
        vnni: Whether AVX512-VNNI multiplies unsigned by signed bytes and adds four products into an int32 lane.
        registers: Vectors of 16 lanes of 32 bits that registers hold, sums and operands.
        amx: Whether AMX multiplies tiles of unsigned by tiles of signed bytes.
        bfloat16: Whether layers in float32 multiply operands rounded to bfloat16 on AMX, where that is faster.
    """

    vnni: bool
    registers: int
    amx: bool = False
    bfloat16: bool = False


def instruction_set(target: "tvm.target.Target", float_products: Products = "float32") -> InstructionSet:
    """Looks up what a target offers.

    Args:
        target: An LLVM target.
        float_products: What layers in float32 multiply.

    Returns:
        Its instruction set.

    Raises:
        CompileError: Products shall be of bfloat16, and the processor has no AMX-BF16.
    """
    has = tvm.target.codegen.target_has_features
    bfloat16 = float_products == "bfloat16"
    if bfloat16 and not (_is_x86(target) and all(has(feature, target) for feature in BFLOAT16_FEATURES)):
        raise CompileError(
            f"float_products = 'bfloat16' needs AMX-BF16, which processor {target.attrs['mcpu']!s} or its operating "
            f"system does not have; set float_products = 'float32', or compile for one that has it, such as "
            f"mcpu = 'sapphirerapids'"
        )
    if _is_x86(target) and has("avx512f", target):
        vnni = bool(has("avx512vnni", target))
        return InstructionSet(vnni, registers=31, amx=vnni and bool(has("amx-int8", target)), bfloat16=bfloat16)
    if _is_x86(target) and not has("avx2", target):
        return InstructionSet(vnni=False, registers=4)
    return InstructionSet(vnni=False, registers=7)


def _is_x86(target: "tvm.target.Target") -> bool:
    triple = str(target.attrs.get("mtriple") or tvm.target.codegen.llvm_get_system_triple())
    return triple.startswith(("x86_64", "i686"))
