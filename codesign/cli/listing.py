"""`codesign targets`, `codesign profiles` and `codesign passes`."""

from typing import Annotated

import typer

from codesign.cli.terminal import show


def targets(
    name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None,
) -> None:
    """List targets, or show one."""
    from codesign.flow.listing import show_target, target_table

    show(target_table() if name is None else show_target(name))


def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this one whole, with the source of each number.")] = None,
) -> None:
    """List hardware profiles, or show one."""
    from codesign.flow.listing import profile_table, show_profile

    show(profile_table() if name is None else show_profile(name))


def passes(
    name: Annotated[str | None, typer.Argument(help="Show this one's options.")] = None,
) -> None:
    """List passes, or show one's options."""
    from codesign.flow.listing import pass_table, show_pass

    show(pass_table() if name is None else show_pass(name))
