"""`codesign search`."""

from pathlib import Path
from typing import Annotated

import typer

from codesign.cli.terminal import console_progress, show


def search(
    run_file: Annotated[Path, typer.Argument(help="The run file (TOML) with a [space].", metavar="RUN.toml")],
    target: Annotated[list[str] | None, typer.Option(help="Target instead of the run file's; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; runs/NAME if left out.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the run file.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that search.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(help="Where trials are kept: journal:PATH, or a URL such as postgresql://user@host/studies."),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Only take part in a search for TARGET that another process began."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do nothing.")] = False,
) -> None:
    """Choose architecture, bit widths and placement together, for one or more targets.

    Trains weights that all variants share, searches, and builds the best. Everything that is finished is kept: repeat
    the command after an interruption and it goes on from there.
    """
    from codesign.flow import search as flow
    from codesign.flow.search_loop import Workers
    from codesign.search_file import load_search_file

    file = load_search_file(run_file, settings or [], target or [])
    folder = out or Path("runs") / file.name
    base = run_file.parent
    with console_progress() as progress:
        if dry_run:
            for line in flow.describe_search(file, base, folder, progress):
                progress.note(line)
            return
        if join is not None:
            flow.join(file, base, folder, progress, storage, join)
            return
        again = ["search", str(run_file), "--out", str(folder)]
        again += [part for name in target or [] for part in ("--target", name)]
        again += [part for setting in settings or [] for part in ("--set", setting)]
        again += ["--storage", storage] if storage else []
        report = flow.search(file, base, folder, progress, storage, Workers(workers, tuple(again)))
    from codesign.report.search_table import search_lines

    for part in search_lines(report):
        show(part)
    show(f"Report: {folder / 'report.html'}   numbers: {folder / 'report.json'}")
