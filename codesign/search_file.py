"""The run file of `codesign search`: a space of architectures, data, and one or more targets, in TOML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from codesign.architecture.space_file import SpaceSection
from codesign.config import StrictModel, read_toml
from codesign.errors import InputError
from codesign.hardware.target import Budget
from codesign.run_file import Count, DataSection, MeasureSection, QuantizationSection, load_settings
from codesign.training.options import ElasticOptions

Traded = Literal["latency_s", "energy_j", "memory_bytes"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SearchLimits(Budget):
    """What every network of a search must keep; None where there is no limit.

    Attributes:
        period_s: Seconds between two inputs of a stream: where a target names several devices, each works on another
            input, and the busiest device or the link sets the pace. On other targets a run ends before the next begins.
    """

    period_s: Positive | None = None


class JointSection(StrictModel):
    """`[search]`: how architectures, widths and places are looked for.

    Attributes:
        sampler: `nsga2` (evolution), `tpe`, `random`, or `exhaustive` for small spaces.
        trials: Networks that are evaluated for each target, at most; None where `seconds` ends the search.
        seconds: Time after which no trial begins, for each target.
        device_seconds: Time that finalists may spend on the device, for each target; the best ones come first.
        metrics: What is traded against the loss.
        points: Budgets of each metric at which a variant's widths are decided; from these decisions comes the network
            that a trial evaluates. `exhaustive` evaluates as many networks of every variant.
        limits: What every network must keep.
        finalists: Networks of the front that are compiled and measured.
        refinements: Networks that are measured around each finalist, with other widths at no more cost; 0 for none. A
            target with several devices has none.
        finetune_epochs: Epochs that each finalist is trained by itself, at its widths; 0 for none.
        calibration_samples: Training images from which a variant's BatchNorm statistics are taken.
    """

    sampler: Literal["nsga2", "tpe", "random", "exhaustive"] = "nsga2"
    trials: Count | None = 100
    seconds: Positive | None = None
    device_seconds: Positive | None = None
    metrics: Annotated[tuple[Traded, ...], Field(min_length=1)] = ("latency_s", "energy_j", "memory_bytes")
    points: Annotated[int, Field(ge=2)] = 5
    limits: SearchLimits = SearchLimits()
    finalists: Annotated[int, Field(ge=0)] = 4
    refinements: Annotated[int, Field(ge=0)] = 20
    finetune_epochs: Annotated[int, Field(ge=0)] = 0
    calibration_samples: Annotated[int, Field(ge=2)] = 1024

    @model_validator(mode="after")
    def _ends(self) -> "JointSection":
        if self.trials is None and self.seconds is None and self.sampler != "exhaustive":
            raise ValueError("the search would never end; give trials, seconds or both")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("metrics names a metric twice")
        return self


class SearchFile(StrictModel):
    """One joint search.

    Attributes:
        name: Names the run's folder.
        targets: Names of targets, or paths of targets' TOML files.
        seed: Source of all randomness.
        space: Architectures.
        elastic: How the weights that all of them share are trained.
        data: Samples.
        quantization: Widths and quantisers.
        search: How to look.
        measure: How finalists are measured.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("host-cpu",)
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    space: SpaceSection
    elastic: ElasticOptions
    data: DataSection
    quantization: QuantizationSection = QuantizationSection(hessian_samples=0, sensitivity_samples=64)
    search: JointSection = JointSection()
    measure: MeasureSection = MeasureSection()

    @model_validator(mode="after")
    def _targets_differ(self) -> "SearchFile":
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets names one twice")
        return self


def load_search_file(path: Path, settings: Sequence[str] = (), targets: Sequence[str] = ()) -> SearchFile:
    """Reads the run file of a search.

    Args:
        path: The TOML file.
        settings: `key=value` pairs that replace what the file says.
        targets: Targets instead of the file's; none for those.

    Returns:
        The search.

    Raises:
        InputError: It is the run file of `codesign run`, or not valid.
    """
    if "model" in (values := read_toml(path)) and "space" not in values:
        raise InputError(f"{path}: has a [model] and no [space]; run it with `codesign run`, or describe a space")
    changes = [*settings, *([f"targets={list(targets)!r}"] if targets else [])]
    return load_settings(SearchFile, path, changes)
