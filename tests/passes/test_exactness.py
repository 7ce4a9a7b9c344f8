"""Which layers are marked exact, against dense float64 Hessians of small networks with every kind of structure."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.softmax_hessian import softmax_hessian
from codesign.ir.annotations import HessianTrace
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.curvature_source import CurvatureSource, WeightsOf
from codesign.passes.hessian_trace import HessianTracePass, trace_blocks
from codesign.testing.networks import randomize

SAMPLES = 4
PIECEWISE = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(2),
    "relu6": nn.ReLU6(),
    "hard_tanh": nn.Hardtanh(-0.5, 0.7),
    "dropout": nn.Dropout(0.5),
}
CURVED = {
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "hard_swish": nn.Hardswish(),
    "elu": nn.ELU(),
}


class Activations(nn.Module):
    """One small layer before each activation function, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = nn.ModuleDict({**PIECEWISE, **CURVED})
        self.before = nn.ModuleDict({name: nn.Linear(4, 2) for name in self.functions})
        self.last = nn.Linear(2 * len(self.functions), 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.cat([f(self.before[name](x)) for name, f in self.functions.items()], 1))
        return logits


class Attention(nn.Module):
    """Softmax attention without anything curved behind it: values and projection act linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.projection, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).transpose(1, 2) / 2).softmax(-1)
        logits: Tensor = self.head((x + self.projection(weights @ self.v(x))).mean(1))
        return logits


class Convolutions(nn.Module):
    """BatchNorm, a residual addition, max and average pools, a concatenation, Dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        self.mix, self.head = nn.Conv2d(6, 2, 1), nn.Linear(8, 3)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        x = F.relu(x + self.norms[1](self.branch(x)))
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1)
        logits: Tensor = self.head(self.dropout(F.relu6(self.mix(x)).flatten(1)))
        return logits


class Gates(nn.Module):
    """Products: of two layers, of a layer with itself, squeeze and excite with a hard and a soft gate."""

    def __init__(self) -> None:
        super().__init__()
        names = ("left", "right", "square", "gated", "squeeze", "excite", "softly_gated", "soft")
        self.layers = nn.ModuleDict({name: nn.Linear(3, 3) for name in names})
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        of = self.layers
        square, gated, softly = of["square"](x), of["gated"](x), of["softly_gated"](x)
        parts = [
            of["left"](x) * of["right"](x),
            square * square,
            gated * F.relu6(of["excite"](F.relu(of["squeeze"](gated))) + 3) / 6,
            softly * torch.sigmoid(of["soft"](softly)),
        ]
        logits: Tensor = self.last(torch.cat(parts, 1))
        return logits


class Normalized(nn.Module):
    """LayerNorm on the way, and a layer that goes around it."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.around, self.last = (nn.Linear(4, 4) for _ in range(4))
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.after(self.norm(self.before(x)))) + F.relu(self.around(x)))
        return logits


class Twice(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.relu(self.twice(F.relu(self.twice(x)))))
        return logits


class Pieces(nn.Module):
    """Comparisons, choices, extrema and rounding, which are piecewise linear, and logarithms of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.rounded, self.last = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        one, other, rounded = self.one(x), self.other(x), self.rounded(x)
        chosen = torch.where(one > 0, one, 0.1 * one) + torch.maximum(one, other).abs() - torch.minimum(one, -other)
        rest = other - torch.floor(rounded) + rounded.clamp(-0.5, 0.5).amax(1, keepdim=True)
        return F.log_softmax(self.last(chosen + rest + torch.sign(other)), -1)


