"""Curvature matrices in the joint space of several weights, as symmetric operators."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from codesign.curvature.curvature_products import CurvatureProducts
from codesign.errors import InputError


class WeightSpaceOperator:
    """The matrix whose rows and columns run over the elements of all weights, in the order of the mapping.

    Args:
        products: Multiplies it with vectors.
    """

    def __init__(self, products: CurvatureProducts) -> None:
        self._products = products
        self._shapes = {name: weight.shape for name, weight in products.weights.items()}
        self._sizes = [math.prod(shape) for shape in self._shapes.values()]
        first = next(iter(products.weights.values()))
        self._dtype, self._device = first.dtype, first.device

    @property
    def dimension(self) -> int:
        """Elements of all weights together, n."""
        return sum(self._sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The weights'."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """The weights'."""
        return self._device

    @property
    def passes_over_data(self) -> float:
        """Sweeps over all samples so far: two for each graph of all samples, two for each vector."""
        return self._products.passes_over_data

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Products with several vectors at once.

        Args:
            vectors: `[n, B]`.

        Returns:
            `[n, B]` in the operator's type; summed over the data in float64.
        """
        return self.flatten(self._products.joint(self.unflatten(vectors))).to(self._dtype)

    def unflatten(self, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors as weights.

        Args:
            vectors: `[n, B]`.

        Returns:
            `[B, *weight]` by name, in the operator's type.

        Raises:
            InputError: The shape is wrong.
        """
        if vectors.ndim != 2 or len(vectors) != self.dimension:
            raise InputError(
                f"vectors: got shape {tuple(vectors.shape)}, allowed is [{self.dimension}, B]; give one column a vector"
            )
        parts = torch.split(vectors.to(self._device, self._dtype).mT, self._sizes, 1)
        return {
            name: part.reshape(len(part), *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def flatten(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Weights as vectors; undoes `unflatten`.

        Args:
            weights: `[B, *weight]` for every weight, by name.

        Returns:
            `[n, B]`.

        Raises:
            InputError: A weight is missing or has another shape.
        """
        for name, shape in self._shapes.items():
            got = tuple(weights[name].shape) if name in weights else None
            if got is None or got[1:] != tuple(shape):
                raise InputError(f"weight {name!r}: got shape {got}, allowed is [B, {', '.join(map(str, shape))}]")
        return torch.cat([weights[name].flatten(1) for name in self._shapes], 1).mT
