import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.kernels.packing import PLANES, block_weights, neighbours, pack_planes, round_up, unpack_planes


@given(
    bits=st.sampled_from(sorted(PLANES)),
    lanes=st.sampled_from([16, 64]),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_packing_round_trip_at_exactly_b_bits(bits: int, lanes: int, blocks: int, seed: int) -> None:
    half = 1 << (bits - 1)
    weights = np.random.default_rng(seed).integers(-half, half, (blocks, lanes)).astype(np.int8)
    packed = pack_planes(weights, bits)
    assert packed.nbytes * 8 == weights.size * bits
    assert np.array_equal(unpack_planes(packed, bits), weights)


@pytest.mark.parametrize("bits", sorted(PLANES))
def test_every_value_survives(bits: int) -> None:
    half = 1 << (bits - 1)
    weights = np.resize(np.arange(-half, half), 64).astype(np.int8)
    assert np.array_equal(unpack_planes(pack_planes(weights, bits), bits), weights)


@pytest.mark.parametrize("value", [-3, 2])
def test_weights_that_do_not_fit_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="2 bits"):
        pack_planes(np.full((1, 16), value, np.int8), 2)


def test_planes_add_up_to_the_width() -> None:
    assert all(sum(planes) == bits for bits, planes in PLANES.items())
    assert [neighbours(64, bits) for bits in (2, 3, 4, 5, 6, 8)] == [16, 8, 32, 8, 16, 0]


@given(co=st.integers(1, 40), ci=st.integers(1, 9), inner=st.sampled_from([1, 4]))
def test_blocks_hold_every_weight_where_the_kernels_look(co: int, ci: int, inner: int) -> None:
    weight = np.arange(co * ci * 6, dtype=np.float32).reshape(co, ci, 3, 2) + 1
    blocks = block_weights(weight, inner)
    assert blocks.shape == (round_up(co, 16) // 16, 3, 2, round_up(ci, inner) // inner, 16, inner)
    assert np.count_nonzero(blocks) == weight.size
    for o, i in ((0, 0), (co - 1, ci - 1), (co // 2, ci // 2)):
        block = blocks[o // 16, :, :, i // inner, o % 16, i % inner]
        assert np.array_equal(block, weight[o, i])
