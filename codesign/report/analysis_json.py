"""The JSON file of `codesign analyze`: everything that the page shows, for programs."""

from collections.abc import Mapping
from pathlib import Path

from codesign.files import write_json
from codesign.report.analysis_contents import (
    ActivationAnalysis,
    Analysis,
    Curvature,
    LayerAnalysis,
    LossIncrease,
    MeasuredIncrease,
    NetworkAnalysis,
    Spread,
    Tau,
    Trace,
    Validation,
)
from codesign.report.contents import Estimate


def write_analysis_json(analysis: Analysis, path: Path) -> None:
    """Writes an analysis for programs, at once or not at all.

    What kind of number each one is stands beside it, or under `provenance` with the same key. What was not asked for
    is null or absent.

    Args:
        analysis: What was found.
        path: Destination.
    """
    write_json(path, analysis_to_json(analysis))


def analysis_to_json(analysis: Analysis) -> dict[str, object]:
    """An analysis as JSON values.

    Args:
        analysis: What was found.

    Returns:
        Dictionaries, lists, strings and finite numbers.
    """
    cost = analysis.cost
    return {
        "model": analysis.model,
        "data": analysis.data,
        "samples": analysis.samples,
        "metrics": list(analysis.metrics),
        "pipeline": analysis.pipeline,
        "bits": list(analysis.bits),
        "target": analysis.target,
        "weights_of": analysis.weights_of,
        "dtype": analysis.dtype,
        "seed": analysis.seed,
        "processes": analysis.processes,
        "seconds": cost.seconds,
        "cpu_seconds": cost.cpu_seconds,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "passes_over_data": cost.passes_over_data,
        "seconds_of": dict(cost.seconds_of),
        "provenance": dict.fromkeys(("seconds", "cpu_seconds", "peak_memory_bytes"), "measured")
        | {"passes_over_data": "exact"},
        "layers": [_layer(layer) for layer in analysis.layers],
        "network": None if analysis.network is None else _network(analysis.network),
        "validation": None if analysis.validation is None else _validation(analysis.validation),
        "versions": dict(analysis.environment),
    }


def _layer(layer: LayerAnalysis) -> dict[str, object]:
    found: dict[str, object] = {
        "name": layer.name,
        "parameter": layer.parameter,
        "parameters": layer.parameters,
        **_curvature(layer.curvature),
        "loss_increase": {
            str(bits): {name: _loss_increase(entry) for name, entry in row.items()}
            for bits, row in layer.loss_increase.items()
        },
    }
    if layer.fisher is not None:
        found["fisher"] = {"trace": layer.fisher, "provenance": "exact"}
    if layer.activation is not None:
        found["activation"] = _activation(layer.activation)
    if layer.cross_terms:
        found["cross_layer"] = [
            {
                "bits": term.bits,
                "other": term.other,
                "other_bits": term.other_bits,
                "nats": term.nats,
                "standard_error": term.standard_error,
                "provenance": "measured",
            }
            for term in layer.cross_terms
        ]
    if layer.subsets:
        found["subsets"] = {name: _spread(spread) for name, spread in layer.subsets.items()}
    return found


def _curvature(curvature: Curvature | None) -> dict[str, object]:
    keys = ("trace", "standard_error", "top_eigenvalues", "exact", "method", "matrix", "provenance")
    if curvature is None:
        return dict.fromkeys(keys)
    return {
        **_trace(curvature),
        "top_eigenvalues": list(curvature.top_eigenvalues),
        "method": curvature.method,
        "provenance": {"trace": curvature.provenance, "top_eigenvalues": curvature.eigenvalue_provenance},
    }


def _trace(trace: Trace) -> dict[str, object]:
    return {
        "trace": trace.trace,
        "standard_error": trace.standard_error,
        "matrix": trace.matrix,
        "exact": trace.exact,
        "provenance": trace.provenance,
    }


def _loss_increase(entry: LossIncrease) -> dict[str, object]:
    return {
        "nats": entry.nats,
        "standard_error": entry.standard_error,
        "method": entry.method,
        "provenance": entry.provenance,
    }


def _activation(activation: ActivationAnalysis) -> dict[str, object]:
    found: dict[str, object] = {"value": activation.value}
    if activation.trace is not None:
        found |= {"elements": activation.elements, **_trace(activation.trace)}
    if activation.kl:
        found["loss_increase"] = {
            str(bits): {
                "nats": kl.value,
                "standard_error": kl.standard_error,
                "squared_error": activation.squared_error[bits],
                "method": "kl",
                "provenance": "measured",
            }
            for bits, kl in activation.kl.items()
        }
    return found


def _spread(spread: Spread) -> dict[str, object]:
    return {
        "mean": spread.mean,
        "standard_deviation": spread.standard_deviation,
        "sensitivity": abs(spread.mean) + spread.standard_deviation,
        "values": list(spread.values),
    }


def _network(network: NetworkAnalysis) -> dict[str, object]:
    return {
        "parameters": network.parameters,
        "trace": network.trace,
        "standard_error": network.standard_error,
        "top_eigenvalues": list(network.top_eigenvalues),
        "residuals": list(network.residuals),
        "density": {"nodes": [list(run) for run in network.nodes], "weights": [list(run) for run in network.weights]},
        "matrix": "hessian",
        "provenance": dict.fromkeys(("trace", "top_eigenvalues", "density"), "estimated"),
    }


def _validation(validation: Validation) -> dict[str, object]:
    return {
        "source": validation.source,
        "samples": validation.samples,
        "seconds": validation.seconds,
        "kendall_tau": {
            "layers": {str(bits): _taus(taus) for bits, taus in validation.layer_taus.items()},
            "assignments": _taus(validation.assignment_taus),
        },
        "layers": {
            name: {str(bits): _increase(found) for bits, found in by_bits.items()}
            for name, by_bits in validation.layers.items()
        },
        "assignments": [
            {
                "bits": dict(assignment.bits),
                "measured": _increase(assignment.measured),
                "predicted": dict(assignment.predicted),
            }
            for assignment in validation.assignments
        ],
        "provenance": {"layers": "measured", "assignments": "measured"},
    }


def _taus(taus: Mapping[str, Tau]) -> dict[str, object]:
    return {name: {"kl": tau.kl, "loss": tau.loss} for name, tau in taus.items()}


def _increase(found: MeasuredIncrease) -> dict[str, object]:
    return {"kl": _estimate(found.kl), "loss": _estimate(found.loss)}


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"nats": estimate.value, "standard_error": estimate.standard_error}
