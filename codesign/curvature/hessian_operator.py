"""The Hessian of a loss in the weights of a network, by double backward differentiation."""

from collections.abc import Mapping

from torch import Tensor

from codesign.curvature.curvature_products import Backward, CurvatureProducts, Part, gradients
from codesign.curvature.loss import CrossEntropy, Loss
from codesign.curvature.tapped_network import WeightedForward
from codesign.curvature.weight_space_operator import WeightSpaceOperator
from codesign.data_parallel import Shard


class HessianGraph:
    """The kept graph of a part's gradient `g`; a product is `H v = d(g^T v)/dw`.

    Keeping the graph and batching over vectors was the fastest of the ways to a Hessian-vector product that were
    measured (CPU, ResNet-20: 1.6 s a product against 3.5 s forward over reverse and 8.1 s with a new graph for each).

    Args:
        part: The network after it has run.
    """

    def __init__(self, part: Part) -> None:
        total = part.loss.total(part.outputs, part.targets) / part.rows
        self._weights = part.weights
        found = gradients(total, list(part.weights.values()))
        self._gradients = dict(zip(part.weights, found, strict=True))

    def product(self, vectors: Mapping[str, Tensor], backward: Backward) -> Mapping[str, Tensor | None]:
        """Product with the Hessian in the named weights alone.

        Args:
            vectors: `[B, *weight]` by name.
            backward: Runs the differentiation.

        Returns:
            `[B, *weight]` by name; None for zero.
        """
        pairs = [(gradient, vectors[name]) for name, gradient in self._gradients.items() if name in vectors]
        used = [(gradient, vector) for gradient, vector in pairs if gradient is not None]
        if not used:
            return dict.fromkeys(vectors)
        found = backward([g for g, _ in used], [self._weights[name] for name in vectors], [v for _, v in used])
        return dict(zip(vectors, found, strict=True))


class HessianOperator(WeightSpaceOperator):
    """The joint Hessian `[n, n]` of a mean loss in all given weights; give one weight for one diagonal block.

    Symmetric; it can be indefinite. Weights that the loss does not depend on have rows and columns of zeros.

    Args:
        forward: The network as a function of the weights.
        weights: Where the Hessian is taken, by name, flattened in this order.
        inputs: `[N, ...]`: all samples, in every process.
        targets: `[N, ...]`.
        loss: A mean over the rows of all samples, in nats for cross-entropy (the default).
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
                HessianGraph,
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
