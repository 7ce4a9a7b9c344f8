"""Networks whose Hessian traces are exact somewhere and estimated elsewhere, their data, and their dense Hessians."""

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.ir.lowering import lower_module
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.pass_manager.base import CalibrationData
from codesign.testing.networks import SmallMobileNet, SmallTransformer, randomize


class TinyNet(nn.Module):
    """Grouped, strided and asymmetric layers, BatchNorm; behind a curved head `last` alone is exact.

    Attributes:
        head: Element-wise function before the last layer.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, (2, 3), stride=(1, 2), padding=(1, 0), groups=2)
        self.hidden = nn.Linear(32, 3)
        self.head = head
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(F.relu(self.second(x)), (2, 1), (1, 1))
        logits: Tensor = self.last(self.head(self.hidden(x.flatten(1))))
        return logits


class SharedConvolution(nn.Module):
    """One convolution before two BatchNorms: folding makes two weights of it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(2))
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        for norm in self.norms:
            x = F.relu(norm(self.twice(x)))
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


class TiedLayers(nn.Module):
    """Two layers that hold the same parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        logits: Tensor = self.last(F.relu(self.other(F.relu(self.one(x)))))
        return logits


class HiddenUse(nn.Module):
    """A parameter that is a layer's weight, and scales the logits as well; the graph holds the scale as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        logits: Tensor = self.last(F.relu(self.seen(x))) * self.seen.weight.square().sum()
        return logits


class PerPosition(nn.Module):
    """A 1-D convolution and logits at every position, `[N, T, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(3, 4, 3, padding=1, dilation=1)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Inputs.

        Returns:
            Logits.
        """
        logits: Tensor = self.last(F.relu(self.mix(x)).transpose(1, 2))
        return logits


TRACED_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: TinyNet(nn.ReLU()), (2, 4, 5)),
    "tanh": (lambda: TinyNet(nn.Tanh()), (2, 4, 5)),
    "shared": (SharedConvolution, (2, 4, 4)),
    "tied": (TiedLayers, (4,)),
    "hidden_use": (HiddenUse, (4,)),
    "positions": (PerPosition, (3, 5)),
    "mobilenet": (SmallMobileNet, (3, 16, 16)),
    "transformer": (SmallTransformer, (3, 16, 16)),
}
"""Factories and shapes of a sample."""


@cache
def _lowered(name: str) -> Program:
    factory, shape = TRACED_NETWORKS[name]
    return lower_module(randomize(factory()), (1, *shape))


def traced_program(name: str) -> Program:
    """A copy of a lowered network.

    Args:
        name: A key of `TRACED_NETWORKS`.

    Returns:
        The program, which may be changed.
    """
    program = _lowered(name)
    return Program(program.graph.clone(), copy.deepcopy(program.module), program.parameter_of)


def traced_data(name: str, samples: int = 8, labelled: bool = True) -> CalibrationData:
    """Random images and labels.

    Args:
        name: A key of `TRACED_NETWORKS`.
        samples: How many.
        labelled: Whether there are labels.

    Returns:
        The data.
    """
    random = np.random.default_rng(0)
    images = random.normal(size=(samples, *TRACED_NETWORKS[name][1])).astype(np.float32)
    labels = random.integers(0, 3, (samples, 5) if name == "positions" else samples)
    return CalibrationData(images, labels if labelled else None)


def _dense(forward: Callable[[Tensor], Tensor], weight: Tensor, labels: Tensor) -> Tensor:
    def loss(value: Tensor) -> Tensor:
        return F.cross_entropy(forward(value).flatten(0, -2), labels.flatten())

    hessian: Tensor = torch.autograd.functional.hessian(loss, weight)  # type: ignore[no-untyped-call] # torch has no types
    return hessian.reshape(weight.numel(), weight.numel())


def dense_of_folded(program: Program, data: CalibrationData, node: str) -> Tensor:
    """The Hessian of the mean cross-entropy in one weight of the graph.

    Args:
        program: The network.
        data: Images and labels.
        node: The node; its weight has n numbers.

    Returns:
        `[n, n]`.
    """
    graph = TorchGraph(program.graph, torch.float64)
    name = graph.weight_name_of[node]
    images = torch.from_numpy(data.images).double()
    assert data.labels is not None
    return _dense(lambda w: graph.run(images, {name: w}), graph.constants[name], torch.from_numpy(data.labels))


def dense_of_module(program: Program, data: CalibrationData, node: str) -> Tensor:
    """The Hessian of the mean cross-entropy in one parameter of the module.

    Args:
        program: The network.
        data: Images and labels.
        node: The node; its parameter has n numbers.

    Returns:
        `[n, n]`.
    """
    assert program.module is not None and data.labels is not None
    module, name = copy.deepcopy(program.module).double(), program.parameter_of[node]
    images = torch.from_numpy(data.images).double()
    weight = module.get_parameter(name).detach()
    labels = torch.from_numpy(data.labels)
    return _dense(lambda w: torch.func.functional_call(module, {name: w}, (images,)), weight, labels)
