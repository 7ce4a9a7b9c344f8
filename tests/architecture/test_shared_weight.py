"""Parts of shared parameters."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codesign.architecture.shared_weight import SharedWeight, same_names


@st.composite
def parts(draw: st.DrawFn) -> tuple[SharedWeight, tuple[int, ...]]:
    """A part and the shape of a shared parameter that holds it."""
    groups = draw(st.sampled_from([1, 2, 3]))
    rows, columns = draw(st.integers(1, 3)) * groups, draw(st.integers(1, 3))
    kernel = tuple(draw(st.sampled_from([1, 3])) for _ in range(draw(st.sampled_from([0, 2]))))
    part = SharedWeight("w", (rows, columns, *kernel), groups)
    room = tuple(draw(st.integers(0, 2)) for _ in range(2))
    larger = tuple(size + 2 * draw(st.integers(0, 1)) for size in kernel)
    return part, (*(size + more for size, more in zip(part.dense_shape[:2], room, strict=True)), *larger)


@settings(deadline=None)
@given(parts())
def test_what_is_put_is_taken(case: tuple[SharedWeight, tuple[int, ...]]) -> None:
    part, shape = case
    shared, value = torch.zeros(shape), torch.arange(1.0, 1 + torch.Size(part.shape).numel()).reshape(part.shape)
    part.put(shared, value)
    assert torch.equal(part.take(shared), value)
    assert int((shared != 0).sum()) == value.numel()


@settings(deadline=None)
@given(parts())
def test_gradients_reach_the_part_alone(case: tuple[SharedWeight, tuple[int, ...]]) -> None:
    part, shape = case
    shared, expected = torch.randn(shape, requires_grad=True), torch.zeros(shape)
    part.take(shared).sum().backward()  # type: ignore[no-untyped-call]
    part.put(expected, torch.ones(part.shape))
    assert shared.grad is not None
    assert torch.equal(shared.grad, expected)


def test_groups_are_the_diagonal_blocks_of_the_dense_convolution() -> None:
    dense, x = torch.randn(6, 4, 3, 3, dtype=torch.float64), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    part = SharedWeight("w", (6, 2, 3, 3), groups=2)
    masked = torch.zeros_like(dense)
    masked[:3, :2], masked[3:, 2:] = dense[:3, :2], dense[3:, 2:]
    torch.testing.assert_close(F.conv2d(x, part.take(dense), groups=2), F.conv2d(x, masked))


def test_kernels_take_the_centre() -> None:
    shared = torch.arange(25.0).reshape(1, 1, 5, 5)
    assert torch.equal(SharedWeight("w", (1, 1, 3, 3)).take(shared), shared[:, :, 1:4, 1:4])


def test_same_names_knows_groups() -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Linear(6, 2))
    found = same_names(network)
    assert found["0.weight"] == SharedWeight("0.weight", (6, 2, 3, 3), 2)
    assert found["0.weight"].dense_shape == (6, 4, 3, 3)
    assert found["1.bias"] == SharedWeight("1.bias", (2,))
