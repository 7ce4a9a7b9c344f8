"""The run file: everything that one run of `codesign run` is told, in TOML."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from codesign import config
from codesign.config import StrictModel
from codesign.errors import InputError
from codesign.hardware.target import Budget
from codesign.quantization.scheme import ACTIVATION_BITS, WEIGHT_BITS, RangeRule
from codesign.training.options import Preprocessing, TrainingOptions
from codesign.tuning.budget import tuning_budget_s

SectionT = TypeVar("SectionT", bound=StrictModel)
Count = Annotated[int, Field(gt=0)]
Metric = Literal["latency_s", "energy_j", "weight_bytes", "peak_memory_bytes", "bops"]


class ModelSection(StrictModel):
    """`[model]`: the network.

    Attributes:
        source: `package.module:factory`, `path/to/file.py:factory`, a `.pt2` or an `.onnx` file.
        weights: `.pth`, `.th`, `.pt` or `.safetensors`; paths are relative to the run file.
        input_shape: Shape of one input with its batch of one; may be left out for `.onnx` and `.pt2`.
    """

    source: str
    weights: str | None = None
    input_shape: tuple[Count, ...] | None = None


class DataSection(StrictModel):
    """`[data]`: where samples come from and what each is used for.

    Attributes:
        train: `.npz`, folder or zip of images by class, `package.module:factory`, or `digits`; calibration and search
            samples are drawn from it.
        test: The same forms; what is reported is measured on it. Left out for `digits`, which is split.
        also_test: Further test sets by name.
        calibration_samples: Samples for ranges, bias correction and sensitivities.
        search_samples: Other samples, on which whole plans are compared; at least two, for a standard error.
        preprocessing: How raw values become inputs.
    """

    train: str
    test: str | None = None
    also_test: dict[str, str] = Field(default_factory=dict)
    calibration_samples: Count = 256
    search_samples: Annotated[int, Field(ge=2)] = 256
    preprocessing: Preprocessing = Preprocessing()


class QuantizationSection(StrictModel):
    """`[quantization]`: which widths there are, and how values are quantised.

    Attributes:
        weight_bits: Widths that the search may give to a weight.
        activation_bits: Width of activations.
        range_rule: How activation ranges are chosen.
        percentile: Share, in percent, that rule `percentile` keeps.
        bias_correction: Whether biases are corrected for the mean error of quantised weights.
        sensitivity: Which estimate of the loss increase the search reads: `auto` measures the KL divergence of one
            quantised layer as far as `sensitivity_forwards` allow, and takes the rest from Hessian traces.
        sensitivity_samples: Calibration samples for sensitivity `auto`, `kl` and `gauss-newton`.
        sensitivity_forwards: Most forward passes over these samples that `auto` spends on measuring, if there are
            Hessian traces to fall back on.
        hessian_samples: Calibration samples for Hessian traces; 0 leaves them out.
        ties: Groups of node names that must have the same widths.
    """

    weight_bits: tuple[int, ...] = WEIGHT_BITS
    activation_bits: int = ACTIVATION_BITS[-1]
    range_rule: RangeRule = "min-max"
    percentile: Annotated[float, Field(gt=50, le=100, allow_inf_nan=False)] = 99.99
    bias_correction: bool = True
    sensitivity: Literal["auto", "kl", "hawq-v2", "gauss-newton"] = "auto"
    sensitivity_samples: Count = 256
    sensitivity_forwards: Count = 400
    hessian_samples: Annotated[int, Field(ge=0)] = 64
    ties: tuple[tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _widths_exist(self) -> "QuantizationSection":
        unknown = sorted(set(self.weight_bits) - set(WEIGHT_BITS))
        if unknown or not self.weight_bits:
            raise ValueError(f"weight_bits {unknown} are not supported; choose from {list(WEIGHT_BITS)}")
        if len(set(self.weight_bits)) != len(self.weight_bits):
            raise ValueError("weight_bits names a width twice")
        if self.sensitivity == "hawq-v2" and self.hessian_samples == 0:
            raise ValueError("sensitivity 'hawq-v2' needs hessian_samples above 0")
        if self.activation_bits not in ACTIVATION_BITS:
            raise ValueError(f"activation_bits {self.activation_bits} is not supported; choose from {ACTIVATION_BITS}")
        return self


class BudgetSection(Budget):
    """`[[search.budgets]]`: limits of one plan.

    Attributes:
        average_bits: Weights take no more than they would if all had this width.
    """

    average_bits: Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> "BudgetSection":
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("a budget must limit something, such as average_bits = 4 or latency_s = 0.001")
        return self


class SweepSection(StrictModel):
    """`[search.sweep]`: a whole Pareto front of the additive model.

    Attributes:
        metric: What is traded against the loss.
        points: How many plans, spread evenly from the cheapest to the dearest.
    """

    metric: Metric = "weight_bytes"
    points: Annotated[int, Field(ge=2)] = 5


class SearchSection(StrictModel):
    """`[search]`: what plans are looked for.

    Attributes:
        budgets: One plan is chosen under each; the first one's is the run's choice.
        sweep: Also a whole front, or None.
        uniform: Whether plans with one width for all weights are candidates too.
        evaluations: How many plans are measured for each budget, at most.
    """

    budgets: tuple[BudgetSection, ...] = Field(default=(BudgetSection(average_bits=4.0),), min_length=1)
    sweep: SweepSection | None = None
    uniform: bool = True
    evaluations: Count = 60


class MeasureSection(StrictModel):
    """`[measure]`: how latency is measured.

    Attributes:
        compilers: The first one's artefact is the product; the others are measured beside it.
        warm_up: Runs that are not counted.
        repeats: Samples taken.
        runs_per_sample: Consecutive runs whose mean is one sample, at least; more where a run is short.
        timeout_s: Seconds after which a candidate is ended and counts as failed.
    """

    compilers: tuple[Literal["tvm", "onnxruntime"], ...] = Field(default=("tvm", "onnxruntime"), min_length=1)
    warm_up: Count = 20
    repeats: Count = 50
    runs_per_sample: Count = 10
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0


class ProductMeasureSection(MeasureSection):
    """`[measure]` of a run, which ends with one product.

    Attributes:
        tune: Time for tuning the kernels of the chosen network, such as `5m`, or `cached` for what was found before;
            None for the loops of the rules.
    """

    tune: str | None = None

    @model_validator(mode="after")
    def _can_be_tuned(self) -> "ProductMeasureSection":
        if self.tune is None:
            return self
        try:
            tuning_budget_s(self.tune, "tune")
        except InputError as error:
            raise ValueError(str(error)) from None
        if self.compilers[0] != "tvm":
            raise ValueError(f"tune needs 'tvm' as the first of compilers, got {self.compilers[0]!r}")
        return self


class RunFile(StrictModel):
    """One run.

    Attributes:
        name: Names the run's folder.
        target: Name of a target, or path of a target's TOML file.
        seed: Source of all randomness.
        model: The network.
        data: Its data.
        train: Training, if the network comes without weights.
        quantization: Widths and quantisers.
        search: What to look for.
        measure: How to measure.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    target: str = "host-cpu"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: ModelSection
    data: DataSection
    train: TrainingOptions | None = None
    quantization: QuantizationSection = QuantizationSection()
    search: SearchSection = SearchSection()
    measure: ProductMeasureSection = ProductMeasureSection()


