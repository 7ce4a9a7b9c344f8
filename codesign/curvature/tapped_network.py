"""What curvature estimators ask of a network: to run, and to show what enters and leaves its weighted layers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codesign.errors import CodesignError


@dataclass(frozen=True)
class Convolution:
    """How a weight `[C_out, C_in / groups, K_h, K_w]` meets its input; a 1-D convolution has height 1.

    Attributes:
        weight_elements: Elements of the weight.
        kernel: Height and width; all three sizes of a 3-D convolution.
        stride: The same axes.
        padding: Places before the first row and column; those at the end follow from the output's size.
        dilation: The same axes as the kernel.
        groups: Number of groups.
        padding_mode: What the padding holds: `zeros`, `reflect`, `replicate` or `circular`, as in torch.
    """

    weight_elements: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"


@dataclass(frozen=True)
class Linear:
    """A weight `[out, in]` or `[in, out]` that multiplies the last axis of its input.

    Attributes:
        weight_elements: Elements of the weight.
        scale: Factor on the product (`alpha` of ONNX Gemm).
    """

    weight_elements: int
    scale: float = 1.0


def spatial_axes(values: Sequence[int], missing: int) -> tuple[int, ...]:
    """Sizes of a 1-D, 2-D or 3-D operation, one for each spatial axis; a 1-D one gets a height.

    Args:
        values: One, two or three sizes.
        missing: The height of a 1-D operation.

    Returns:
        Two or three sizes.
    """
    return tuple(values) if len(values) > 1 else (missing, values[0])


LayerGeometry = Convolution | Linear

Tap = Callable[[str, Tensor, Tensor], Tensor]
"""Called as `tap(layer, input, output)` when a layer has run; what it returns goes on through the network."""


class TappedNetwork(Protocol):
    """A network whose weights are constants, and whose weighted layers can be watched.

    The first axis of the inputs, of the logits and of every layer's input and output runs over samples (or over samples
    and then something else: a layer may see `[N * T, ...]`), and no sample sees another: `check_samples_apart`.
    """

    @property
    def geometries(self) -> Mapping[str, LayerGeometry]:
        """Layers that can be tapped, in the order in which they run."""
        ...

    def __call__(self, inputs: Tensor, tap: Tap | None = None) -> Tensor:
        """Runs the network.

        Args:
            inputs: `[N, ...]`.
            tap: Watches, and may replace, each layer's output.

        Returns:
            Outputs `[N, ...]`, such as logits `[N, ..., C]`.
        """
        ...


WeightedForward = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""A network as a differentiable function of some of its weights: `forward(inputs, weights by name) -> logits`."""


@dataclass(frozen=True)
class BlockCurvature:
    """One diagonal block of a Hessian or Gauss-Newton matrix: of a layer's weight, or of what enters a layer.

    Attributes:
        trace: Units of the loss (nats for the cross-entropy) per squared unit of the weight.
        standard_error: Of `trace` over what was drawn at random (not over the data); 0 if nothing was.
        eigenvalues: The largest ones, largest first, where they were asked for and affordable.
        draws: Random vectors or pairs that the estimate rests on; 0 if nothing was drawn.
    """

    trace: float
    standard_error: float
    eigenvalues: tuple[float, ...] = ()
    draws: int = 0


def check_samples_apart(network: TappedNetwork, inputs: Tensor) -> frozenset[str]:
    """Checks with two samples that each is computed alone and that the first axis of every layer runs over samples.

    Args:
        network: What is checked; costs three forward passes over at most two samples.
        inputs: `[N, ...]`; the first two are used.

    Returns:
        Layers that run exactly once in a forward pass, the ones whose blocks can be found from taps.

    Raises:
        CodesignError: A layer's input for two samples is not the two inputs for one sample each, put together.
    """
    together = _layer_inputs(network, inputs[:2])
    alone = [_layer_inputs(network, sample) for sample in torch.split(inputs[:2], 1)]
    tolerance = torch.finfo(inputs.dtype).eps ** 0.5
    for name, found in together.items():
        wanted = [torch.cat(parts) for parts in zip(*(inputs_of[name] for inputs_of in alone), strict=True)]
        for one, other in zip(found, wanted, strict=True):
            if one.shape != other.shape or not _is_close(one, other, tolerance):
                raise CodesignError(
                    f"layer {name!r}: its input for two samples differs from the inputs for each sample alone "
                    f"(shapes {tuple(one.shape)} and {tuple(other.shape)}); per-sample curvature needs a network in "
                    f"eval mode whose first axis runs over samples"
                )
    return frozenset(name for name, uses in together.items() if len(uses) == 1)


def _is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    apart = bool((one - other).abs().max() > tolerance * one.abs().max())
    return not apart  # NaN is not a matter of layout; it shows in the logits


def _layer_inputs(network: TappedNetwork, inputs: Tensor) -> dict[str, list[Tensor]]:
    seen: dict[str, list[Tensor]] = {}

    def remember(name: str, entering: Tensor, leaving: Tensor) -> Tensor:
        seen.setdefault(name, []).append(entering.detach().clone())
        return leaving

    with torch.no_grad():
        network(inputs, remember)
    return seen
