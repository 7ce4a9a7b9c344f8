"""Small networks with the structures that real ones have, for tests of whatever handles networks."""

import torch
import torch.nn.functional as F
from torch import nn


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, 3x3 depthwise, 1x1 projection, each with BatchNorm, two with ReLU6."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block.

        Args:
            x: Input, `[N, C_in, H, W]`.

        Returns:
            Output, `[N, C, H / stride, W / stride]`.
        """
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class SmallMobileNet(nn.Module):
    """A MobileNetV2 of four blocks for 16x16 images; dropout before the classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, 2),
            InvertedResidual(8, 12, 2, 3),
            InvertedResidual(12, 12, 1, 3),
            InvertedResidual(12, 16, 1, 2),
        )
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, 3, 16, 16]`.

        Returns:
            Logits, `[N, classes]`.
        """
        x = self.blocks(self.stem(x))
        logits: torch.Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


class SmallTransformer(nn.Module):
    """A vision transformer: 4x4 patches, a class token, two encoder layers of torch, a linear head.

    torch's attention puts the sequence before the batch and merges the heads into the batch, so that a graph made for
    one sample holds the batch in the middle of shapes.
    """

    def __init__(self, classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, 3, 16, 16]`.

        Returns:
            Logits, `[N, classes]`.
        """
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.encoder(x))[:, 0])
        return logits


class PlainNet(nn.Module):
    """Two convolutions and two linear layers without BatchNorm, for 8x8 grey images."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.hidden = nn.Linear(96, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies images.

        Args:
            x: Images, `[N, 1, 8, 8]`.

        Returns:
            Logits, `[N, classes]`.
        """
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        logits: torch.Tensor = self.head(torch.tanh(self.hidden(x.flatten(1))))
        return logits


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives a module weights and running statistics like a trained one's: none is zero or one, no two layers are equal.

    Args:
        module: Changed in place.
        seed: Source of the numbers.

    Returns:
        The module, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                if name == "running_var" or (value.dim() == 1 and name == "weight"):
                    value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
                elif value.is_floating_point():
                    spread = 0.2 if value.dim() < 2 else (2.0 / value[0].numel()) ** 0.5
                    value.copy_(torch.randn(value.shape, generator=generator) * spread)
    return module.eval()
