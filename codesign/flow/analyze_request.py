"""What `codesign analyze` is asked for, checked before anything is loaded."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from codesign.errors import InputError, closest
from codesign.flow.samples import ImageOptions
from codesign.ir.annotations import LossMethod
from codesign.quantization.scheme import WEIGHT_BITS

Metric = Literal[
    "trace",
    "eigenvalues",
    "density",
    "fisher",
    "activation-trace",
    "activation-sensitivity",
    "subsets",
    "cross-layer",
]
"""What can be asked for beside predictors of the loss increase."""

TraceChoice = Literal["auto", "hutchinson", "hutch++", "xtrace", "gauss-newton"]
"""How traces are found: exactly where that is possible, or all by one estimator, or all of the Gauss-Newton matrix."""

METRICS: tuple[str, ...] = (*get_args(Metric), *get_args(LossMethod))
DEFAULT_METRICS = ("trace", "eigenvalues", "auto")
TRACE_PREDICTORS = frozenset({"hawq", "hawq-v2"})
"""Predictors that multiply curvature with the error of the weights that the graph holds."""

_LEAST_BYTES = 2**20
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_UNITS = {
    **{unit.lower(): 1000**power for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{unit.lower(): 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))},
    "": 1,
}


@dataclass(frozen=True)
class ValidationRequest:
    """How predictors are compared with what is measured.

    Attributes:
        held_out: Data to measure on; None for the samples that follow the analysed ones.
        samples: Most samples to measure on, from the first.
        assignments: Number of random assignments of widths.
        assignment_bits: Widths that assignments draw from; None for all.
    """

    held_out: str | None = None
    samples: int = 512
    assignments: int = 100
    assignment_bits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(f"--held-out-samples: got {self.samples}, allowed are 2 or more; try 512")
        if self.assignments < 2:
            raise InputError(f"--assignments: got {self.assignments}, allowed are 2 or more; try 100")


@dataclass(frozen=True)
class AnalyzeRequest:
    """The command's arguments.

    Attributes:
        model: Source of the network.
        data: Source of the samples.
        weights: For a factory.
        input_shape: For a factory.
        images: How samples are prepared.
        metrics: What to compute, see `METRICS`.
        samples: How many samples to use, from the first.
        dtype: What curvature is computed in; sums are in float64.
        weights_of: Curvature in the module's own weights, or in those that the graph holds and that are quantised.
        trace_method: How traces of layers' blocks are found, see the pass `hessian-trace`.
        target: Restricts widths to those that its device has rates for.
        bits: Widths of weights.
        eigenvalues: How many of each layer's, and of the whole network's.
        drop: Share of the output Hessian's eigenvalues that is sampled instead of run.
        relative_error: Standard error, as a share of the trace, at which sampling stops.
        seconds: Time that sampling may take.
        max_forwards: Forward passes that `auto` may spend on quantised networks; beyond, it takes a quadratic model.
        memory_bytes: Most memory that values held at once may take.
        subsets: Number of subsets for the metric `subsets`.
        seed: Source of all randomness.
        validation: How to compare predictions with measurements; None for not at all.
    """

    model: str
    data: str
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    images: ImageOptions = field(default_factory=ImageOptions)
    metrics: tuple[str, ...] = DEFAULT_METRICS
    samples: int = 256
    dtype: Literal["float32", "float64"] = "float32"
    weights_of: Literal["module", "folded"] = "folded"
    trace_method: TraceChoice = "auto"
    target: str | None = None
    bits: tuple[int, ...] = (2, 3, 4, 6, 8)
    eigenvalues: int = 5
    drop: float | None = None
    relative_error: float | None = None
    seconds: float | None = None
    max_forwards: float = 400.0
    memory_bytes: int = 2**30
    subsets: int = 4
    seed: int = 0
    validation: ValidationRequest | None = None

    def __post_init__(self) -> None:
        check_metrics(self.metrics, self.weights_of)
        check_bits(self.bits, "--bits")
        if self.samples < 1:
            raise InputError(f"--samples: got {self.samples}, allowed are 1 or more; try 256")
        if self.eigenvalues < 1:
            raise InputError(f"--eigenvalues: got {self.eigenvalues}, allowed are 1 or more; try 5")
        if "subsets" in self.metrics and not 2 <= self.subsets <= self.samples:
            raise InputError(
                f"--subsets: got {self.subsets}, allowed are 2 to the {self.samples} samples; a deviation needs two"
            )
        if self.validation is not None:
            self._check_validation(self.validation)

    def _check_validation(self, validation: ValidationRequest) -> None:
        if not self.predictors:
            raise InputError(f"--validate: no metric predicts a loss; add --metric with one of {_listed(LossMethod)}")
        if validation.assignment_bits is not None:
            check_bits(validation.assignment_bits, "--assignment-bits")
            unknown = sorted(set(validation.assignment_bits) - set(self.bits))
            if unknown:
                raise InputError(f"--assignment-bits: {unknown} are not among --bits {list(self.bits)}; add them there")

    @property
    def eigenvalues_of_layers(self) -> int:
        """How many eigenvalues of each layer's block the metrics need."""
        if "eigenvalues" in self.metrics:
            return self.eigenvalues
        return 1 if "hawq" in self.metrics else 0

    @property
    def predictors(self) -> tuple[LossMethod, ...]:
        """Predictors among the metrics."""
        return tuple(name for name in get_args(LossMethod) if name in self.metrics)


def check_metrics(metrics: tuple[str, ...], weights_of: str) -> None:
    """Refuses metrics that do not exist or do not fit.

    Args:
        metrics: What was asked for.
        weights_of: `module` or `folded`.

    Raises:
        InputError: A metric is unknown (the closest is named), or needs folded weights.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise InputError(f"unknown metric {metric!r}{closest(metric, METRICS)}")
    misfit = sorted(TRACE_PREDICTORS & set(metrics))
    if misfit and weights_of == "module":
        raise InputError(
            f"metric {misfit[0]} multiplies curvature with the error of the folded weights that are quantised, "
            f"got --weights-of module; use --weights-of folded, or leave the metric out"
        )


def check_bits(bits: tuple[int, ...], option: str) -> None:
    """Refuses widths that weights cannot have.

    Args:
        bits: Widths.
        option: What gave them, for the message.

    Raises:
        InputError: A width is not supported or stands there twice, or there is none.
    """
    wrong = [width for width in bits if width not in WEIGHT_BITS]
    if wrong or not bits or len(set(bits)) < len(bits):
        raise InputError(f"{option}: got {list(bits)}, allowed are different widths out of {list(WEIGHT_BITS)}")


def bytes_of(text: str) -> int:
    """Reads an amount of memory.

    Args:
        text: Such as `4GB`, `512MiB` or plain bytes.

    Returns:
        Bytes.

    Raises:
        InputError: It has another form or is less than 1 MiB.
    """
    match = _SIZE.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in _UNITS:
        raise InputError(f"--memory-limit: got {text!r}, expected an amount such as 4GB, 512MiB or plain bytes")
    found = int(float(match.group(1)) * _UNITS[unit])
    if found < _LEAST_BYTES:
        raise InputError(f"--memory-limit: got {text!r}, allowed are 1MiB or more; try 1GiB")
    return found


def _listed(kind: object) -> str:
    return ", ".join(get_args(kind))
