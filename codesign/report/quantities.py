"""Numbers with units, as people read them."""

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_JOULES = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"))
_BYTES = ((1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B"))


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    Args:
        value: Seconds.

    Returns:
        Such as `204 µs`.
    """
    return _scaled(value, _SECONDS)


def joules(value: float) -> str:
    """An energy in the unit that suits it.

    Args:
        value: Joules.

    Returns:
        Such as `12.3 µJ`.
    """
    return _scaled(value, _JOULES)


def size(value: float) -> str:
    """A number of bytes in the unit that suits it.

    Args:
        value: Bytes.

    Returns:
        Such as `98.4 KiB`.
    """
    return _scaled(value, _BYTES)


def percent(value: float, standard_error: float | None = None) -> str:
    """A share as a percentage.

    Args:
        value: Between 0 and 1.
        standard_error: Of the share.

    Returns:
        Such as `91.55 ± 1.23 %`.
    """
    spread = "" if standard_error is None else f" ± {100 * standard_error:.2f}"
    return f"{100 * value:.2f}{spread} %"


def nats(value: float) -> str:
    """A loss with three significant digits.

    Args:
        value: Nats.

    Returns:
        Such as `0.0123`.
    """
    return f"{value:.3g}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    if value == 0:
        return f"0 {units[-1][1] if units is _BYTES else units[0][1]}"
    factor, unit = next((pair for pair in units if abs(value) >= pair[0]), units[-1])
    return f"{value / factor:.3g} {unit}" if abs(value) / factor < 999.5 else f"{value / factor:.0f} {unit}"
