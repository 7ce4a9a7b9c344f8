"""Small float64 networks with data, and their dense Hessians: what curvature is tested against."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.loss import CrossEntropy, Loss, SampleLoss, SquaredError
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import (
    GaussNewtonResult,
    PackingOptions,
    gauss_newton_blocks,
)

CurvatureCase = tuple[nn.Module, Tensor, Tensor]
"""Module in eval mode, inputs, labels."""


class Residual(nn.Module):
    """Convolutions of several kinds, a shortcut, max-pooling and BatchNorm in eval mode; in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(4, 4, (3, 1), stride=2, padding=(1, 0))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.leaky_relu(self.grouped(x) + x, 0.1)
        x = F.relu(self.strided(F.max_pool2d(x, 2, 1)), inplace=True)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Positions(nn.Module):
    """Logits at every position, `[N, T, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.mix = nn.Conv1d(5, 6, 3, padding=1)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        x = F.relu(self.mix(F.relu(self.first(x)).mT))
        logits: Tensor = self.last(x.mT)
        return logits


def residual_case() -> CurvatureCase:
    """A `Residual` with statistics of BatchNorm that matter.

    Returns:
        Module in float64, inputs `[6, 2, 5, 5]`, labels.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = Residual().double().eval()
    module.get_buffer("norm.running_mean").add_(0.2)
    module.get_buffer("norm.running_var").mul_(1.7)
    labels = torch.randint(0, 3, (6,), generator=generator)
    return module, torch.randn(6, 2, 5, 5, dtype=torch.float64, generator=generator), labels


def positions_case() -> CurvatureCase:
    """A `Positions`.

    Returns:
        Module in float64, inputs `[5, 6, 3]`, labels `[5, 6]`.
    """
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    labels = torch.randint(0, 4, (5, 6), generator=generator)
    return Positions().double().eval(), torch.randn(5, 6, 3, dtype=torch.float64, generator=generator), labels


def mlp_case(gain: float = 1.0) -> CurvatureCase:
    """Three dense layers.

    Args:
        gain: Factor on the last weight: a large one makes the softmax sharp.

    Returns:
        Module in float64, inputs `[60, 4]`, labels.
    """
    generator = torch.Generator().manual_seed(2)
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double().eval()
    with torch.no_grad():
        module.get_parameter("4.weight").mul_(gain)
    labels = torch.randint(0, 5, (60,), generator=generator)
    return module, torch.randn(60, 4, dtype=torch.float64, generator=generator) * 2, labels


def _non_convex(output: Tensor, target: Tensor) -> Tensor:
    return torch.cos(2 * output + target).sum() + output.flatten()[0] * output.flatten()[-1]


def _logistic(output: Tensor, target: Tensor) -> Tensor:
    return F.softplus(-output * target).mean()


LOSSES: dict[str, Loss] = {
    "cross-entropy": CrossEntropy(),
    "squared-error": SquaredError(),
    "convex function": SampleLoss(_logistic),
    "non-convex function": SampleLoss(_non_convex),
}
"""Losses of every kind: two that the product knows, two functions of one sample."""


def targets_for(loss: Loss, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Targets for a loss.

    Args:
        loss: The loss.
        module: Whose outputs they stand beside.
        inputs: Its inputs.
        labels: Targets of cross-entropy.

    Returns:
        The labels, or numbers of the outputs' shape.
    """
    if isinstance(loss, CrossEntropy):
        return labels
    generator = torch.Generator().manual_seed(7)
    return torch.randn(module(inputs).shape, dtype=torch.float64, generator=generator)


def packed(
    module: nn.Module,
    inputs: Tensor,
    options: PackingOptions,
    seed: int = 0,
    loss: Loss | None = None,
    targets: Tensor | None = None,
    activations: Sequence[str] = (),
) -> GaussNewtonResult:
    """Curvature of all layers of a module.

    Args:
        module: In eval mode.
        inputs: Its inputs.
        options: How outputs are packed.
        seed: Source of all draws.
        loss: The loss; None for cross-entropy by its own labels.
        targets: Of the loss.
        activations: Layers whose inputs are wanted as well.

    Returns:
        The result.
    """
    network = ModuleNetwork(module, inputs.dtype)
    layers = list(network.geometries)
    return gauss_newton_blocks(network, inputs, layers, loss, targets, options, seed, activations=activations)


def dense_hessian(module: nn.Module, inputs: Tensor, targets: Tensor, parameter: str, loss: Loss) -> Tensor:
    """The Hessian of the mean loss in one parameter, by autograd alone.

    Args:
        module: The module.
        inputs: Its inputs.
        targets: Of the loss.
        parameter: Its name; n numbers.
        loss: The loss.

    Returns:
        `[n, n]`.
    """
    value = dict(module.named_parameters())[parameter].detach()

    def mean_loss(weight: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, {parameter: weight}, (inputs,))
        return loss.total(outputs, targets) / loss.as_rows(outputs).shape[:2].numel()

    hessian: Tensor = torch.autograd.functional.hessian(mean_loss, value)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(value.numel(), value.numel())
