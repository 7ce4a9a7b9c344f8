from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from codesign.backend.kernels.geometry import ConvolutionShape, choose_tile, row_chunks
from codesign.backend.kernels.packing import round_up

shapes = st.builds(
    ConvolutionShape,
    height=st.integers(5, 60),
    width=st.integers(5, 60),
    in_channels=st.sampled_from([3, 16, 64, 256]),
    out_channels=st.sampled_from([16, 48, 112, 1008]),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 5)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    pads=st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 2, 0)]),
)


@given(shape=shapes, registers=st.sampled_from([4, 7, 31]))
def test_a_tile_divides_the_output_and_fits_the_registers(shape: ConvolutionShape, registers: int) -> None:
    tile = choose_tile(shape, registers)
    assert shape.out_width % tile.columns == 0
    assert shape.blocks % tile.blocks == 0
    assert tile.columns * tile.blocks == 1 or tile.columns * tile.blocks + tile.blocks + 1 <= registers


@given(shape=shapes, threads=st.integers(1, 8))
def test_chunks_share_the_rows_evenly(shape: ConvolutionShape, threads: int) -> None:
    tile = choose_tile(shape, 31)
    chunks = row_chunks(shape, tile, threads)
    rows = shape.out_height if shape.out_height > 1 else shape.out_width // tile.columns
    assert rows % chunks == 0
    by_row = shape.is_padded and shape.kernel[0] == 1 and shape.out_height > 1
    assert chunks == rows if by_row else chunks in {1, threads} or chunks == rows >= 2 * threads


def test_small_kernels_stay_serial() -> None:
    small = ConvolutionShape(8, 8, 16, 16)
    assert row_chunks(small, choose_tile(small, 31), 4) == 1


def test_the_tile_that_saturates_avx512() -> None:
    tile = choose_tile(ConvolutionShape(28, 28, 128, 128, (3, 3), pads=(1, 1, 1, 1)), 31)
    assert (tile.columns, tile.blocks) == (14, 2)


def test_flattening_keeps_the_work() -> None:
    shape = ConvolutionShape(7, 9, 32, 48)
    assert shape.flattened() == ConvolutionShape(1, 63, 32, 48)
    assert shape.flattened().macs == shape.macs
    padded = ConvolutionShape(7, 9, 32, 48, pads=(1, 0, 0, 0))
    assert padded.flattened() == padded


@given(groups=st.integers(2, 40), group_in=st.integers(1, 40), group_out=st.integers(1, 40))
def test_blocks_sum_over_all_channels_of_their_groups(groups: int, group_in: int, group_out: int) -> None:
    stored = round_up(groups * group_in, 16), round_up(groups * group_out, 16)
    shape = ConvolutionShape(8, 8, *stored, (3, 3), groups=groups, group_in=group_in, group_out=group_out)
    if shape.is_depthwise:
        assert shape.reduction_channels == shape.alike_blocks == 1
        return
    assert shape.reduction_channels % 4 == 0
    for output in range(groups * group_out):
        first, group = shape.first_channel(output // 16), output // group_out
        assert 0 <= first <= group * group_in
        assert (group + 1) * group_in <= first + shape.reduction_channels <= stored[0]
    assert shape.blocks % shape.alike_blocks == 0
    for block in range(shape.blocks):
        assert shape.first_channel(block) == shape.first_channel(block // shape.alike_blocks * shape.alike_blocks)


def test_channels_that_are_only_stored_are_not_summed() -> None:
    shape = ConvolutionShape(8, 8, 32, 32, groups=1, group_in=19, group_out=32)
    assert (shape.reduction_channels, shape.alike_blocks) == (20, 2)
    assert replace(shape, in_channels=3, group_in=3).reduction_channels == 3
