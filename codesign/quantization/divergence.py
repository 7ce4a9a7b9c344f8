"""How far outputs move: KL divergence of each sample, and its mean."""

from dataclasses import dataclass

from torch import Tensor

from codesign.errors import InputError
from codesign.ir.onnx_to_torch import TorchGraph


@dataclass(frozen=True)
class Estimate:
    """A mean over samples and its standard error (0 for a single sample)."""

    mean: float
    standard_error: float


def divergence(reference_log_probabilities: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence of each sample, in nats: T^2 sum_c p_c (log p_c - log q_c), mean over positions.

    p and q are softmax of logits / T. At temperature 1 this is the KL divergence of the outputs. The factor T^2 keeps
    small motions dz of the logits comparable: the value is then half the variance of dz under p, whatever T.

    Args:
        reference_log_probabilities: log p, `[N, ..., C]`, float64, at the same temperature.
        logits: Of q, same shape.
        temperature: T.

    Returns:
        `[N]`, float64; NaN or infinite where the logits are.
    """
    log_q = (logits.double() / temperature).log_softmax(-1)
    kl = (reference_log_probabilities.exp() * (reference_log_probabilities - log_q)).sum(-1)
    return temperature**2 * kl.reshape(len(kl), -1).mean(1)


def reference_log_probabilities(graph: TorchGraph, x: Tensor) -> Tensor:
    """What the network that is not quantised answers.

    Args:
        graph: The network.
        x: `[N, ...]`.

    Returns:
        log p, `[N, ..., C]`, float64.

    Raises:
        InputError: It holds NaN or infinity; the message names the first node whose result does.
    """
    found = graph.run(x).double().log_softmax(-1)
    if bool(found.isfinite().all()):
        return found
    for node, results in graph.evaluate(x):
        if not all(bool(value.data.isfinite().all()) for value in results):
            raise InputError(
                f"node {node.name!r} ({node.op_type}): its result becomes NaN or infinite on calibration data before "
                f"anything is quantised; check the data and the weights"
            )
    raise InputError("the log-probabilities of the outputs are infinite on calibration data; check the last weights")


def estimate(values: Tensor) -> Estimate:
    """Mean over samples and its standard error.

    Args:
        values: `[N]`, at least one.

    Returns:
        Mean, and standard deviation / sqrt(N).
    """
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), error)
