"""Observers of a pipeline: printing, dumping and timing."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from codesign.files import write_bytes
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.pass_manager.base import Pass


class Instrument(Protocol):
    """Watches passes run; must not change the program."""

    def before(self, index: int, pass_: Pass, program: Program) -> None:
        """A pass is about to run.

        Args:
            index: Its place in the pipeline, from 0.
            pass_: The pass.
            program: What it will run on.
        """

    def after(self, index: int, pass_: Pass, program: Program, seconds: float) -> None:
        """A pass has run; what it left is not verified yet. Not called if the pass failed.

        Args:
            index: Its place in the pipeline, from 0.
            pass_: The pass.
            program: What it ran on.
            seconds: Wall-clock time of the pass alone.
        """


class PrintAfterAll:
    """Writes the graph to a stream after every pass."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def before(self, index: int, pass_: Pass, program: Program) -> None:
        """Does nothing.

        Args:
            index: Not used.
            pass_: Not used.
            program: Not used.
        """

    def after(self, index: int, pass_: Pass, program: Program, seconds: float) -> None:
        """Prints the graph under a heading.

        Args:
            index: Place of the pass in the pipeline.
            pass_: The pass.
            program: What it left.
            seconds: Not used.
        """
        self._stream.write(f"// ----- {index + 1:03d}: after {pass_} -----\n{print_graph(program.graph)}")


class DumpAfterAll:
    """Writes `000_input.txt` and, after every pass, a file such as `003_count-work.txt` into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, index: int, pass_: Pass, program: Program) -> None:
        """Dumps what the first pass is given.

        Args:
            index: Place of the pass in the pipeline.
            pass_: Not used.
            program: What it will run on.
        """
        if index == 0:
            self._dump("000_input", program)

    def after(self, index: int, pass_: Pass, program: Program, seconds: float) -> None:
        """Dumps what a pass left.

        Args:
            index: Place of the pass in the pipeline.
            pass_: The pass.
            program: What it left.
            seconds: Not used.
        """
        self._dump(f"{index + 1:03d}_{pass_.name}", program)

    def _dump(self, stem: str, program: Program) -> None:
        write_bytes(self._folder / f"{stem}.txt", print_graph(program.graph).encode())


@dataclass(frozen=True)
class PassTime:
    """Wall-clock time of one pass.

    Attributes:
        text: The pass with its options.
        seconds: From start to end, without verification and other instruments.
    """

    text: str
    seconds: float


@dataclass(frozen=True)
class TimingReport:
    """Times of a pipeline's passes, in the order in which they ran."""

    passes: tuple[PassTime, ...]

    @property
    def total_s(self) -> float:
        """Sum over passes, in seconds."""
        return sum(row.seconds for row in self.passes)

    def __str__(self) -> str:
        total = self.total_s
        shares = [row.seconds / total if total else 0.0 for row in self.passes]
        rows = [
            f"{row.seconds:10.3f}  {share:6.1%}  {row.text}" for row, share in zip(self.passes, shares, strict=True)
        ]
        return "\n".join([f"{'seconds':>10}  {'share':>6}  pass", *rows, f"{total:10.3f}          total"]) + "\n"


class Timing:
    """Keeps how long every pass took."""

    def __init__(self) -> None:
        self._rows: list[PassTime] = []

    def before(self, index: int, pass_: Pass, program: Program) -> None:
        """Does nothing.

        Args:
            index: Not used.
            pass_: Not used.
            program: Not used.
        """

    def after(self, index: int, pass_: Pass, program: Program, seconds: float) -> None:
        """Keeps the time.

        Args:
            index: Not used.
            pass_: The pass.
            program: Not used.
            seconds: Its time.
        """
        self._rows.append(PassTime(str(pass_), seconds))

    def report(self) -> TimingReport:
        """What was measured so far.

        Returns:
            Times by pass.
        """
        return TimingReport(tuple(self._rows))