def load_run_file(path: Path, settings: Sequence[str] = ()) -> RunFile:
    """Reads a run file and applies `key=value` settings over it.

    Args:
        path: The TOML file.
        settings: Such as `search.evaluations=20` or `target="host-cpu"`; the value is TOML, or else taken as text.

    Returns:
        The run.

    Raises:
        InputError: It is the run file of `codesign search`, or not valid.
    """
    if "space" in (values := config.read_toml(path)) and "model" not in values:
        raise InputError(f"{path}: has a [space] and no [model]; run it with `codesign search`")
    return load_settings(RunFile, path, settings)


def load_settings(kind: type[SectionT], path: Path, settings: Sequence[str]) -> SectionT:
    """Reads a TOML file and applies `key=value` settings over it.

    Args:
        kind: What the file describes.
        path: The file.
        settings: Such as `search.evaluations=20`; the value is TOML, or else taken as text.

    Returns:
        The values.
    """
    values = config.read_toml(path)
    for setting in settings:
        _apply(values, setting)
    source = str(path) if not settings else f"{path} (with --set)"
    return config.validate(kind, values, source)


def _apply(values: dict[str, object], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {setting}: got no 'key=value'; write for example --set search.evaluations=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table: object = values
    *parents, last = key.strip().split(".")
    for parent in parents:
        table = _child(table, parent, setting)
    if isinstance(table, list) and last.isdigit() and int(last) < len(table):
        table[int(last)] = value
    elif isinstance(table, dict):
        table[last] = value
    else:
        raise InputError(f"--set {setting}: {key!r} does not lead to a value; check the key against the run file")


def _child(table: object, key: str, setting: str) -> object:
    if isinstance(table, dict):
        return table.setdefault(key, {})
    if isinstance(table, list) and key.isdigit() and int(key) < len(table):
        return table[int(key)]
    raise InputError(f"--set {setting}: {key!r} does not name a table; check the key against the run file")
