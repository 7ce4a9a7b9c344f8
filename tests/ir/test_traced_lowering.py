"""Traced graphs are those of torch's exporter; what they do not cover is left to it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.architecture.squeezenext import SqueezeNext, squeezenext_digits
from codesign.architecture.squeezenext_config import imagenet_config
from codesign.errors import InputError
from codesign.ir import lowering
from codesign.ir.lowering import lower_module
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.program import Program
from codesign.ir.traced_lowering import traced_graph


def _grouped() -> nn.Module:
    return SqueezeNext(imagenet_config((1, 1, 1, 1), 5, "single", groups=2))


def _nodes(program: Program) -> list[tuple[object, ...]]:
    return [
        (node.name, node.op_type, [(str(x.shape), x.is_initializer()) for x in node.inputs if x is not None])
        for node in program.graph.graph
    ]


@pytest.mark.parametrize(
    ("factory", "shape"), [(squeezenext_digits, (1, 1, 8, 8)), (resnet20, (1, 3, 32, 32)), (_grouped, (1, 3, 67, 67))]
)
def test_traced_graph_is_the_exporters(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = factory().eval()
    assert traced_graph(module, shape) is not None
    traced = lower_module(module, shape)
    monkeypatch.setattr(lowering, "traced_graph", lambda *_: None)
    exported = lower_module(module, shape)
    assert _nodes(traced) == _nodes(exported)
    assert traced.parameter_of == exported.parameter_of
    x = torch.randn(3, *shape[1:])
    torch.testing.assert_close(TorchGraph(traced.graph).run(x), TorchGraph(exported.graph).run(x))


class _Layers(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.pool(self.conv(x)))
        x = F.pad(x, (1, 0, 2, 1))[:, :, 1:, ::2].relu()
        logits: torch.Tensor = self.last(self.flatten(self.mean(x)))
        return logits


def test_slices_pads_pools_and_modules() -> None:
    module = _Layers(nn.Sequential(nn.Dropout(), nn.Linear(4, 3))).eval()
    assert traced_graph(module, (1, 2, 8, 8)) is not None
    program = lower_module(module, (1, 2, 8, 8))  # checks the graph against the module
    assert [node.op_type for node in program.graph.graph] == [
        *("Conv", "MaxPool", "Relu", "Pad", "Slice", "Slice", "Relu", "ReduceMean", "Reshape", "Gemm")
    ]


@pytest.mark.parametrize("last", [nn.Linear(4, 3, bias=False), nn.Sequential(nn.Linear(4, 3), nn.GELU())])
def test_the_rest_is_exported(last: nn.Module) -> None:
    module = _Layers(last).eval()
    assert traced_graph(module, (1, 2, 8, 8)) is None
    assert lower_module(module, (1, 2, 8, 8)).weighted_nodes


def test_control_flow_on_data_is_refused_as_before() -> None:
    class Branches(_Layers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    module = Branches(nn.Linear(4, 3)).eval()
    assert traced_graph(module, (1, 2, 8, 8)) is None
    with pytest.raises(InputError):
        lower_module(module, (1, 2, 8, 8))
