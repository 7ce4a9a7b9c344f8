"""What a run file says of data and training, as frozen values that need no heavy imports."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codesign.config import StrictModel
from codesign.quantization.scheme import WEIGHT_BITS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]


class Preprocessing(StrictModel):
    """How stored images become the model's input: (image * scale - mean) / std, in float32, channels first.

    Attributes:
        scale: Factor that comes first, such as 1/255 for bytes.
        mean: Taken off each channel: one number per channel, or one for all.
        std: Divides each channel: one number per channel, or one for all.
        layout: How images are stored. `NHWC`: `[N, H, W, C]`, or `[N, H, W]` for one channel. `NCHW`: as the model
            takes them, whatever their rank; axis 1 is the channel.
    """

    scale: Positive = 1.0
    mean: tuple[Finite, ...] = Field(default=(0.0,), min_length=1)
    std: tuple[Positive, ...] = Field(default=(1.0,), min_length=1)
    layout: Literal["NHWC", "NCHW"] = "NHWC"

    @model_validator(mode="after")
    def _same_channels(self) -> "Preprocessing":
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std has {len(self.std)}; give one per channel each"
            )
        return self


class TrainingOptions(StrictModel):
    """How a network is trained: stochastic gradient descent or AdamW with a cosine schedule down to zero.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples per step; the last incomplete batch of an epoch is left out.
        learning_rate: Peak rate.
        optimizer: `sgd` (Nesterov momentum) or `adamw`.
        momentum: For `sgd`.
        weight_decay: Applied to weights of two or more dimensions; not to biases and BatchNorm.
        warmup_epochs: Epochs of linear growth up to the peak rate.
        label_smoothing: Share of the target that is spread evenly over all classes.
        horizontal_flip: Whether each image is mirrored with probability 1/2.
        threads: Threads of torch, None for as many as there are cores; small networks train faster with 1, and the last
            bits of the weights depend on it.
        crop_padding: Pixels of border (zeros after preprocessing) from which a window of the old size is cut at random.
    """

    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Positive = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    warmup_epochs: NotNegative = 0.0
    label_smoothing: Share = 0.0
    horizontal_flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    threads: Count | None = None

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainingOptions":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; make it smaller")
        return self


FLOAT_BITS = 32
"""Stands for a weight in floating point among widths."""


class ElasticOptions(TrainingOptions):
    """How weights that all variants of a space share are trained.

    Attributes:
        epochs: Passes over the training data.
        batch_size: Samples per step.
        learning_rate: Peak rate; gradients of all variants of a batch add up.
        random_variants: Variants drawn at random for each batch, beside the largest and the smallest.
        distillation: Whether all but the largest variant learn the largest one's outputs instead of the labels.
        weight_bits: Widths that layers of all but the largest variant are trained at, drawn for each batch; 32 stands
            for floating point, and is all there is where this is empty.
        device: Where to train.
        precision: What convolutions and products are computed in; None for bfloat16 on `cuda` and float32 elsewhere.
    """

    epochs: Count = 16
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Positive = 0.2
    random_variants: Annotated[int, Field(ge=0)] = 2
    distillation: bool = True
    weight_bits: tuple[int, ...] = ()
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16"] | None = None

    @model_validator(mode="after")
    def _widths_exist(self) -> "ElasticOptions":
        allowed = (*WEIGHT_BITS, FLOAT_BITS)
        unknown = sorted(set(self.weight_bits) - set(allowed))
        if unknown:
            raise ValueError(f"weight_bits {unknown} are not supported; choose from {list(allowed)}")
        return self
