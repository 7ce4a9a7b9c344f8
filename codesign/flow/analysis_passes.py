"""Which passes compute the metrics of `codesign analyze`."""

from collections.abc import Mapping

from codesign.flow.analyze_request import AnalyzeRequest
from codesign.ir.annotation import Annotation
from codesign.ir.annotations import (
    ActivationRange,
    ActivationSensitivity,
    ActivationTrace,
    CrossLayerTerms,
    FisherDiagonal,
    HessianTrace,
    InputMean,
    KlSensitivity,
    QuadraticLoss,
    QuantizationError,
)
from codesign.pass_manager.base import AnnotationSet, Pass
from codesign.pass_manager.options import option_text
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.passes.hessian_trace import HessianTracePass
from codesign.passes.sensitivity import SensitivityPass

_PASS_OF: Mapping[type[Annotation], str] = {
    ActivationRange: "observe-activations",
    InputMean: "observe-activations",
    QuantizationError: "quantization-error",
    HessianTrace: "hessian-trace",
    FisherDiagonal: "fisher-diagonal",
    ActivationTrace: "activation-trace",
    KlSensitivity: "kl-sensitivity",
    QuadraticLoss: "quadratic-loss",
    ActivationSensitivity: "activation-sensitivity",
    CrossLayerTerms: "cross-layer",
}
"""Who provides each fact, in the order in which passes run."""

_FACTS_OF: Mapping[str, AnnotationSet] = {
    "trace": frozenset({HessianTrace}),
    "eigenvalues": frozenset({HessianTrace}),
    "fisher": frozenset({FisherDiagonal}),
    "activation-trace": frozenset({ActivationTrace}),
    "activation-sensitivity": frozenset({ActivationSensitivity}),
    "cross-layer": frozenset({CrossLayerTerms}),
    "density": frozenset(),
    "subsets": frozenset(),
    "auto": frozenset({KlSensitivity}),
}
"""What each metric reads; other predictors say it themselves."""


def passes_of(request: AnalyzeRequest, bits: tuple[int, ...]) -> tuple[Pass, ...]:
    """The passes that compute everything that a request reads from nodes.

    Args:
        request: With its metrics.
        bits: Widths of weights.

    Returns:
        In an order in which they can run; none for a request that reads nothing from nodes.
    """
    chosen: dict[str, Pass] = {}
    wanted = {kind for metric in request.metrics for kind in _facts_of(request, metric)}
    if request.validation is not None:
        wanted |= {ActivationRange, InputMean}  # that quantised layers are made from
    while missing := {_PASS_OF[kind] for kind in wanted} - set(chosen):
        for name in missing:
            (chosen[name],) = parse_pipeline(pass_text(name, _options(name, request, bits)))
            wanted |= chosen[name].required()
    return tuple(chosen[name] for name in dict.fromkeys(_PASS_OF.values()) if name in chosen)


def pass_text(name: str, options: Mapping[str, object]) -> str:
    """A pass with its options, as `codesign opt` takes it.

    Args:
        name: Of the pass.
        options: Values by name; those that are None are left at their defaults.

    Returns:
        Such as `kl-sensitivity{bits=2+4,samples=256}`.
    """
    given = ",".join(f"{key}={option_text(value)}" for key, value in options.items() if value is not None)
    return f"{name}{{{given}}}"


def trace_pass(request: AnalyzeRequest, eigenvalues: int) -> HessianTracePass:
    """The pass `hessian-trace` with a request's options.

    Args:
        request: What was asked for.
        eigenvalues: How many of each block.

    Returns:
        The pass.
    """
    (found,) = parse_pipeline(pass_text("hessian-trace", _trace_options(request, eigenvalues)))
    assert isinstance(found, HessianTracePass)
    return found


def _trace_options(request: AnalyzeRequest, eigenvalues: int) -> dict[str, object]:
    return {
        "samples": request.samples,
        "weights-of": request.weights_of,
        "dtype": request.dtype,
        "eigenvalues": eigenvalues,
        "drop": request.drop,
        "method": request.trace_method,
        "relative-error": request.relative_error,
        "seconds": request.seconds,
    }


def _facts_of(request: AnalyzeRequest, metric: str) -> AnnotationSet:
    if metric in _FACTS_OF:
        return _FACTS_OF[metric]
    return next(SensitivityPass(method).required() for method in request.predictors if method == metric)


def _options(name: str, request: AnalyzeRequest, bits: tuple[int, ...]) -> dict[str, object]:
    samples: dict[str, object] = {"samples": request.samples, "dtype": request.dtype}
    sampling = {"drop": request.drop, "relative-error": request.relative_error, "seconds": request.seconds}
    full = "kl" in request.metrics
    options: dict[str, dict[str, object]] = {
        "observe-activations": {},
        "quantization-error": {"bits": bits},
        "hessian-trace": _trace_options(request, request.eigenvalues_of_layers),
        "fisher-diagonal": samples,
        "activation-trace": {**samples, **sampling},
        "kl-sensitivity": {"bits": bits, **samples, "max-forwards": None if full else request.max_forwards},
        "quadratic-loss": {"bits": bits, **samples},
        "activation-sensitivity": samples,
        "cross-layer": {"bits": bits, **samples},
    }
    return options[name]
