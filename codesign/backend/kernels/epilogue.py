"""What follows an accumulation: bias, activation, residual addition and requantisation, rounded as onnxruntime does."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tvm import te, tirx

ZEROS = 4
"""Length of the int32 argument `[input zero point, middle zero point, output zero point, unused]`."""
FACTORS = 7
"""Length of the float32 argument `[low, high, middle low, middle high, middle factor, residual factor, offset]`."""


@dataclass(frozen=True)
class Clamp:
    """An activation that bounds its argument: Relu, Clip, or nothing.

    Attributes:
        low: Smallest value, None for no bound.
        high: Largest value, None for no bound.
    """

    low: float | None = None
    high: float | None = None

    def then(self, outer: "Clamp") -> "Clamp":
        """One clamp that does the work of two.

        Args:
            outer: The one that follows.

        Returns:
            Their composition.
        """
        low, high = self.low, self.high
        if outer.low is not None:
            low = outer.low if low is None else max(low, outer.low)
            high = None if high is None else max(high, outer.low)
        if outer.high is not None:
            high = outer.high if high is None else min(high, outer.high)
            low = None if low is None else min(low, outer.high)
        return Clamp(low, high)

    def apply(self, value: "tirx.Expr") -> "tirx.Expr":
        """Bounds a float32 expression.

        Args:
            value: The expression.

        Returns:
            The bounded expression.
        """
        from tvm import te, tirx

        if self.low is not None:
            value = te.max(value, tirx.const(self.low, "float32"))
        return value if self.high is None else te.min(value, tirx.const(self.high, "float32"))


@dataclass(frozen=True)
class FloatEpilogue:
    """y = outer(inner(sum + bias) + residual), in float32.

    Attributes:
        inner: Activation before the residual addition.
        residual: Whether a residual is added.
        outer: Activation after it.
    """

    inner: Clamp = Clamp()
    residual: bool = False
    outer: Clamp = Clamp()

    def apply(self, total: "tirx.Expr", residual: "tirx.Expr | None") -> "tirx.Expr":
        """Builds the expression.

        Args:
            total: Sum plus bias.
            residual: What is added, if anything.

        Returns:
            The value to store.
        """
        value = self.inner.apply(total)
        if residual is not None:
            value += residual
        return self.outer.apply(value)


@dataclass(frozen=True)
class IntegerEpilogue:
    """From an int32 sum to uint8 or float32; scales and zero points are arguments of the kernel.

    Without residual: y = round(clamp(acc s_c, low, high)) + z_y, with s_c = s_x s_w[c] / s_y, or for float32
    y = clamp(acc s_c) with s_c = s_x s_w[c]. With a residual r, the sum is first rounded to uint8 as the graph does:
    m = round(clamp(acc s_c, middle)) + z_m, then y = clamp(round(offset + m f_m + r f_r), low, high), where
    f_m = s_m / s_y, f_r = s_r / s_y, offset = z_y - f_m z_m - f_r z_r and the bounds hold z_y, as in onnxruntime's
    QLinearAdd (MLAS).

    Attributes:
        output: Type of the result.
        residual: Place of the residual among the operands of the addition, None without one.
    """

    output: Literal["uint8", "float32"] = "uint8"
    residual: Literal["first", "second", None] = None

    def apply(
        self,
        total: "tirx.Expr",
        scale: "tirx.Expr",
        zeros: "te.Tensor",
        factors: "te.Tensor",
        residual: "tirx.Expr | None",
    ) -> "tirx.Expr":
        """Builds the expression.

        Args:
            total: The int32 sum plus bias, the input's zero point already taken off.
            scale: Scale of the channel.
            zeros: The int32 argument, `ZEROS` long.
            factors: The float32 argument, `FACTORS` long.
            residual: The uint8 residual, if any.

        Returns:
            The value to store.
        """
        value = total.astype("float32") * scale
        if self.output == "float32":
            return clamped(value, factors[0], factors[1])
        if residual is None:
            return to_uint8(clamped(value, factors[0], factors[1]), zeros[2])
        middle = rounded(clamped(value, factors[2], factors[3])) + zeros[1]
        terms = [(middle, factors[4]), (residual.astype("int32"), factors[5])]
        if self.residual == "second":  # MLAS adds the second operand first
            terms.reverse()
        value = factors[6]
        for term, factor in terms:
            value += term.astype("float32") * factor
        return to_uint8_saturated(value, factors[0], factors[1])


def clamped(value: "tirx.Expr", low: "tirx.Expr", high: "tirx.Expr") -> "tirx.Expr":
    """min(max(value, low), high).

    Args:
        value: Expression.
        low: Lower bound.
        high: Upper bound.

    Returns:
        The bounded expression.
    """
    from tvm import te

    return te.min(te.max(value, low), high)


def rounded(value: "tirx.Expr") -> "tirx.Expr":
    """Rounds to the nearest integer, ties to even.

    By LLVM's intrinsic, which is one instruction: TVM's own `nearbyint` is two, and TVM does not vectorise it, which
    leaves loops over single elements to LLVM.

    Args:
        value: A float32 expression.

    Returns:
        An int32 expression.
    """
    from tvm import tirx

    return tirx.call_llvm_pure_intrin("int32", "llvm.lrint", value)


def to_uint8(value: "tirx.Expr", zero: "tirx.Expr") -> "tirx.Expr":
    """round(value) + zero for a value bounded to [0 - zero, 255 - zero].

    Args:
        value: Bounded float32 expression.
        zero: int32 zero point.

    Returns:
        A uint8 expression.
    """
    return (rounded(value) + zero).astype("uint8")


def to_uint8_saturated(value: "tirx.Expr", low: "tirx.Expr", high: "tirx.Expr") -> "tirx.Expr":
    """clamp(round(value), low, high) for a value that holds the zero point already.

    Args:
        value: float32 expression.
        low: Smallest result, at least 0; an integer, so that it does not matter that it is applied before rounding.
        high: Largest result, at most 255; an integer too.

    Returns:
        A uint8 expression.
    """
    return rounded(clamped(value, low, high)).astype("uint8")
