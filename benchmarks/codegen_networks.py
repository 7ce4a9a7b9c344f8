"""The networks of benchmarks/codegen.py as ONNX files, in float32 and with QDQ nodes at each width."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from codesign.architecture.resnet_cifar import resnet20
from codesign.architecture.squeezenext import squeezenext_23, squeezenext_cifar
from codesign.ir.lowering import lower_module
from codesign.ir.program import Program, name_of
from codesign.ir.serialization import save_graph
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.passes.observe_activations import ObserveActivationsPass
from codesign.quantization.qdq import remove_unused_initializers, write_qdq
from codesign.quantization.scheme import BitWidths
from codesign.testing.networks import InvertedResidual, randomize

SHARED = Path(__file__).parent.parent.parent / "shared"
IMAGES = [SHARED / "data" / "cifar10" / f"lossless_{part}.npz" for part in ("test", "train")]
RESNET20 = SHARED / "models" / "cifar10" / "resnet20-12fca82f.th"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION = 16
BFLOAT16 = "bfloat16"
PRECISIONS = {"float32": 32, BFLOAT16: 32, "int8": 8, "int4": 4, "int2": 2}
"""Bits of weights in the file; activations are uint8 unless weights are float32. `bfloat16` is the file in float32,
compiled so that products may be rounded."""


@dataclasses.dataclass(frozen=True)
class Net:
    """A network to time.

    Attributes:
        name: As in `--only`.
        make: Makes it.
        input_shape: Shape of one input.
        is_cnn: Whether the bars of convolutional networks hold for it.
    """

    name: str
    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    is_cnn: bool = True


class EncoderBlock(nn.Module):
    """One encoder layer of torch: 256 wide, 4 heads, 1024 hidden, GELU; logits for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, "gelu", batch_first=True, norm_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, 128, 256]` to the same shape."""
        y: torch.Tensor = self.layer(x)
        return y


def mobilenet_like() -> nn.Module:
    """MobileNetV2's first stages for 96x96 images, up to 160 channels."""
    settings = [(16, 1, 1), (24, 2, 6), (24, 1, 6), (32, 2, 6), (32, 1, 6), (64, 2, 6), (64, 1, 6), (96, 1, 6)]
    settings += [(160, 2, 6), (160, 1, 6)]
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    channels = 32
    for after, stride, expansion in settings:
        layers.append(InvertedResidual(channels, after, stride, expansion))
        channels = after
    head = [nn.Conv2d(channels, 640, 1, bias=False), nn.BatchNorm2d(640), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, *head, nn.Flatten(), nn.Linear(640, 100))


def _trained_resnet20() -> nn.Module:
    network = resnet20()
    if not RESNET20.exists():
        return randomize(network)
    state = torch.load(RESNET20, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in state.get("state_dict", state).items()}
    network.load_state_dict(state)
    return network.eval()


NETS = (
    Net("resnet20", _trained_resnet20, (1, 3, 32, 32)),
    Net("squeezenext-32", lambda: randomize(squeezenext_cifar()), (1, 3, 32, 32)),
    Net("squeezenext-227", lambda: randomize(squeezenext_23()), (1, 3, 227, 227)),
    Net("mobilenet-96", lambda: randomize(mobilenet_like()), (1, 3, 96, 96)),
    Net("transformer", lambda: randomize(EncoderBlock()), (1, 128, 256), is_cnn=False),
    Net("dense-4096", lambda: randomize(nn.Linear(4096, 4096)), (1, 4096), is_cnn=False),
)


def inputs_of(net: Net, count: int) -> NDArray[np.float32]:
    """Real images scaled to the network's size where there are any, else normal numbers."""
    shape = net.input_shape[1:]
    if not net.is_cnn or not all(path.exists() for path in IMAGES):
        return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
    raw = np.concatenate([_images_of(path) for path in IMAGES])[:count]
    if raw.shape[1:3] != shape[1:]:
        size = (shape[2], shape[1])
        raw = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in raw])
    scaled = (raw.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _images_of(path: Path) -> NDArray[np.uint8]:
    with np.load(path, allow_pickle=False) as file:
        images: NDArray[np.uint8] = next(file[key] for key in file.files if file[key].ndim == 4)
    return images


def write_networks(net: Net, precisions: list[str], images: NDArray[np.float32], folder: Path) -> dict[str, Path]:
    """Writes `PRECISION.onnx` for each precision; ranges are those seen on the first images."""
    torch.manual_seed(0)
    program = lower_module(net.make(), net.input_shape)
    context = PassContext(CalibrationData(images[:CALIBRATION]))
    ObserveActivationsPass().run(program, context)
    written = {}
    for precision in precisions:
        path = folder / f"{precision}.onnx"
        graph = program.graph
        if PRECISIONS[precision] < 32:
            graph = program.graph.clone()
            copied = Program(graph)
            widths = BitWidths(PRECISIONS[precision], 8)
            write_qdq(graph, {name_of(node): widths for node in copied.weighted_nodes}, bias_correction=False)
            remove_unused_initializers(graph)
        save_graph(graph, path)
        written[precision] = path
    return written
