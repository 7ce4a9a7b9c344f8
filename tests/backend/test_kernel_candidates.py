"""Loops that a kernel may have: the rules' first, all of them legal, the same in every process."""

from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernels.amx_shares import parts, shares
from codesign.backend.kernels.amx_tiles import ACCUMULATORS
from codesign.backend.kernels.epilogue import Clamp, FloatEpilogue, IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import InstructionSet
from codesign.backend.kernels.layer_kernel import LayerKernel, read_layer_kernel
from codesign.backend.kernels.parameters import (
    CHOICES,
    AmxTiling,
    DepthwiseTiling,
    MatrixVectorTiling,
    PackedMatrixVectorTiling,
    VectorTiling,
)
from codesign.backend.layers import default_parameters

AMX = InstructionSet(True, 31, amx=True)
ROUNDING = InstructionSet(True, 31, amx=True, bfloat16=True)
PROCESSORS = (AMX, ROUNDING, InstructionSet(True, 31), InstructionSet(False, 7), InstructionSet(False, 4))
shapes = st.builds(
    ConvolutionShape,
    height=st.integers(3, 60),
    width=st.integers(3, 60),
    in_channels=st.integers(1, 40).map(lambda n: 4 * n),
    out_channels=st.integers(1, 20).map(lambda n: 16 * n),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2)]),
).map(ConvolutionShape.flattened)
depthwise = st.builds(
    lambda size, blocks, stride: ConvolutionShape(
        size, size, 16 * blocks, 16 * blocks, (3, 3), (stride, stride), (1, 1), (1, 1, 1, 1), 16 * blocks, 1, 1
    ),
    st.integers(4, 40),
    st.integers(1, 8),
    st.sampled_from([1, 2]),
)
dense = st.builds(
    ConvolutionShape,
    height=st.just(1),
    width=st.just(1),
    in_channels=st.integers(1, 80).map(lambda n: 16 * n),
    out_channels=st.integers(1, 80).map(lambda n: 16 * n),
)
made = st.builds(
    LayerKernel,
    shape=st.one_of(shapes, depthwise, dense),
    bits=st.sampled_from([2, 4, 8]),
    epilogue=st.builds(IntegerEpilogue, residual=st.sampled_from(["first", None])),
) | st.builds(
    LayerKernel,
    shape=st.one_of(shapes, depthwise, dense),
    bits=st.just(32),
    epilogue=st.builds(FloatEpilogue, inner=st.just(Clamp(0.0, 6.0)), residual=st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(kernel=made, isa=st.sampled_from(PROCESSORS), threads=st.integers(1, 4))
def test_candidates_are_legal_and_the_rules_come_first(kernel: LayerKernel, isa: InstructionSet, threads: int) -> None:
    ways = candidates(kernel, isa, threads)
    shape = kernel.shape
    assert ways[0] == default_parameters(kernel, isa, threads)
    assert len(set(ways)) == len(ways) <= 60
    for way in ways:
        match way:
            case VectorTiling():
                assert shape.out_width % way.columns == 0
                assert shape.blocks % way.blocks == 0
                assert way.columns * way.blocks == 1 or (way.columns + 1) * way.blocks + 1 <= isa.registers
                rows = shape.out_height if shape.out_height > 1 else shape.out_width // way.columns
                assert rows % way.chunks == 0
                assert threads > 1 or (way.chunks == 1 and not way.shares_blocks)
                assert not (way.channels_inside and (way.shares_blocks or kernel.bits < 8))
            case AmxTiling():
                assert isa.amx
                share = shares(shape, way.threads, way.shares_channels)
                if kernel.bits == 32:
                    assert isa.bfloat16
                    share = parts(shape, share)
                assert way.pixels * way.channels <= ACCUMULATORS
                assert share.blocks % way.channels == 0
                assert way.pixels <= share.rows * -(-share.columns // 16)
                assert way.threads in {1, threads}
            case DepthwiseTiling():
                assert shape.groups == shape.in_channels
                assert way == ways[0] or way.pixels * way.blocks <= isa.registers
                assert way.threads in {1, threads}
            case MatrixVectorTiling() | PackedMatrixVectorTiling():
                assert kernel.is_vector
                assert shape.blocks % way.blocks == 0 or isinstance(way, PackedMatrixVectorTiling)
                assert threads > 1 or not way.parallel


@settings(max_examples=100, deadline=None)
@given(kernel=made, threads=st.integers(1, 4))
def test_no_choice_changes_whether_products_are_rounded(kernel: LayerKernel, threads: int) -> None:
    if kernel.bits == 32:
        ways = candidates(kernel, ROUNDING, threads)
        assert len({isinstance(way, AmxTiling) for way in ways}) == 1


@settings(max_examples=50, deadline=None)
@given(kernel=made)
def test_identities_and_choices_survive_the_disk(kernel: LayerKernel) -> None:
    assert read_layer_kernel(kernel.identity) == kernel
    choices = {f"{kernel.identity}{n}": way for n, way in enumerate(candidates(kernel, AMX, 2))}
    assert CHOICES.validate_json(CHOICES.dump_json(choices)) == choices


def test_a_kernel_in_words() -> None:
    shape = ConvolutionShape(32, 32, 16, 32, (3, 3), (2, 2), pads=(1, 1, 1, 1))
    kernel = LayerKernel(shape, 8, IntegerEpilogue(residual="first"))
    assert kernel.words == "int8 3x3 stride 2x2 32x32x16 -> 16x16x32 + residual"
