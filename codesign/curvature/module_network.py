"""A torch module as a network whose layers can be tapped and whose weights can be exchanged."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.tapped_network import Convolution, LayerGeometry, Linear, Tap, as_pair
from codesign.errors import InputError


class ModuleNetwork:
    """A copy of a module in eval mode; its Conv1d, Conv2d and Linear layers can be tapped, by their module paths.

    Args:
        module: What is copied; it stays as it is.
        dtype: Type that the copy computes in.

    Raises:
        InputError: Part of the module is in train mode, so that its BatchNorm would mix samples.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        parts = [] if isinstance(module, torch.fx.GraphModule) else module.named_modules()  # an exported graph is fixed
        training = [name or "(itself)" for name, part in parts if part.training]
        if training:
            raise InputError(f"module: {training[0]} is in train mode; call eval() before curvature is estimated")
        self._module = copy.deepcopy(module).to(dtype).requires_grad_(False)
        self._layers = {name: part for name, part in self._module.named_modules() if _is_layer(part)}
        self._geometries = {name: _geometry(part) for name, part in self._layers.items()}

    @property
    def geometries(self) -> Mapping[str, LayerGeometry]:
        """Layers that can be tapped, by module path."""
        return MappingProxyType(self._geometries)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """All parameters by name, in the type that the copy computes in; one of several names for a shared one."""
        return dict(self._module.named_parameters())

    def canonical_name(self, parameter: str) -> str | None:
        """The name in `weights` of a parameter that may have several.

        Args:
            parameter: Any of its names.

        Returns:
            The name, or None where there is no such parameter.
        """
        everywhere = dict(self._module.named_parameters(remove_duplicate=False))
        return next((name for name, weight in self.weights.items() if weight is everywhere.get(parameter)), None)

    def __call__(self, inputs: Tensor, tap: Tap | None = None) -> Tensor:
        """Runs the module.

        Args:
            inputs: `[N, ...]`.
            tap: Watches, and may replace, each layer's output.

        Returns:
            Logits `[N, ..., C]`.
        """
        if tap is None:
            return _as_tensor(self._module(inputs))
        handles = [layer.register_forward_hook(_hook(name, layer, tap)) for name, layer in self._layers.items()]
        try:
            return _as_tensor(self._module(inputs))
        finally:
            for handle in handles:
                handle.remove()

    def with_weights(self, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Runs the module with some of its parameters exchanged.

        Args:
            inputs: `[N, ...]`.
            weights: By parameter name.

        Returns:
            Logits `[N, ..., C]`, differentiable in `weights`.
        """
        return _as_tensor(torch.func.functional_call(self._module, dict(weights), (inputs,)))


def _is_layer(part: nn.Module) -> bool:
    return isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear))


def _geometry(layer: nn.Module) -> LayerGeometry:
    if isinstance(layer, nn.Linear):
        return Linear(layer.weight.numel())
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d))
    begin = (0, 0) if layer.padding_mode != "zeros" else as_pair([low for low, _ in _padding(layer)], 0)
    return Convolution(
        weight_elements=layer.weight.numel(),
        kernel=as_pair(layer.kernel_size, 1),
        stride=as_pair(layer.stride, 1),
        padding=begin,
        dilation=as_pair(layer.dilation, 1),
        groups=layer.groups,
    )


def _padding(layer: nn.Conv1d | nn.Conv2d) -> list[tuple[int, int]]:
    """Begin and end of each spatial axis; torch puts the odd one of `padding="same"` at the end."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        totals = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(int(size), int(size)) for size in layer.padding]


def _hook(name: str, layer: nn.Module, tap: Tap) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def report(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        entering = inputs[0]
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode != "zeros":
            widths = [width for begin_end in reversed(_padding(layer)) for width in begin_end]
            entering = F.pad(entering, widths, mode=layer.padding_mode)
        return tap(name, entering, output)

    return report


def _as_tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(f"module: returns {type(output).__name__}, allowed is one tensor of logits; wrap the module")
    return output
