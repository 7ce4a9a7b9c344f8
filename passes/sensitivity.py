"""The pass `sensitivity`: the table layer x bits -> loss increase that the search reads."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from codesign.errors import InputError, PassError
from codesign.ir.annotation import annotate, find, read
from codesign.ir.annotations import (
    HessianTrace,
    KlSensitivity,
    LossAtBits,
    LossMethod,
    QuadraticLoss,
    QuadraticLossAtBits,
    QuantizationError,
    Sensitivity,
)
from codesign.ir.program import Program, name_of
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, PassContext
from codesign.quantization.scheme import ACTIVATION_BITS

Entries = tuple[LossAtBits, ...]
ByWidth = Mapping[ir.Node, Mapping[int, LossAtBits]]
SingleMethod = Literal["kl", "hawq", "hawq-v2", "gauss-newton", "gradient-gauss-newton"]
QUADRATIC: tuple[SingleMethod, ...] = ("gauss-newton", "hawq-v2")
"""What `auto` fills gaps with, the better model first."""

_REQUIRED: dict[LossMethod, AnnotationSet] = {
    "auto": frozenset(),
    "kl": frozenset({KlSensitivity}),
    "hawq": frozenset({HessianTrace, QuantizationError}),
    "hawq-v2": frozenset({HessianTrace, QuantizationError}),
    "gauss-newton": frozenset({QuadraticLoss}),
    "gradient-gauss-newton": frozenset({QuadraticLoss}),
}


@dataclass(frozen=True)
class SensitivityPass(AnalysisPass):
    """Gathers the estimates of earlier passes into one table of nats.

    With d the error of a node's quantised weight, n its number of weights, H its Hessian block, G its Gauss-Newton
    block and g its gradient, all of the mean cross-entropy:

    | method | loss increase | facts that it reads |
    |---|---|---|
    | `kl` | KL divergence of the outputs, measured (ZeroQ) | `kl-sensitivity` |
    | `hawq` | `1/2 (lambda_max(H) / n) |d|^2` | `hessian-trace` with eigenvalues, `quantization-error` |
    | `hawq-v2` | `1/2 (tr(H) / n) |d|^2`, for an error without preferred direction | the same |
    | `gauss-newton` | `1/2 d^T G d`, d with the change of the bias | `quadratic-loss` |
    | `gradient-gauss-newton` | `g^T d + 1/2 d^T G d` | `quadratic-loss` with labels |
    | `auto` | for each width the best of what is there: `kl`, else `gauss-newton`, else `hawq-v2` | one of these |

    Under `auto` a quadratic model is brought to the level of the measured entries: it is scaled by the median ratio of
    the two over nodes, at the widest width that both know. On ResNet-20 and ResNet-56 with measured 2 and 3 bits,
    HAWQ-V2's entries at 4 to 8 bits are else 2 to 12 % of what measuring gives (median); scaled, 100 to 120 %.

    HAWQ itself only orders layers, by lambda_max / n; its number becomes nats as HAWQ-V2's does, with the top
    eigenvalue in the place of the trace. An estimate below zero counts as zero: no plan may profit from an error of
    the model.

    Attributes:
        method: Which estimate. `auto` needs no fact of all nodes, but at least one estimate on each; every entry says
            where it came from.
    """

    name: ClassVar[str] = "sensitivity"
    provides: ClassVar[AnnotationSet] = frozenset({Sensitivity})
    method: LossMethod = "auto"

    def required(self) -> AnnotationSet:
        """What the method reads; nothing in particular for `auto`, which takes what is there.

        Returns:
            Facts that an earlier pass must provide.
        """
        return _REQUIRED[self.method]

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network.
            context: Not used.

        Raises:
            InputError: An estimate is NaN or infinite.
        """
        method = self.method
        nodes = program.weighted_nodes
        table = best(program) if method == "auto" else {name_of(node): estimates(node, method) for node in nodes}
        for node in nodes:
            for entry in table[name_of(node)]:
                if not (math.isfinite(entry.loss_increase_nats) and math.isfinite(entry.standard_error_nats)):
                    raise InputError(
                        f"pass {self}: node {node.name!r} at {entry.weight_bits} bits: the loss increase by "
                        f"{entry.method} is {entry.loss_increase_nats} +- {entry.standard_error_nats} nats, allowed "
                        f"are finite numbers; check the weights and the data, or use method=kl"
                    )
            annotate(node, Sensitivity(by_bits=table[name_of(node)]))


