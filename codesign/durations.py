"""Durations as people write them."""

from codesign.errors import InputError

LEAST_S = 1.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str, name: str = "budget") -> float:
    """Reads a duration.

    Args:
        text: Such as `90`, `90s`, `10m`, `1.5h`.
        name: Of the setting, for the message.

    Returns:
        Seconds.

    Raises:
        InputError: It is no duration, or shorter than a second.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s")
    try:
        seconds = float(number) * _UNITS[unit]
    except ValueError:
        seconds = float("nan")
    if not LEAST_S <= seconds < float("inf"):
        raise InputError(f"{name}: got {text!r}, allowed are durations of at least 1 s such as 90s, 10m or 1h")
    return seconds
