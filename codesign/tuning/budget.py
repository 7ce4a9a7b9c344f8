"""How much time the tuner may take."""

from codesign.durations import seconds_of

CACHED = "cached"
"""Measures nothing, and uses what was found before."""


def tuning_budget_s(text: str, name: str) -> float:
    """Reads a budget.

    Args:
        text: `cached`, or a duration such as `5m`.
        name: Of the setting, for the message.

    Returns:
        Seconds; 0 for `cached`.
    """
    return 0.0 if text == CACHED else seconds_of(text, f"{name} (or {CACHED!r})")
