"""What `codesign opt` does: run passes over a graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from codesign.flow.samples import ImageOptions, load_fitting, prepared
from codesign.ir.loading import load_program
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.ir.serialization import save_graph
from codesign.pass_manager.base import CalibrationData, PassContext
from codesign.pass_manager.opt import run_pipeline
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.progress import Progress


@dataclass(frozen=True)
class OptRequest:
    """The command's arguments.

    Attributes:
        graph: Source of the network.
        passes: The pipeline.
        output: Where the graph is written.
        weights: For a factory.
        input_shape: For a factory.
        data: Calibration data.
        samples: How many of them, from the first; None for all.
        images: How they are prepared.
        seed: Source of all randomness.
        print_after_all: Whether the graph is printed after every pass.
        dump: Folder for the graph after every pass.
        time_passes: Whether times are printed.
    """

    graph: str
    passes: str
    output: Path | None
    weights: str | None
    input_shape: tuple[int, ...] | None
    data: str | None
    samples: int | None
    images: ImageOptions
    seed: int
    print_after_all: bool
    dump: Path | None
    time_passes: bool


def run_opt(request: OptRequest, stream: IO[str], progress: Progress) -> None:
    """Loads, runs the passes, and prints or writes the graph.

    Args:
        request: The command's arguments.
        stream: Where the graph is printed.
        progress: Told about long work.
    """
    parse_pipeline(request.passes)  # a mistake in it shows before anything is loaded
    program = load_program(request.graph, request.weights, request.input_shape, Path())
    context = PassContext(_calibration(request, program, progress), request.seed, progress)
    after_all = stream if request.print_after_all else None
    times = run_pipeline(program, request.passes, context, after_all, request.dump)
    if request.output is not None:
        save_graph(program.graph, request.output)
    if request.output is None and not request.print_after_all:
        stream.write(print_graph(program.graph))
    if request.time_passes:
        stream.write(f"{times}\n")


def _calibration(request: OptRequest, program: Program, progress: Progress) -> CalibrationData | None:
    if request.data is None:
        return None
    dataset = load_fitting(request.data, request.images, program, progress)
    return prepared(dataset, request.images, slice(request.samples))
