"""What a command shows on the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codesign.console import ConsoleProgress


@contextmanager
def console_progress() -> "Iterator[ConsoleProgress]":
    """Shows progress on standard error while a block runs.

    Yields:
        What the block tells about its work.
    """
    from rich.console import Console

    from codesign.console import ConsoleProgress

    with ConsoleProgress(Console(stderr=True, markup=False)).live() as progress:
        yield progress


def show(what: object) -> None:
    """Prints on standard output.

    Args:
        what: Text, or anything that rich prints.
    """
    from rich.console import Console

    console = Console(markup=False)  # names and messages may hold brackets
    if not console.is_terminal:
        console = Console(width=200, markup=False)
    console.print(what, soft_wrap=isinstance(what, str))
