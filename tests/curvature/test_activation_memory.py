from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codesign.curvature.activation_memory import activation_bytes_per_sample


def test_counts_what_autograd_keeps_for_a_sample_but_no_weights() -> None:
    weight = torch.randn(7, 100, requires_grad=True)

    def forward(x: Tensor) -> Iterator[Tensor]:
        hidden = torch.sigmoid(x @ weight)  # keeps its input x and its result
        yield hidden.square()  # keeps hidden again: the same storage; the square itself is returned

    inputs = torch.randn(5, 7)
    assert activation_bytes_per_sample(forward, inputs) == 4 * (7 + 100 + 100)


def test_grows_with_the_image_and_not_with_the_batch() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)

    def forward(x: Tensor) -> Iterator[Tensor]:
        yield F.relu(layer(x))

    small, large = (torch.randn(n, 3, size, size) for n, size in ((2, 8), (6, 16)))
    found = activation_bytes_per_sample(forward, large)
    assert found == 4 * activation_bytes_per_sample(forward, small) == 4 * (3 + 8) * 16 * 16
    assert activation_bytes_per_sample(forward, large[:1]) == found


def test_nothing_kept_is_the_input() -> None:
    assert activation_bytes_per_sample(lambda x: iter(()), torch.zeros(3, 10, dtype=torch.float64)) == 80
