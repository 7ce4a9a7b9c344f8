"""A torch module as a network whose layers can be tapped and whose weights can be exchanged."""

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from codesign.curvature.tapped_network import Convolution, LayerGeometry, Linear, Tap, spatial_axes
from codesign.errors import InputError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class ModuleNetwork:
    """A copy of a module in eval mode; its convolutions and Linear layers can be tapped, by their module paths.

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
            raise InputError(
                f"module: {training[0]} is in train mode, where samples may mix and outputs are random; call eval() "
                f"before curvature is estimated"
            )
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
        handles = [layer.register_forward_hook(_hook(name, tap)) for name, layer in self._layers.items()]
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
    return isinstance(part, (*_CONVOLUTIONS, nn.Linear))


def _geometry(layer: nn.Module) -> LayerGeometry:
    if isinstance(layer, nn.Linear):
        return Linear(layer.weight.numel())
    assert isinstance(layer, _CONVOLUTIONS)
    return Convolution(
        weight_elements=layer.weight.numel(),
        kernel=spatial_axes(layer.kernel_size, 1),
        stride=spatial_axes(layer.stride, 1),
        padding=spatial_axes(_begin_padding(layer), 0),
        dilation=spatial_axes(layer.dilation, 1),
        groups=layer.groups,
        padding_mode=layer.padding_mode,
    )


def _begin_padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Places before the first of each spatial axis; torch puts the odd one of `padding="same"` at the end."""
    if layer.padding == "valid":
        return [0] * len(layer.kernel_size)
    if layer.padding == "same":
        return [step * (size - 1) // 2 for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [int(size) for size in layer.padding]


def _hook(name: str, tap: Tap) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def report(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return tap(name, inputs[0], output)

    return report


def _as_tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(f"module: returns {type(output).__name__}, allowed is one tensor of logits; wrap the module")
    return output
