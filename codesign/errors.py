"""Every error that codesign raises on purpose.

A message says what broke, where (pass, node, `file: key`), what was found against what is allowed, and the cure.
The command line prints it without a traceback and exits with `exit_code`.
"""

import difflib
from collections.abc import Iterable


class CodesignError(Exception):
    """Base of all errors that a user can cure; the message is one clear sentence with its cure."""

    exit_code = 1


class InputError(CodesignError):
    """Something that the user handed over is missing, malformed or does not fit."""

    exit_code = 2


class UnsupportedOperatorError(InputError):
    """A graph holds operators that a step does not know; all of them are listed at once."""


class InfeasibleBudgetError(CodesignError):
    """No plan meets a budget; the message names the tightest value that can be reached on each axis."""

    exit_code = 3


class PassError(CodesignError):
    """A pass failed or broke its declaration."""


class CompileError(CodesignError):
    """A compiler could not turn a graph into an artefact."""


class MeasurementError(CodesignError):
    """A candidate crashed, ran past its limit or returned nonsense while it was measured."""


class DeviceError(CodesignError):
    """A device cannot be reached or does not answer, so that whatever comes next would fail as well."""


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough for a sentence.

    Args:
        error: Any exception.

    Returns:
        The first line of its message without the full stop, or its type where it has none.
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".;: ") if lines else type(error).__name__


def closest(name: str, known: Iterable[str]) -> str:
    """The phrase `; did you mean 'x'?` with the known name nearest to a mistyped one, or the list of all known names.

    Args:
        name: What was asked for.
        known: What there is.

    Returns:
        Text to append to an error message.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names) or 'none'}"
