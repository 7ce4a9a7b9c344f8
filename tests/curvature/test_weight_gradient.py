import pytest
import torch
from torch import nn

from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.tapped_network import Linear
from codesign.curvature.weight_gradient import channel_gradients, patches, squared_gradient_norms, weight_gradients

LAYERS = {
    "conv": (nn.Conv2d(3, 4, 3), (3, 6, 7)),
    "strided": (nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0)), (3, 8, 9)),
    "leftover": (nn.Conv2d(2, 3, 3, stride=4, padding=1), (2, 8, 11)),  # the last rows and columns are never read
    "dilated": (nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=2), (3, 7, 7)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, padding=1), (6, 5, 5)),
    "depthwise": (nn.Conv2d(5, 10, 3, groups=5, padding=1), (5, 6, 6)),
    "pointwise-one-place": (nn.Conv2d(8, 9, 1), (8, 1, 1)),
    "same-even-kernel": (nn.Conv2d(2, 3, 4, padding="same"), (2, 6, 6)),
    "valid": (nn.Conv2d(2, 3, 2, padding="valid"), (2, 4, 4)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
    "reflect-same": (nn.Conv2d(2, 3, 4, padding="same", padding_mode="reflect"), (2, 5, 6)),
    "circular-leftover": (nn.Conv2d(2, 3, 3, stride=4, padding=2, padding_mode="circular"), (2, 8, 11)),
    "replicate": (nn.Conv2d(2, 3, 3, padding=2, dilation=2, padding_mode="replicate"), (2, 5, 6)),
    "3-D": (nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 1, 0), groups=2), (2, 4, 6, 3)),
    "3-D-same": (nn.Conv3d(2, 3, 2, padding="same"), (2, 3, 4, 2)),
    "1-D-circular": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (2, 7)),
    "1-D": (nn.Conv1d(4, 6, 5, stride=2, padding=3, dilation=2, groups=2), (4, 17)),
    "1-D-same": (nn.Conv1d(2, 3, 4, padding="same"), (2, 9)),
    "linear": (nn.Linear(7, 5), (7,)),
    "linear-positions": (nn.Linear(7, 5), (3, 2, 7)),
    "linear-many-positions": (nn.Linear(3, 2), (40, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_equals_autograd_for_each_output_gradient(name: str) -> None:
    layer, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    network = ModuleNetwork(nn.Sequential(layer).eval(), torch.float64)
    samples = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    entering: list[torch.Tensor] = []

    def remember(_: str, seen: torch.Tensor, leaving: torch.Tensor) -> torch.Tensor:
        entering.append(seen)
        return leaving

    network(samples, remember)
    weight = network.weights["0.weight"].detach().requires_grad_()
    output = network.with_weights(samples, {"0.weight": weight})
    gradients = torch.randn(2, 3, *output.shape[1:], dtype=torch.float64, generator=generator)
    wanted = torch.stack([
        torch.stack([torch.autograd.grad(output[s], weight, g, retain_graph=True)[0].flatten() for g in of_sample])
        for s, of_sample in enumerate(gradients)
    ])

    geometry = network.geometries["0"]
    columns = patches(geometry, entering[0].unsqueeze(1), output[:1].shape)
    channels = channel_gradients(geometry, gradients.unsqueeze(2))
    assert geometry.weight_elements == weight.numel()
    assert torch.allclose(weight_gradients(columns, channels), wanted, rtol=1e-12, atol=1e-12)
    norms = squared_gradient_norms(columns, channels)
    assert torch.allclose(norms, wanted.square().sum(2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("places", [1, 2, 5, 50, 400])
def test_gram_form_and_direct_form_agree(places: int) -> None:
    generator = torch.Generator().manual_seed(places)
    columns = torch.randn(3, 2, 12, places, dtype=torch.float64, generator=generator)
    gradients = torch.randn(3, 2, 5, 9, places, dtype=torch.float64, generator=generator)
    wanted = weight_gradients(columns, gradients).square().sum(2)
    assert torch.allclose(squared_gradient_norms(columns, gradients), wanted, rtol=1e-12, atol=0)


def test_a_layer_that_folds_other_axes_into_the_first_sums_over_them() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).double()
    frames = torch.randn(5, 3, 6, 6, dtype=torch.float64, generator=generator)
    output = layer(frames)
    gradient = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    wanted = torch.autograd.grad(output, layer.weight, gradient)[0]
    geometry = ModuleNetwork(nn.Sequential(layer).eval(), torch.float64).geometries["0"]
    columns = patches(geometry, frames.unsqueeze(0), output.shape)
    found = weight_gradients(columns, channel_gradients(geometry, gradient.unsqueeze(0).unsqueeze(0)))
    assert torch.allclose(found[0, 0], wanted.flatten(), rtol=1e-12, atol=1e-12)


def test_a_scaled_product_scales_the_gradient() -> None:
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, half = (patches(Linear(6, scale), x, torch.Size((1, 4, 2))) for scale in (1.0, 0.5))
    assert torch.equal(half, one / 2)
