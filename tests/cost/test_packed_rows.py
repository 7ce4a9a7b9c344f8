"""Which products of a matrix and one row take weights apart in registers: as the compiler decides."""

import pytest

from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.packed_matrix_vector import packed_matrix_vector_tiling, shared_steps
from codesign.cost.kernel_terms import is_packed, packed_blocks, terms_of
from codesign.cost.kernel_tiles import tiled_loops
from codesign.hardware.calibration import VectorUnit
from codesign.plan.facts import ConvGeometry
from codesign.quantization.scheme import WEIGHT_BITS, Widths
from codesign.testing.cost_conformance import multiply_node

UNIT = VectorUnit(registers=31, lanes=16, dot_channels=4)
ISA = InstructionSet(vnni=True, registers=31)


@pytest.mark.parametrize("bits", WEIGHT_BITS)
def test_the_cost_model_decides_as_the_compiler(bits: int) -> None:
    widths = Widths(bits, 8)
    for channels in range(16, 700, 16):
        loops = tiled_loops(ConvGeometry(1, 96, channels, (1, 1), (1, 1), (1, 1), (1, 1), 1), True, UNIT)
        assert is_packed(loops, widths, UNIT) == bool(shared_steps(bits, ISA)), channels
        assert not is_packed(loops, widths, UNIT.model_copy(update={"dot_channels": 1}))
        if bits < 8:
            chosen = packed_matrix_vector_tiling(96, channels, bits, 1)
            assert packed_blocks(channels // 16, widths) == chosen.blocks, channels


def test_terms_count_blocks_that_are_computed_twice() -> None:
    dense = multiply_node("fc", "Gemm", ConvGeometry(1, 256, 23 * 16, (1, 1), (1, 1), (1, 1), (1, 1), 1))
    terms = terms_of(dense, Widths(4, 8), UNIT, ())
    assert terms["tiles"] == 4
    assert terms["packed_4"] == 256 * 4 * 6 * 16 / 64
    assert terms["row_steps"] == 4 * 64
    assert "unpack_4" not in terms
