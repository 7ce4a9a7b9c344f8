"""What kernels may use of a processor, by its name."""

import tvm

from codesign.backend.kernels.instruction_set import InstructionSet, instruction_set

PORTABLE = "x86-64-v3"


def _target(mcpu: str) -> "tvm.target.Target":
    return tvm.target.Target({"kind": "llvm", "mcpu": mcpu})


def test_instruction_sets() -> None:
    assert instruction_set(_target("sapphirerapids")) == InstructionSet(vnni=True, registers=31, amx=True)
    assert instruction_set(_target("cascadelake")) == InstructionSet(vnni=True, registers=31)
    assert instruction_set(_target("skylake-avx512")) == InstructionSet(vnni=False, registers=31)
    assert instruction_set(_target(PORTABLE)) == InstructionSet(vnni=False, registers=7)
    assert instruction_set(_target("x86-64")) == InstructionSet(vnni=False, registers=4)
