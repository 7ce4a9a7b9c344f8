"""The `codesign` command: its subcommands in the order in which help lists them."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from codesign import __version__
from codesign.cli.analyze import analyze
from codesign.cli.device import calibrate, compile_network, measure
from codesign.cli.listing import passes, profiles, targets
from codesign.cli.partition import calibrate_link, partition
from codesign.cli.price import allocate, simulate
from codesign.cli.run import opt, run
from codesign.cli.search import search
from codesign.errors import CodesignError

app = typer.Typer(
    help="Chooses a network's bit widths together with the hardware that runs it, compiles the choice with TVM and "
    "measures it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "search": search,
    "opt": opt,
    "analyze": analyze,
    "compile": compile_network,
    "measure": measure,
    "simulate": simulate,
    "calibrate": calibrate,
    "calibrate-link": calibrate_link,
    "partition": partition,
    "allocate": allocate,
    "targets": targets,
    "profiles": profiles,
    "passes": passes,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

INTERRUPTED = 130


def main() -> None:
    """Runs the command; a mistake of the user's ends in one clear message and a non-zero exit code."""
    # Before torch is imported: threads that wait for work must not spin, or a second busy program slows us 20-fold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except CodesignError as error:
        print(f"codesign: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer turns Ctrl-C into an exit without a word
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        print("codesign: interrupted; what is finished is kept, repeat the command to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"codesign: error: {place}{error.strerror or error}; check the path and the free space", file=sys.stderr)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""
