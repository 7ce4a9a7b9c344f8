"""ResNet-20 on 200 images against float64 reference values that another program computed."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from codesign.architecture.resnet_cifar import resnet20
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_blocks
from codesign.curvature.tapped_network import BlockCurvature

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


def _blocks(names: list[str], dtype: torch.dtype, options: PackingOptions) -> Mapping[str, BlockCurvature]:
    return gauss_newton_blocks(_network(dtype), _images(dtype), names, options=options).blocks


def _check(blocks: Mapping[str, BlockCurvature], trace_error: float, eigenvalue_error: float) -> None:
    reference = _reference()
    for name, block in blocks.items():
        assert block.trace == pytest.approx(reference[name]["trace"], rel=trace_error)
        assert block.eigenvalues == pytest.approx(reference[name]["top_eigenvalues"], rel=eigenvalue_error)


@needs_shared
def test_float32_traces_with_a_sampled_tail() -> None:
    network, reference = _network(torch.float32), _reference()
    assert set(network.geometries) == set(reference)
    for drop, most in ((0.01, 1e-2), (0.001, 1e-3)):
        result = gauss_newton_blocks(network, _images(torch.float32), list(reference), options=PackingOptions(drop))
        assert result.passes_over_data < 3
        for name, wanted in reference.items():
            block, trace = result.blocks[name], wanted["trace"]
            assert isinstance(trace, float)
            assert network.geometries[name].weight_elements == wanted["parameters"]
            assert block.trace == pytest.approx(trace, rel=most)
            assert 0 < block.standard_error < most * trace
            assert abs(block.trace - trace) < 4 * block.standard_error


@needs_shared
def test_float32_eigenvalues() -> None:
    # Both sides of the Gram matrix, and the layers with the most places and with the largest weight.
    names = ["conv1", "layer1.0.conv1", "layer3.0.conv1", "layer3.2.conv2", "linear"]
    _check(_blocks(names, torch.float32, PackingOptions(drop=1e-4, eigenvalues=5)), 1e-3, 1e-3)


@needs_shared
def test_float64_traces_and_eigenvalues() -> None:
    names = ["layer3.2.conv2", "linear"]  # late ones, which the backward passes reach first
    _check(_blocks(names, torch.float64, PackingOptions(drop=1e-9, eigenvalues=5)), 1e-8, 1e-8)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "drop", "error"), [(torch.float64, 1e-9, 1e-8), (torch.float32, 1e-4, 1e-3)])
def test_all_layers(dtype: torch.dtype, drop: float, error: float) -> None:
    _check(_blocks(list(_reference()), dtype, PackingOptions(drop=drop, eigenvalues=5)), error, error)
