"""ONNX operators that treat every element alike, with numpy's broadcasting."""

from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.errors import InputError
from codesign.ir.attributes import Attributes


def _divide(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _modulo(node: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.integer("fmod", 0) else torch.remainder(a, b)


def _clip(_: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.clamp(x, min=low)
    return x if high is None else torch.clamp(x, max=high)


def _hard_sigmoid(node: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(node.real("alpha", 0.2) * x + node.real("beta", 0.5), 0, 1)


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _cast(node: Attributes, x: Tensor) -> Tensor:
    return x.to(node.type_named("to"))


def _dropout(node: Attributes, x: Tensor, _: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    if training is not None and bool(training.item()):
        raise InputError(f"{node.where}: drops at random; export the network in inference mode")
    return x


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Attributes, Tensor], Tensor]:
    return lambda _, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Attributes, Tensor, Tensor], Tensor]:
    return lambda _, a, b: function(a, b)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def fold(_: Attributes, *operands: Tensor) -> Tensor:
        return reduce(function, operands)

    return fold


UNARY: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "Abs": _unary(torch.abs),
    "Cast": _cast,
    "CastLike": lambda _, x, like: x.to(like.dtype),
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Dropout": _dropout,
    "Elu": lambda node, x: F.elu(x, node.real("alpha", 1.0)),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": lambda node, x: F.gelu(x, approximate=node.text("approximate", "none")),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(lambda x: x),
    "LeakyRelu": lambda node, x: F.leaky_relu(x, node.real("alpha", 0.01)),
    "Log": _unary(torch.log),
    "Mish": _unary(F.mish),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Softplus": _unary(F.softplus),
    "Sqrt": _unary(torch.sqrt),
    "Tanh": _unary(torch.tanh),
})
"""One tensor in, the same shape out; further operands are scalars."""

BROADCASTING: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "Div": _divide,
    "Equal": _binary(torch.eq),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _power,
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Where": lambda _, condition, a, b: torch.where(condition, a, b),
})
"""Several tensors in, broadcast against each other."""
