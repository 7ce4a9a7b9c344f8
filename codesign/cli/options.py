"""Options that several commands have, and how their values are read."""

from typing import Annotated

import typer

from codesign.errors import CodesignError

Scale = Annotated[
    float | None, typer.Option(help="Factor of raw values; if left out, 1/255 for images of bytes and 1 for others.")
]
Mean = Annotated[str, typer.Option(help="Taken off scaled values; comma-separated, one for each channel or for all.")]
Std = Annotated[str, typer.Option(help="Divides what is left; comma-separated, one for each channel or for all.")]
Layout = Annotated[str, typer.Option(help="Of the raw data: NHWC or NCHW.")]
Seed = Annotated[int, typer.Option(min=0, help="Source of all randomness.")]


def numbers(text: str) -> tuple[float, ...]:
    """Reads numbers.

    Args:
        text: Such as `0.485,0.456,0.406`.

    Returns:
        The numbers.

    Raises:
        CodesignError: The text is something else.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise CodesignError(f"{text!r}: expected numbers separated by commas, such as 0.485,0.456,0.406") from None


def integers(text: str | None) -> tuple[int, ...] | None:
    """Reads whole numbers.

    Args:
        text: Such as `1,3,32,32`; None if the option was left out.

    Returns:
        The numbers, None for None.

    Raises:
        CodesignError: The text is something else.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CodesignError(f"{text!r}: expected whole numbers separated by commas, such as 1,3,32,32") from None
