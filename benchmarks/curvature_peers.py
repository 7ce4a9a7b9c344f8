"""PyHessian and curvlinops as their users call them, and what their estimators need for a given error.

Both estimate a trace from products with random vectors. How many products they need follows from the exact blocks: the
variance of one Rademacher probe is `2 (||H||_F^2 - sum_i H_ii^2)`; XTrace's error has no formula and is measured by
running curvlinops' own function on the exact block. What a product costs is measured on the packages themselves.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

KEPT_SHARE = 1e-4
"""Share of the softmax Hessians' eigenvalue sum that the exact blocks leave out: variances change by less than that."""
XTRACE_PRODUCTS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768)
COLUMNS = 4
"""Vectors that curvlinops multiplies at once, beside one at a time, when its time is taken."""


def layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of convolutions and linear layers.

    Args:
        module: The network.

    Returns:
        By layer name.
    """
    layers = {name: part for name, part in module.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))}
    return {name: part.get_parameter("weight") for name, part in layers.items()}


def block_factors(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Factors of the exact Hessian blocks of a piecewise linear network, `H_l = R_l^T R_l`.

    Args:
        module: The network.
        images: `[N, ...]`.

    Returns:
        `[K, weights]` by layer, one row for each eigenvector of a sample's softmax Hessian that carries weight.
    """
    weights = layer_weights(module)
    with torch.no_grad():
        p = module(images).double().softmax(-1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1))
    ordered = values.flatten().sort(descending=True).values
    kept = ordered.cumsum(0) <= (1 - KEPT_SHARE) * ordered.sum()
    smallest = ordered[int(kept.sum())]
    rows: dict[str, list[Tensor]] = {name: [] for name in weights}
    for sample in range(len(images)):
        chosen = values[sample] >= smallest
        if chosen.any():
            seeds = (vectors[sample][:, chosen] * (values[sample][chosen] / len(images)).sqrt()).T
            logits = module(images[sample : sample + 1])
            gradients = torch.autograd.grad(
                logits, list(weights.values()), seeds.unsqueeze(1).to(logits), is_grads_batched=True
            )
            for name, gradient in zip(weights, gradients, strict=True):
                rows[name].append(gradient.flatten(1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def probe_variance(factor: Tensor) -> float:
    """Variance of one Rademacher probe of a block, as a share of the squared trace.

    Args:
        factor: R, `[K, weights]`.

    Returns:
        `2 (||H||_F^2 - sum_i H_ii^2) / tr(H)^2` for `H = R^T R`.
    """
    gram = (factor @ factor.T).double()
    diagonal = factor.double().square().sum(0)
    return float(2 * (gram.square().sum() - diagonal.square().sum()) / diagonal.sum() ** 2)


@dataclass(frozen=True)
class Block:
    """An exact block as curvlinops' estimators take a matrix.

    Attributes:
        factor: R, `[K, weights]`; the block is `R^T R`.
    """

    factor: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the block."""
        return self.factor.shape[1], self.factor.shape[1]

    @property
    def device(self) -> torch.device:
        """Of its products."""
        return self.factor.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its products."""
        return self.factor.dtype

    def __matmul__(self, vectors: Tensor) -> Tensor:
        return self.factor.T @ (self.factor @ vectors)


def xtrace_products(factor: Tensor, relative_error: float, seeds: int) -> tuple[int, float] | None:
    """The smallest number of products for which XTrace's root mean square error is small enough.

    Args:
        factor: R, `[K, weights]`.
        relative_error: The error wanted, as a share of the trace.
        seeds: Runs at each number of products.

    Returns:
        Products and the error reached; None if the largest number tried does not suffice.
    """
    from curvlinops import xtrace

    block = Block(factor.double())
    trace = float(block.factor.square().sum())
    for products in XTRACE_PRODUCTS:
        if products >= block.shape[0]:
            return block.shape[0], 0.0  # the product with every unit vector is exact
        errors = []
        for seed in range(seeds):
            torch.manual_seed(seed)  # curvlinops draws from the global generator
            errors.append(float(xtrace(block, products)) / trace - 1)
        error = math.sqrt(sum(e * e for e in errors) / seeds)
        if error <= relative_error:
            return products, error
    return None


@contextmanager
def only(module: nn.Module, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Makes some weights the only parameters that gradients are taken of.

    Args:
        module: The network.
        weights: The parameters.

    Yields:
        Nothing.
    """
    wanted = {id(weight) for weight in weights.values()}
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(id(parameter) in wanted)
        yield
    finally:
        for parameter, requires_grad in before.items():
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


def pyhessian_probe(
    module: nn.Module, images: Tensor, labels: Tensor, layers: Mapping[str, nn.Parameter]
) -> Callable[[], dict[str, float]]:
    """PyHessian's inner loop on one batch, its gradient graph kept.

    Its `trace` sums over all parameters; the pieces of the sum are what a user takes for a trace of each layer.

    Args:
        module: The network; parameters that need a gradient are probed.
        images: `[N, ...]`.
        labels: `[N]`.
        layers: Weights whose pieces are wanted.

    Returns:
        What draws a vector, multiplies, and gives `v_l^T (H v)_l` by layer.
    """
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # backward() with create_graph: torch warns of the cycle
        computer = hessian(module, nn.CrossEntropyLoss(), data=(images, labels), cuda=False)
    place = {id(parameter): index for index, parameter in enumerate(computer.params)}

    def run() -> dict[str, float]:
        vectors = [torch.randint_like(parameter, high=2) * 2 - 1 for parameter in computer.params]
        products = hessian_vector_product(computer.gradsH, computer.params, vectors)
        at = {name: place[id(weight)] for name, weight in layers.items()}
        return {name: float((vectors[i] * products[i]).sum()) for name, i in at.items()}

    return run


def curvlinops_product(
    module: nn.Module, images: Tensor, labels: Tensor, weights: Mapping[str, nn.Parameter], columns: int
) -> Callable[[], object]:
    """Products with curvlinops' Hessian.

    Args:
        module: The network.
        images: `[N, ...]`.
        labels: `[N]`.
        weights: Parameters of the Hessian.
        columns: Vectors at once.

    Returns:
        What runs them.
    """
    from curvlinops import HessianLinearOperator

    operator = HessianLinearOperator(
        module, nn.CrossEntropyLoss(), list(weights.values()), [(images, labels)], check_deterministic=False
    )
    vectors = torch.randint(0, 2, (operator.shape[1], columns)).to(images) * 2 - 1
    return lambda: operator @ vectors
