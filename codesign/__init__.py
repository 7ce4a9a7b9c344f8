"""Chooses a network's bit widths together with the hardware that runs it, compiles the choice and measures it."""

__version__ = "0.1.0"
