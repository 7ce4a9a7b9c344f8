"""The generalised Gauss-Newton matrix of a loss in the weights of a network, by backward differentiation alone."""

from collections.abc import Mapping

import torch
from torch import Tensor

from codesign.curvature.curvature_products import Backward, CurvatureProducts, Part, gradients
from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.tapped_network import WeightedForward
from codesign.curvature.weight_space_operator import WeightSpaceOperator
from codesign.data_parallel import Shard


class GaussNewtonGraph:
    """Kept graphs of a part's outputs `f(w)` and of `g(u) = J^T u`; a product is `J^T (H_out (J v))`.

    `g` is linear in `u`, so that `J v = d(g^T v)/du`: the double backward trick of J. Townsend, "A new trick for
    calculating Jacobian vector products" (2017), which needs no forward-mode derivatives of the network's operations.
    `H_out v` is the loss's own Hessian-vector product, in float64, without any `[C, C]` matrix.

    Args:
        part: The network after it has run.
    """

    def __init__(self, part: Part) -> None:
        self._weights = part.weights
        self._outputs = part.outputs
        self._direction = torch.zeros_like(part.outputs, requires_grad=True)
        found = gradients(part.outputs, list(part.weights.values()), self._direction)
        self._transposed = dict(zip(part.weights, found, strict=True))
        self._leaf = part.outputs.detach().double().requires_grad_()
        targets = part.targets.double() if part.targets.is_floating_point() else part.targets
        self._slope = gradients(part.loss.total(self._leaf, targets) / part.rows, [self._leaf])[0]

    def product(self, vectors: Mapping[str, Tensor], backward: Backward) -> Mapping[str, Tensor | None]:
        """Product with the Gauss-Newton matrix in the named weights alone.

        Args:
            vectors: `[B, *weight]` by name.
            backward: Runs the differentiation.

        Returns:
            `[B, *weight]` by name; None for zero.
        """
        pairs = [(column, vectors[name]) for name, column in self._transposed.items() if name in vectors]
        used = [(column, vector) for column, vector in pairs if column is not None]
        if not used or self._slope is None:
            return dict.fromkeys(vectors)
        change = backward([column for column, _ in used], [self._direction], [vector for _, vector in used])[0]
        if change is None:
            return dict.fromkeys(vectors)
        weighted = backward([self._slope], [self._leaf], [change.double()])[0]
        if weighted is None:
            return dict.fromkeys(vectors)
        names = list(vectors)
        found = backward([self._outputs], [self._weights[name] for name in names], [weighted.to(self._outputs.dtype)])
        return dict(zip(names, found, strict=True))


class GaussNewtonOperator(WeightSpaceOperator):
    """The joint matrix `G = 1 / rows sum_x J(x)^T H_out(x) J(x)` in all given weights; one weight gives one block.

    `J` is the Jacobian of the outputs in the weights, `H_out` the loss's Hessian in the outputs. Positive semi-definite
    for convex losses. It is the Hessian where the network is linear in the weights (Schraudolph, "Fast curvature
    matrix-vector products", 2002), and for one weight's block wherever it is piecewise linear in this weight alone.

    Args:
        forward: The network as a function of the weights.
        weights: Where the matrix is taken, by name, flattened in this order.
        inputs: `[N, ...]`: all samples, in every process.
        targets: `[N, ...]`.
        loss: A mean over the rows of all samples; cross-entropy by default. Its values are in float64 here.
        samples_at_once: Samples in one gradient graph; None for all, in one graph that is kept between products.
            Changes memory and time, not the result; memory does not grow with the number of parts.
        shard: Which of the samples this process runs; sums and products are the same in all processes.
        vectors_at_once: Vectors in one batched backward.
    """

    def __init__(
        self,
        forward: WeightedForward,
        weights: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        loss: Loss | None = None,
        samples_at_once: int | None = 64,
        shard: Shard | None = None,
        vectors_at_once: int = 4,
    ) -> None:
        super().__init__(
            CurvatureProducts(
                GaussNewtonGraph,
                forward,
                weights,
                inputs,
                targets,
                loss or CrossEntropy(),
                samples_at_once,
                shard,
                vectors_at_once,
            )
        )