def estimates(node: ir.Node, method: SingleMethod) -> Entries:
    """Loss increase of one node at every width that is known, narrowest first.

    Args:
        node: A node with the facts that the method reads.
        method: Which estimate.

    Returns:
        One entry for each width.
    """
    match method:
        case "kl":
            found = read(node, KlSensitivity).by_bits
        case "hawq" | "hawq-v2":
            found = _isotropic(node, method)
        case "gauss-newton" | "gradient-gauss-newton":
            found = tuple(_taylor(node, entry, method) for entry in read(node, QuadraticLoss).by_bits)
    return tuple(sorted(found, key=lambda entry: entry.weight_bits))


def best(program: Program) -> Mapping[str, Entries]:
    """What `auto` says of every node: measured entries, and a quadratic model at their level where there are none.

    Args:
        program: Each node with a weight carries at least one estimate.

    Returns:
        Entries by node name, narrowest first.

    Raises:
        PassError: A node carries none.
    """
    nodes = program.weighted_nodes
    known = {node: {entry.weight_bits: entry for entry in _known(node, "kl")} for node in nodes}
    for method in QUADRATIC:
        model = {node: {entry.weight_bits: entry for entry in _known(node, method)} for node in nodes}
        scale = _level(known, model)
        filled = {node: {w: _scaled(entry, scale) for w, entry in model[node].items()} for node in nodes}
        known = {node: filled[node] | known[node] for node in nodes}
    for node in nodes:
        if not known[node]:
            raise PassError(
                f"pass sensitivity{{method=auto}}: node {node.name!r} ({node.op_type}) carries no estimate; schedule "
                f"kl-sensitivity, or quadratic-loss, or hessian-trace and quantization-error before it"
            )
    return {name_of(node): tuple(entry for _, entry in sorted(known[node].items())) for node in nodes}


def _known(node: ir.Node, method: SingleMethod) -> Entries:
    """Estimates by one method, none where a fact is missing."""
    there = all(find(node, kind) is not None for kind in _REQUIRED[method])
    return estimates(node, method) if there else ()


def _level(known: ByWidth, model: ByWidth) -> float:
    """Median ratio of known entries to a model's at the widest width where both have some; 1 where there is none."""
    ratios: dict[int, list[float]] = {}
    for node, entries in model.items():
        for width, entry in entries.items():
            if width in known[node] and entry.loss_increase_nats > 0 and known[node][width].loss_increase_nats > 0:
                ratio = known[node][width].loss_increase_nats / entry.loss_increase_nats
                ratios.setdefault(width, []).append(ratio)
    return statistics.median(ratios[max(ratios)]) if ratios else 1.0


def _scaled(entry: LossAtBits, scale: float) -> LossAtBits:
    return entry.model_copy(
        update={
            "loss_increase_nats": entry.loss_increase_nats * scale,
            "standard_error_nats": entry.standard_error_nats * scale,
        }
    )


def _isotropic(node: ir.Node, method: Literal["hawq", "hawq-v2"]) -> Entries:
    """Half the mean curvature times the squared error, at each width."""
    curvature = read(node, HessianTrace)
    if method == "hawq" and not curvature.top_eigenvalues:
        raise InputError(
            f"pass sensitivity{{method=hawq}}: node {node.name!r} ({node.op_type}): 'hessian-trace' holds no top "
            f"eigenvalue; give hessian-trace the option eigenvalues=1"
        )
    total = curvature.top_eigenvalues[0] if method == "hawq" else curvature.trace
    error = 0.0 if method == "hawq" else curvature.standard_error  # eigenvalues come without an error bar
    per_weight = 0.5 / max(curvature.parameters, 1)
    return tuple(
        _entry(e.bits, total * per_weight * e.squared_error, error * per_weight * e.squared_error, method)
        for e in read(node, QuantizationError).by_bits
    )


def _taylor(node: ir.Node, entry: QuadraticLossAtBits, method: LossMethod) -> LossAtBits:
    value, error = entry.gauss_newton_nats, entry.gauss_newton_standard_error_nats
    if method == "gradient-gauss-newton":
        if entry.gradient_nats is None or entry.gradient_standard_error_nats is None:
            raise InputError(
                f"pass sensitivity{{method={method}}}: node {node.name!r} ({node.op_type}): 'quadratic-loss' holds no "
                f"first-order term, for the calibration data has no labels; give labelled data"
            )
        value += entry.gradient_nats
        error += entry.gradient_standard_error_nats  # at most this: the two terms share their samples
    return _entry(entry.weight_bits, value, error, method)


def _entry(bits: int, value: float, error: float, method: LossMethod) -> LossAtBits:
    return LossAtBits(
        weight_bits=bits,
        activation_bits=ACTIVATION_BITS[-1],
        loss_increase_nats=value if math.isnan(value) else max(value, 0.0),  # NaN must not become zero
        standard_error_nats=error,
        method=method,
    )
