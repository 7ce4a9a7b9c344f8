"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

ItemT = TypeVar("ItemT")


class Progress(Protocol):
    """Listener of long work; the command line shows a bar with an estimate of the time left."""

    def start(self, label: str, total: int) -> None:
        """A piece of work with `total` equal steps begins.

        Args:
            label: What is being done, in a few words.
            total: Number of steps.
        """

    def advance(self, steps: int = 1) -> None:
        """More steps of the running piece of work are done.

        Args:
            steps: How many.
        """

    def finish(self) -> None:
        """The running piece of work has ended."""

    def note(self, message: str) -> None:
        """Something that the user should know, such as a warning.

        Args:
            message: One sentence.
        """


class Silent:
    """A listener that ignores everything but hands notes to an optional callback."""

    def __init__(self, on_note: Callable[[str], None] | None = None) -> None:
        self._on_note = on_note

    def start(self, label: str, total: int) -> None:
        """Ignored.

        Args:
            label: Ignored.
            total: Ignored.
        """

    def advance(self, steps: int = 1) -> None:
        """Ignored.

        Args:
            steps: Ignored.
        """

    def finish(self) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Hands the message to the callback.

        Args:
            message: One sentence.
        """
        if self._on_note is not None:
            self._on_note(message)


def track(progress: Progress, label: str, items: Iterable[ItemT], total: int) -> Iterator[ItemT]:
    """Yields `items` while it reports each as one step.

    Args:
        progress: Listener.
        label: What is being done.
        items: Work items.
        total: Their number.

    Yields:
        The items, unchanged.
    """
    progress.start(label, total)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.finish()
