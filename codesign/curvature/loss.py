"""Losses: their value, and their Hessian in the network's outputs.

A loss is a mean over rows. A row is what one softmax, or one sample's function, sees: outputs `[N, ...]` become rows
`[N, R, C]`, R rows a sample with C entries each, and the loss is `1 / (N R)` times the sum of the losses of all rows.
Its Hessian in the outputs is block diagonal, one `[C, C]` matrix a row.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from codesign.curvature.softmax_hessian import softmax_hessian
from codesign.errors import InputError, first_line


class Loss(Protocol):
    """What curvature estimators ask of a loss.

    Attributes:
        name: Kebab-case.
        hessian_needs_targets: Whether its Hessian in the outputs depends on the targets.
    """

    @property
    def name(self) -> str:
        """Kebab-case."""
        ...

    @property
    def hessian_needs_targets(self) -> bool:
        """Whether the Hessian in the outputs depends on the targets."""
        ...

    def as_rows(self, outputs: Tensor) -> Tensor:
        """Outputs as rows.

        Args:
            outputs: `[N, ...]`.

        Returns:
            A view `[N, R, C]`.
        """
        ...

    def row_targets(self, targets: Tensor) -> Tensor:
        """Targets as rows.

        Args:
            targets: `[N, ...]`.

        Returns:
            `[N * R, ...]`, in the order of the rows of `as_rows`.
        """
        ...

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of all rows, twice differentiable in the outputs.

        Args:
            outputs: `[N, ...]`.
            targets: `[N, ...]`.

        Returns:
            A scalar.

        Raises:
            InputError: Targets do not fit the outputs, or the sum is NaN or infinite.
        """
        ...

    def row_hessians(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """Hessians of the losses of single rows.

        Args:
            rows: `[P, C]`.
            targets: Of the same rows, as from `row_targets`; may be None unless `hessian_needs_targets`.
            sample_shape: Shape of the outputs of one sample.

        Returns:
            Symmetric matrices `[P, C, C]` in float64; indefinite where the loss is not convex.
        """
        ...


class CrossEntropy:
    """Cross-entropy of class indices; every position of outputs `[N, ..., C]` is a row."""

    name = "cross-entropy"
    hessian_needs_targets = False

    def as_rows(self, outputs: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: Logits `[N, ..., C]`.

        Returns:
            `[N, R, C]`.
        """
        return outputs.reshape(outputs.shape[0], -1, outputs.shape[-1])

    def row_targets(self, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            targets: Class indices `[N, ...]`.

        Returns:
            `[N * R]`.
        """
        return targets.flatten()

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: Logits `[N, ..., C]`.
            targets: Class indices `[N, ...]`.

        Returns:
            A scalar.

        Raises:
            InputError: Targets do not fit the outputs, or the sum is NaN or infinite.
        """
        if targets.shape != outputs.shape[:-1]:
            raise InputError(
                f"labels: got shape {tuple(targets.shape)} for logits {tuple(outputs.shape)}, allowed is one class "
                f"index for each row of logits; give labels of that shape"
            )
        classes = outputs.shape[-1]
        if int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise InputError(
                f"labels: got {int(targets.min())} to {int(targets.max())}, allowed are 0 to {classes - 1}; "
                f"give class indices of the network's outputs"
            )
        return _finite(F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum"))

    def row_hessians(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """`diag(p) - p p^T`, see `softmax_hessian`.

        Args:
            rows: Logits `[P, C]`.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            `[P, C, C]` in float64.
        """
        return softmax_hessian(rows)


class SquaredError:
    """Mean over all elements of the squared difference, as torch's `MSELoss`; a sample is a row."""

    name = "squared-error"
    hessian_needs_targets = False

    def as_rows(self, outputs: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: `[N, ...]`.

        Returns:
            `[N, 1, C]`.
        """
        return outputs.reshape(outputs.shape[0], 1, -1)

    def row_targets(self, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            targets: `[N, ...]`.

        Returns:
            `[N, C]`.
        """
        return targets.flatten(1)

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: `[N, ...]`.
            targets: The same shape.

        Returns:
            A scalar.

        Raises:
            InputError: Targets do not fit the outputs, or the sum is NaN or infinite.
        """
        if targets.shape != outputs.shape:
            raise InputError(
                f"targets: got shape {tuple(targets.shape)} for outputs {tuple(outputs.shape)}, allowed is the same "
                f"shape; give one target for each output"
            )
        return _finite((outputs - targets).square().flatten(1).mean(1).sum())

    def row_hessians(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """`2 / C` times the identity.

        Args:
            rows: `[P, C]`.
            targets: Not used.
            sample_shape: Not used.

        Returns:
            `[P, C, C]` in float64.
        """
        count, size = rows.shape
        identity = torch.eye(size, dtype=torch.float64, device=rows.device)
        return (identity * (2 / size)).expand(count, size, size)


class SampleLoss:
    """Any loss given as a function of one sample's output and target; its Hessian is found by autograd.

    Args:
        function: `function(output [...], target [...]) -> scalar`, twice differentiable and composed of torch
            operations that `torch.func.vmap` takes. The loss is its mean over samples.
        name: Kebab-case.
    """

    hessian_needs_targets = True

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str = "function") -> None:
        self.name = name
        self._function = function

    def as_rows(self, outputs: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: `[N, ...]`.

        Returns:
            `[N, 1, C]`.
        """
        return outputs.reshape(outputs.shape[0], 1, -1)

    def row_targets(self, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            targets: `[N, ...]`.

        Returns:
            The same.
        """
        return targets

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Loss`.

        Args:
            outputs: `[N, ...]`.
            targets: `[N, ...]`.

        Returns:
            A scalar.

        Raises:
            InputError: The function fails, is not a scalar, is not differentiable, or is NaN or infinite.
        """
        if len(targets) != len(outputs):
            raise InputError(f"loss {self.name!r}: got {len(outputs)} outputs and {len(targets)} targets; give as many")
        try:
            values = torch.func.vmap(self._function)(outputs, targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise self._failure(error) from error
        if values.shape != (len(outputs),):
            raise InputError(
                f"loss {self.name!r}: returned shape {tuple(values.shape[1:])} for one sample, allowed is a scalar; "
                f"reduce it"
            )
        if outputs.requires_grad and not values.requires_grad:
            raise InputError(f"loss {self.name!r}: is not differentiable in the outputs; use torch operations that are")
        return _finite(values.sum())

    def row_hessians(self, rows: Tensor, targets: Tensor | None, sample_shape: torch.Size) -> Tensor:
        """The function's Hessian, by forward over reverse differentiation.

        Args:
            rows: `[P, C]`.
            targets: `[P, ...]`.
            sample_shape: Shape of one sample's output, which the function is given.

        Returns:
            `[P, C, C]` in float64.

        Raises:
            InputError: The function cannot be differentiated twice, or there are no targets.
        """
        if targets is None:
            raise InputError(f"loss {self.name!r}: its Hessian depends on targets, got none; give labelled data")

        def of_row(row: Tensor, target: Tensor) -> Tensor:
            return self._function(row.reshape(sample_shape), target)

        try:
            hessian: Tensor = torch.func.vmap(torch.func.hessian(of_row))(rows.double(), targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise self._failure(error) from error
        return (hessian + hessian.mT) / 2

    def _failure(self, error: Exception) -> InputError:
        return InputError(
            f"loss {self.name!r}: fails on one sample's output and target ({first_line(error)}); it must be a function "
            f"of two tensors made of differentiable torch operations"
        )


def _finite(total: Tensor) -> Tensor:
    if not torch.isfinite(total):
        raise InputError("curvature: the loss is NaN or infinite; check the weights and the data")
    return total
