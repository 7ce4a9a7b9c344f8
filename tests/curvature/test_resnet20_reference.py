"""ResNet-20 on 200 images against float64 reference values that another program computed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from codesign.architecture.resnet_cifar import resnet20
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_traces

SHARED = Path(__file__).parents[2] / ".." / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="../shared (CIFAR-10 weights, data and reference) is absent"
)


def _network(dtype: torch.dtype) -> ModuleNetwork:
    module = resnet20().eval()
    state = torch.load(SHARED / "models/cifar10/resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    module.load_state_dict({name.removeprefix("module."): value for name, value in state["state_dict"].items()})
    return ModuleNetwork(module, dtype)


def _images(dtype: torch.dtype) -> Tensor:
    images = torch.from_numpy(np.load(SHARED / "data/cifar10/lossless_test.npz")["images"][:200]).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((images - mean) / std).permute(0, 3, 1, 2).contiguous().to(dtype)


def _reference() -> dict[str, dict[str, object]]:
    layers: dict[str, dict[str, object]] = json.loads((SHARED / "reference/curvature_resnet20.json").read_text())[
        "layers"
    ]
    return layers


@needs_shared
def test_float32_traces_with_a_sampled_tail() -> None:
    network, reference = _network(torch.float32), _reference()
    assert set(network.geometries) == set(reference)
    blocks = gauss_newton_traces(network, _images(torch.float32), list(reference))
    for name, wanted in reference.items():
        trace = wanted["trace"]
        assert isinstance(trace, float)
        assert network.geometries[name].weight_elements == wanted["parameters"]
        assert blocks[name].trace == pytest.approx(trace, rel=1e-3)
        assert 0 < blocks[name].standard_error < 1e-3 * trace
        assert abs(blocks[name].trace - trace) < 4 * blocks[name].standard_error


@needs_shared
def test_float32_top_eigenvalues() -> None:
    reference = _reference()
    names = ["conv1", "layer3.0.conv1", "linear"]
    options = PackingOptions(drop=1e-4, top_eigenvalue=True)
    blocks = gauss_newton_traces(_network(torch.float32), _images(torch.float32), names, options)
    for name in names:
        wanted = reference[name]["top_eigenvalues"]
        assert isinstance(wanted, list)
        assert blocks[name].top_eigenvalue == pytest.approx(wanted[0], rel=2e-3)
