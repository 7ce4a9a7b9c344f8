"""`report.json`: everything that the page shows, for programs."""

from pathlib import Path

from codesign.files import write_json
from codesign.plan.plan import Cost
from codesign.report.contents import TEST, Agreement, BudgetChoice, Candidate, Estimate, Latency, LayerRow, RunReport


def write_report_json(report: RunReport, path: Path) -> None:
    """Writes the report for programs.

    Every number's provenance stands under `provenance` of its candidate with the same key.

    Args:
        report: What the run found.
        path: Destination.
    """
    write_json(
        path,
        {
            "run": report.run,
            "target": report.target,
            "target_description": report.target_description,
            "profile_notes": list(report.profile_notes),
            "seed": report.seed,
            "environment": dict(report.environment),
            "data": dict(report.data),
            "sensitivity_method": report.sensitivity_method,
            "baseline": _baseline(report.baseline),
            "candidates": [_candidate(candidate) for candidate in report.candidates[1:]],
            "chosen": _candidate(report.chosen),
            "choices": [_choice(choice) for choice in report.choices],
            "layers": [_layer(layer) for layer in report.layers],
        },
    )


def _baseline(candidate: Candidate) -> dict[str, object]:
    measured = _measured(candidate)
    return {
        "accuracy": measured["accuracy"],
        "accuracy_standard_error": measured["accuracy_standard_error"],
        "measured": measured,
        "provenance": _provenance(candidate),
    }


def _candidate(candidate: Candidate) -> dict[str, object]:
    plan, predicted = candidate.plan, candidate.predicted
    assert plan is not None
    assert predicted is not None
    return {
        "id": candidate.identity,
        "roles": list(candidate.roles),
        "bits": plan.to_json()["bits"],
        "average_bits": candidate.average_bits,
        "predicted": {"loss_increase_nats": predicted.loss_increase_nats, **_cost(predicted.cost)},
        "measured": _measured(candidate) if candidate.measured is not None else None,
        "provenance": _provenance(candidate),
        "failure": candidate.failure,
        "on_front": candidate.on_front,
    }


def _cost(cost: Cost) -> dict[str, object]:
    return {
        "latency_s": cost.latency_s,
        "energy_j": cost.energy_j,
        "power_w": cost.power_w,
        "weight_bytes": cost.weight_bytes,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "bops": cost.bops,
    }


def _measured(candidate: Candidate) -> dict[str, object]:
    found = candidate.measured
    assert found is not None
    return {
        "accuracy": found.accuracy[TEST].value,
        "accuracy_standard_error": found.accuracy[TEST].standard_error,
        "accuracy_by_test_set": {name: _estimate(value) for name, value in found.accuracy.items()},
        "loss_increase_nats": _estimate(found.loss_increase_nats) if found.loss_increase_nats else None,
        "latency_s": found.latency.median_s if found.latency else None,
        "latency_by_compiler": {latency.compiler: _latency(latency) for latency in found.latencies},
        "energy_j": found.energy_j,
        "artifact_weight_bytes": found.artifact_weight_bytes,
        "agreement_with_onnxruntime": _agreement(found.agreement) if found.agreement else None,
    }


def _provenance(candidate: Candidate) -> dict[str, object]:
    provenance: dict[str, object] = {}
    if candidate.predicted is not None:
        by_model = candidate.predicted.cost_provenance
        provenance["predicted"] = {
            "loss_increase_nats": "estimated",
            "latency_s": by_model,
            "energy_j": by_model,
            "power_w": by_model,
            "weight_bytes": "exact",
            "peak_memory_bytes": "exact",
            "bops": "exact",
        }
    if candidate.measured is not None:
        provenance["measured"] = {
            "accuracy": "measured",
            "loss_increase_nats": "measured",
            "latency_s": candidate.measured.latency.provenance if candidate.measured.latency else None,
            "energy_j": candidate.measured.energy_provenance,
            "artifact_weight_bytes": "exact",
            "agreement_with_onnxruntime": "measured",
        }
    return provenance


def _estimate(estimate: Estimate) -> dict[str, object]:
    return {"value": estimate.value, "standard_error": estimate.standard_error}


def _latency(latency: Latency) -> dict[str, object]:
    return {
        "median_s": latency.median_s,
        "minimum_s": latency.minimum_s,
        "interquartile_range_s": latency.spread_s,
        "samples": latency.samples,
        "threads": latency.threads,
        "provenance": latency.provenance,
    }


def _agreement(agreement: Agreement) -> dict[str, object]:
    return {
        "largest_difference": agreement.largest_difference,
        "largest_difference_steps": agreement.largest_difference_steps,
        "exact_share": agreement.exact_share,
        "samples": agreement.samples,
    }


def _choice(choice: BudgetChoice) -> dict[str, object]:
    return {
        "budget": choice.budget,
        "id": choice.identity,
        "proposal": choice.proposal,
        "lower_bound_nats": choice.lower_bound_nats,
        "gap": choice.gap,
        "evaluations": choice.evaluations,
    }


def _layer(layer: LayerRow) -> dict[str, object]:
    return {
        "name": layer.name,
        "op_type": layer.op_type,
        "macs": layer.macs,
        "weight_elements": layer.weight_elements,
        "loss_increase_nats": {str(bits): value for bits, value in layer.loss_increase_nats.items()},
        "trace": layer.trace,
        "trace_standard_error": layer.trace_standard_error,
        "trace_is_exact": layer.trace_is_exact,
        "predicted_latency_s": layer.predicted_s,
        "measured_latency_s": layer.measured_s,
    }
