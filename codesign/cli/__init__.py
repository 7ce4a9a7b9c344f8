"""The `codesign` command; a module holds a group of subcommands, `command_line` lists them all."""

from codesign.cli.command_line import main

__all__ = ["main"]
