from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import pytest

from codesign.flow.context import RunContext
from codesign.flow.prepare import pipeline_of
from codesign.ir.annotations import Sensitivity
from codesign.pass_manager.base import AnnotationSet
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.run_file import load_run_file

EXAMPLE = Path(__file__).parents[2] / "examples" / "resnet20_cifar10.toml"
Method = Literal["auto", "kl", "hawq-v2", "gauss-newton"]


def _pipeline(*settings: str) -> str:
    run = load_run_file(EXAMPLE, settings)
    return pipeline_of(cast(RunContext, SimpleNamespace(run=run)))  # it reads nothing else


@pytest.mark.parametrize(
    ("method", "pass_name"),
    [("auto", "kl-sensitivity"), ("kl", "kl-sensitivity"), ("hawq-v2", None), ("gauss-newton", "quadratic-loss")],
)
def test_each_method_gets_the_passes_that_it_reads(method: Method, pass_name: str | None) -> None:
    passes = parse_pipeline(_pipeline(f"quantization.sensitivity={method}"))
    provided: AnnotationSet = frozenset()
    for pass_ in passes:
        assert pass_.required() <= provided, pass_
        provided |= pass_.provides
    assert Sensitivity in provided
    names = {pass_.name for pass_ in passes}
    assert names & {"kl-sensitivity", "quadratic-loss"} == ({pass_name} if pass_name else set())


def test_auto_is_limited_only_where_traces_fill_the_gaps() -> None:
    assert "max-forwards=7" in _pipeline("quantization.sensitivity=auto", "quantization.sensitivity_forwards=7")
    assert "max-forwards" not in _pipeline("quantization.sensitivity=auto", "quantization.hessian_samples=0")
    assert "max-forwards" not in _pipeline("quantization.sensitivity=kl")
