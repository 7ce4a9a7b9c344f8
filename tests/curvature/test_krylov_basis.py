import math

import pytest
import torch

from codesign.curvature.krylov_basis import KrylovBasis, norm
from codesign.curvature.symmetric_operator import DenseOperator
from codesign.errors import InputError


def _basis(dimension: int, vectors: int, dtype: torch.dtype = torch.float64) -> KrylovBasis:
    basis = KrylovBasis(DenseOperator(torch.zeros(dimension, dimension, dtype=dtype)), vectors + 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(vectors):
        _, rest = basis.orthogonalize(torch.randn(dimension, generator=generator, dtype=torch.float64))
        basis.append(rest, norm(rest))
    return basis


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-15), (torch.float32, 1e-7)])
def test_vectors_are_orthonormal_up_to_the_rounding_of_their_elements(dtype: torch.dtype, allowed: float) -> None:
    columns = _basis(300, 20, dtype).columns(0, 20)
    assert columns.dtype == dtype
    assert (columns.T.double() @ columns.double() - torch.eye(20)).abs().max() < allowed


def test_a_vector_almost_in_the_span_leaves_an_orthogonal_rest() -> None:
    basis = _basis(50, 5)
    outside = torch.zeros(50, dtype=torch.float64)
    outside[7] = 1e-9
    vector = basis.columns(0, 5) @ torch.arange(1.0, 6, dtype=torch.float64) + outside
    before = vector.clone()
    coefficients, rest = basis.orthogonalize(vector)
    assert torch.equal(vector, before)
    assert torch.allclose(coefficients, torch.arange(1.0, 6, dtype=torch.float64), atol=1e-8)
    assert float((basis.columns(0, 5).T @ rest).abs().max()) < 1e-14 * float(rest.norm())


def test_long_vectors_are_taken_in_parts() -> None:
    operator = DenseOperator(torch.zeros(1, 1).expand(3_000_000, 3_000_000))  # only its dimension counts
    basis = KrylovBasis(operator, 4)
    start = torch.linspace(-1, 1, 3_000_000, dtype=torch.float64)
    basis.append(start, norm(start))
    other = start.square() + start
    coefficients, rest = basis.orthogonalize(other)
    unit = basis.columns(0, 1)[:, 0].double()
    assert float(coefficients[0]) == pytest.approx(float(unit @ other), rel=1e-12)
    assert abs(float(unit @ rest)) < 1e-9 * float(rest.norm())


def test_rotation_keeps_the_vectors_behind() -> None:
    basis = _basis(30, 6)
    before = basis.columns(0, 6).clone()
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(4, 2, generator=generator, dtype=torch.float64)).Q
    basis.rotate(4, turn)
    assert basis.size == 4
    assert torch.allclose(basis.columns(0, 4), torch.cat([before[:, :4] @ turn, before[:, 4:]], 1), atol=1e-14)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_norms_neither_overflow_nor_underflow(scale: float) -> None:
    assert norm(torch.tensor([3.0, 4.0], dtype=torch.float64) * scale) == pytest.approx(5 * scale, rel=1e-15)
    assert norm(torch.zeros(3)) == 0
    assert math.isinf(norm(torch.tensor([1.0, math.inf]))) or math.isnan(norm(torch.tensor([1.0, math.inf])))


@pytest.mark.parametrize(
    ("matrix", "message"), [(torch.zeros(0, 0), "dimension 0"), (torch.zeros(2, 2, dtype=torch.float16), "float16")]
)
def test_operators_without_a_spectrum_are_refused(matrix: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        KrylovBasis(DenseOperator(matrix), 2)
