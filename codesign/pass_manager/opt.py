"""One call that runs a textual pipeline, for the command line."""

from pathlib import Path
from typing import IO

from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.instruments import DumpAfterAll, Instrument, PrintAfterAll, Timing, TimingReport
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline


def run_pipeline(
    program: Program,
    pipeline: str,
    context: PassContext,
    print_after_all: IO[str] | None = None,
    dump_folder: Path | None = None,
    verify: bool = True,
) -> TimingReport:
    """Runs the passes that a text names, in place.

    Args:
        program: What to annotate or transform.
        pipeline: Such as `count-work,hessian-trace{samples=256}`.
        context: Data, seed and progress for the passes.
        print_after_all: Where the graph is printed after every pass; None for nowhere.
        dump_folder: Where a file is written after every pass; None for nowhere.
        verify: Whether the graph is verified between passes.

    Returns:
        How long each pass took; `str` of it is a table.
    """
    passes = parse_pipeline(pipeline)
    timing = Timing()
    instruments: list[Instrument] = []
    if print_after_all is not None:
        instruments.append(PrintAfterAll(print_after_all))
    if dump_folder is not None:
        instruments.append(DumpAfterAll(dump_folder))
    PassManager(passes, [*instruments, timing], verify).run(program, context)
    return timing.report()
