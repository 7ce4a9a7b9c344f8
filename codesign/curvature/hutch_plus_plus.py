"""Hutch++: the trace of a low-rank part exactly, that of the rest by Hutchinson's estimate.

With Q an orthonormal basis of `A S`, S random signs, and `P = I - Q Q^T`: `tr(A) = tr(Q^T A Q) + tr(P A P)`. The second
trace is estimated with fresh random signs G, so that the estimate is unbiased for each Q. For a positive semi-definite
matrix the relative error falls with the number of products itself and not with its root (Meyer, Musco, Musco and
Woodruff, "Hutch++: Optimal stochastic trace estimation", 2021; algorithm 1). A third of the products goes to each of
`A S`, `A Q` and `A G`, as there. S, Q and G grow round by round until the rule is met; products with G are kept and
projected anew when Q grows.
"""

import math

import torch
from torch import Tensor

from codesign.curvature.orthonormal_basis import RangeBasis
from codesign.curvature.probing import (
    StoppingRule,
    TraceEstimate,
    random_signs,
    round_size,
    standard_error_factor,
)
from codesign.curvature.probing_rounds import trace_by
from codesign.curvature.symmetric_operator import SymmetricOperator
from codesign.data_parallel import Shard
from codesign.errors import InputError
from codesign.progress import Progress

_PRODUCTS_PER_PROBE = 3


class HutchPlusPlusProbing:
    """Hutch++ that grows. Memory: about `6 n k` numbers of 8 bytes for k probes, a third of the products.

    Args:
        dimension: Rows of the matrix, n.
        rule: At most `max_probes` products are asked for.
        generator: Of the probes.
        dtype: Of the vectors.
        device: Of the vectors.

    Raises:
        InputError: The rule allows fewer than six products, two for each part.
    """

    def __init__(
        self,
        dimension: int,
        rule: StoppingRule,
        generator: torch.Generator,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if rule.max_probes < 2 * _PRODUCTS_PER_PROBE:
            raise InputError(
                f"hutch++: got at most {rule.max_probes} products, allowed are 6 or more; raise max_probes"
            )
        self._dimension, self._rule, self._generator = dimension, rule, generator
        self._dtype, self._device = dtype, device
        self._basis = RangeBasis(dimension, dtype, device)
        self._signs = torch.empty(dimension, 0, dtype=torch.float64, device=device)
        self._products = self._signs.clone()
        self._new_columns: Tensor | None = None
        self._spent = 0
        self.estimate: TraceEstimate | None = None

    def ask(self) -> Tensor | None:
        """A round asks for products with S and G, then with the new columns of Q.

        Returns:
            `[n, B]`; None when no further round can be paid.
        """
        if self._new_columns is not None:
            return self._new_columns.to(self._dtype)
        count = round_size(self._signs.shape[1], self._rule, _PRODUCTS_PER_PROBE)
        if not count:
            return None
        drawn = random_signs(self._dimension, 2 * count, self._generator).to(self._device)
        self._signs = torch.cat([self._signs, drawn[:, count:].double()], 1)
        return drawn.to(self._dtype)

    def tell(self, products: Tensor) -> None:
        """Takes the products of one half of a round.

        Args:
            products: `[n, B]`.
        """
        self._spent += products.shape[1]
        if self._new_columns is not None:
            self._basis.extend(self._new_columns, products)
            self._new_columns = None
        else:
            sketch, probed = products.tensor_split(2, 1)
            self._products = torch.cat([self._products, probed.double()], 1)
            directions = self._basis.directions_in(sketch)
            self._new_columns = directions if directions.shape[1] else None
        if self._new_columns is None:
            self.estimate = self._estimated()

    def _estimated(self) -> TraceEstimate:
        """As `hutchinson`, with `z = g * (P A P g)`: the standard error rests on the elements of the products."""
        basis, images = self._basis.columns, self._basis.products
        inside = basis.mT @ self._signs
        projected = self._products - images @ inside
        projected -= basis @ (basis.mT @ projected)
        elements = self._signs * projected
        count = elements.shape[1]
        variance = 2 * float(elements.var(1).sum())
        values = elements.sum(0).cpu()
        trace = float((basis * images).sum()) + float(values.mean())
        error = math.sqrt(variance / count) * standard_error_factor(count)
        return TraceEstimate(trace, error, self._spent, values)


def hutch_plus_plus(
    operator: SymmetricOperator,
    rule: StoppingRule | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    shard: Shard | None = None,
) -> TraceEstimate:
    """Hutch++'s estimate of a trace: unbiased, also for indefinite matrices; exact for matrices of low rank.

    Cost: three products a probe. Better than Hutchinson's where few eigenvalues hold most of the matrix's norm.

    Args:
        operator: The matrix. With at most `rule.max_probes` rows its trace is found exactly instead.
        rule: When to stop; `max_probes` counts products.
        seed: Of the probes.
        progress: Told about products.
        shard: Needed with a time limit where the operator's products are made by several processes.

    Returns:
        The trace; its `values` are `g^T P A P g`, one for each probe of the rest.
    """
    return trace_by(HutchPlusPlusProbing, operator, rule, seed, progress, shard)