def _before(names: Mapping[str, nn.Module]) -> frozenset[str]:
    return frozenset(f"before.{name}" for name in names)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], frozenset[str]]] = {
    "activations": (Activations, (4,), _before(PIECEWISE) | {"last"}),
    "attention": (Attention, (3, 4), frozenset({"v", "projection", "head"})),
    "convolutions": (Convolutions, (2, 4, 4), frozenset({"stem", "branch", "mix", "head"})),
    "gates": (Gates, (3,), frozenset({"last", *(f"layers.{n}" for n in ("left", "right", "squeeze", "excite"))})),
    "normalized": (Normalized, (4,), frozenset({"after", "around", "last"})),
    "twice": (Twice, (4,), frozenset({"last"})),
    "pieces": (Pieces, (4,), frozenset({"one", "other", "rounded", "last"})),
}
"""Name to the network, the shape of a sample, and the layers whose Hessian blocks are Gauss-Newton blocks."""


@cache
def _program(name: str) -> Program:
    factory, shape, _ = NETWORKS[name]
    return lower_module(randomize(factory(), seed=4), (1, *shape))


def _data(name: str) -> CalibrationData:
    random = np.random.default_rng(1)
    images = random.normal(size=(SAMPLES, *NETWORKS[name][1])).astype(np.float32)
    return CalibrationData(images, random.integers(0, 3, SAMPLES))


def _dense_blocks(source: CurvatureSource, data: CalibrationData, weight: str) -> tuple[Tensor, Tensor]:
    """The Hessian's and the Gauss-Newton block of one weight, from their definitions."""
    assert data.labels is not None
    images, labels = torch.from_numpy(data.images).double(), torch.from_numpy(data.labels)
    value = source.network.weights[weight].detach()

    def logits(w: Tensor) -> Tensor:
        return source.with_weights(images, {weight: w})

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(logits(w), labels)

    functional = torch.autograd.functional
    hessian: Tensor = functional.hessian(loss, value, vectorize=True)  # type: ignore[no-untyped-call] # torch has no types
    jacobian: Tensor = functional.jacobian(logits, value, vectorize=True)  # type: ignore[no-untyped-call] # as above
    columns = jacobian.flatten(2)
    gauss_newton = torch.einsum("ncp,ncd,ndq->pq", columns, softmax_hessian(logits(value)), columns) / SAMPLES
    return hessian.reshape(gauss_newton.shape), gauss_newton


@cache
def _facts(name: str, weights_of: WeightsOf) -> Mapping[str, HessianTrace]:
    options = HessianTracePass(method="gauss-newton", drop=0, dtype="float64", weights_of=weights_of, eigenvalues=3)
    return trace_blocks(_program(name), PassContext(_data(name)), options).facts


@pytest.mark.parametrize("weights_of", ["folded", "module"])
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_layers_are_those_whose_hessian_is_gauss_newton(name: str, weights_of: WeightsOf) -> None:
    program, data, facts = _program(name), _data(name), _facts(name, weights_of)
    source = CurvatureSource.of(program, weights_of, torch.float64)
    for node in program.weighted_nodes:
        fact = facts[name_of(node)]
        hessian, gauss_newton = _dense_blocks(source, data, source.weight_of[name_of(node)])
        difference = float((hessian - gauss_newton).abs().max() / hessian.abs().max())
        assert fact.exact == (difference < 1e-10), (node.name, difference)
        assert fact.matrix == ("hessian" if fact.exact else "gauss-newton")
        assert fact.exact or difference > 1e-4, (node.name, difference)
        assert fact.trace == pytest.approx(float(gauss_newton.trace()), rel=1e-10)
        wanted = torch.linalg.eigvalsh(gauss_newton).flip(0)[:3].tolist()
        tolerance = 1e-9 if fact.method == "packed-gauss-newton" else 1e-3
        assert fact.top_eigenvalues[:1] == pytest.approx(wanted[:1], rel=tolerance)
        assert fact.top_eigenvalues == pytest.approx(wanted, rel=tolerance, abs=1e-6 * wanted[0])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_marked_exact_are_these(name: str) -> None:
    assert {node for node, fact in _facts(name, "folded").items() if fact.exact} == NETWORKS[name][2]
