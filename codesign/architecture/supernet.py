"""One set of weights that all variants of a space share, each variant taking parts of them."""

import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codesign.architecture.shared_weight import SharedWeight
from codesign.architecture.space import ArchitectureSpace, Variant, largest
from codesign.errors import InputError

_KEPT_VARIANTS = 256
"""How many variants' structures are kept; they hold no weights."""


@dataclass(frozen=True)
class _Structure:
    """A variant without weights.

    Attributes:
        module: Runs the variant; its parameters are on the meta device and its BatchNorm layers normalise with the
            statistics of the batch.
        parts: By name of the module's parameters.
        constants: By name of the module's other buffers.
    """

    module: nn.Module
    parts: Mapping[str, SharedWeight]
    constants: Mapping[str, Tensor]


class Supernet(nn.Module):
    """The union of the parameters of all variants of a space.

    A variant is run by `torch.func.functional_call` on its own network with parts of the shared parameters in place of
    its own, so that spaces need no elastic layers. Shared parameters start as the largest variant's fresh weights; what
    it does not have comes from variants that differ from it in one axis.

    Args:
        space: The space.
        seed: Decides the weights.

    Attributes:
        space: The space.

    Raises:
        InputError: A variant's parts do not match its parameters.
    """

    def __init__(self, space: ArchitectureSpace, seed: int) -> None:
        super().__init__()
        self.space = space
        self._structures: OrderedDict[Variant, _Structure] = OrderedDict()
        for name, tensor in _initial_weights(space, seed).items():
            self.register_parameter(self.parameter_name(name), nn.Parameter(tensor))

    @staticmethod
    def parameter_name(shared_name: str) -> str:
        """Name under which a shared parameter is kept: modules allow no dots in it.

        Args:
            shared_name: As parts name it.

        Returns:
            As `named_parameters` has it.
        """
        return shared_name.replace(".", "/")

    def weights_of(self, variant: Variant) -> dict[str, Tensor]:
        """A variant's weights: differentiable parts of the shared parameters.

        Args:
            variant: A member of the space.

        Returns:
            By name of the parameters of the variant's network.

        Raises:
            InputError: A part lies outside of the shared parameters.
        """
        return {name: part.take(self._shared(variant, name, part)) for name, part in self._parts(variant).items()}

    def run(self, variant: Variant, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Runs a variant in training mode: BatchNorm normalises with the statistics of this batch and keeps none.

        Args:
            variant: A member of the space.
            images: Input, `[N, ...]`.
            weights: By name, in place of `weights_of(variant)`; all of them.

        Returns:
            The network's output.
        """
        structure = self._structure(variant)
        given = self.weights_of(variant) if weights is None else weights
        constants = {name: value.to(images.device) for name, value in structure.constants.items()}
        output: Tensor = functional_call(structure.module, {**given, **constants}, (images,), strict=True)
        return output

    def extract(self, variant: Variant) -> nn.Module:
        """A network of its own with a variant's weights, copied.

        Its BatchNorm statistics are those of a fresh network: they must be calibrated before it is used.

        Args:
            variant: A member of the space.

        Returns:
            The network, on the CPU.
        """
        with torch.random.fork_rng(devices=[]):
            network = self.space.network(variant)
        with torch.no_grad():
            weights = self.weights_of(variant)
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        return network

    def _parts(self, variant: Variant) -> Mapping[str, SharedWeight]:
        return self._structure(variant).parts

    def _structure(self, variant: Variant) -> _Structure:
        if variant not in self._structures:
            self._structures[variant] = _structure(self.space, variant)
            if len(self._structures) > _KEPT_VARIANTS:
                self._structures.popitem(last=False)
        self._structures.move_to_end(variant)
        return self._structures[variant]

    def _shared(self, variant: Variant, name: str, part: SharedWeight) -> Tensor:
        shared = self._parameters.get(self.parameter_name(part.name))
        if shared is None or not _holds(shared.shape, part):
            have = "there is none" if shared is None else f"it has shape {list(shared.shape)}"
            raise InputError(
                f"space {self.space.name!r}: parameter {name!r} of variant {variant} needs shape "
                f"{list(part.dense_shape)} of the shared parameter {part.name!r}, but {have}; order the values of axes "
                "by capacity, so that the variants that differ from the largest one in one axis hold all parameters"
            )
        return shared


def _structure(space: ArchitectureSpace, variant: Variant) -> _Structure:
    with torch.random.fork_rng(devices=[]):  # ten times as fast as on the meta device, where every call is intercepted
        module, parts = _fresh(space, variant)
    for layer in module.modules():
        _without_weights(layer)
    return _Structure(module.train(), parts, dict(module.named_buffers()))


def _fresh(space: ArchitectureSpace, variant: Variant) -> tuple[nn.Module, Mapping[str, SharedWeight]]:
    """A variant's network and its parts, which are checked against it."""
    module, parts = space.network(variant), dict(space.shared_weights(variant))
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    claimed = {name: part.shape for name, part in parts.items()}
    if shapes != claimed:
        wrong = min(name for name in shapes.keys() | claimed.keys() if shapes.get(name) != claimed.get(name))
        raise InputError(
            f"space {space.name!r}: variant {variant}: parameter {wrong!r} has shape {claimed.get(wrong)} in "
            f"shared_weights and {shapes.get(wrong)} in network; make both agree"
        )
    return module, parts


def _without_weights(layer: nn.Module) -> None:
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(parameter.detach().to("meta")))
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _holds(shape: Sequence[int], part: SharedWeight) -> bool:
    return len(shape) == len(part.shape) and all(map(operator.ge, shape, part.dense_shape))


def _covering(space: ArchitectureSpace) -> Iterator[Variant]:
    """The variants that differ from the largest one in one axis, and the largest one, last."""
    whole = largest(space)
    for place, axis in enumerate(space.axes):
        for value in axis.values[:-1]:
            choices = list(whole.choices)
            choices[place] = (axis.name, value)
            yield replace(whole, choices=tuple(choices))
    yield whole


def _initial_weights(space: ArchitectureSpace, seed: int) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    found: list[tuple[SharedWeight, Tensor]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for variant in _covering(space):
            network, parts = _fresh(space, variant)
            for name, part in parts.items():
                before = shapes.get(part.name, part.dense_shape)
                shapes[part.name] = tuple(map(max, zip(before, part.dense_shape, strict=True)))
                found.append((part, network.get_parameter(name).detach()))
        weights: dict[str, Tensor] = {}
        for part, value in found:  # the largest variant's come last
            if part.name not in weights:
                weights[part.name] = _like(value, shapes[part.name])
            part.put(weights[part.name], value)
    return weights


def _like(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Random values with the mean and deviation of others, for what no variant here fills."""
    spread = float(value.std(correction=0))
    return torch.randn(shape) * spread + float(value.mean())
