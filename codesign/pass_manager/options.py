"""Option values as text: printing them, and reading them back as the type that a pass's field declares."""

import json
import math
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Union, get_args, get_origin

from codesign.errors import closest

_BARE = re.compile(r"(?:\.{0,2}/)?[A-Za-z_~][\w./~:@-]*", re.ASCII)
_WORDS = frozenset({"none", "true", "false", "inf", "infinity", "nan"})


@dataclass(frozen=True)
class Item:
    """One part of an option's value; parts are joined by `+`.

    Attributes:
        text: The characters, without quotes.
        quoted: Whether it stood in double quotes and so can only be a string.
    """

    text: str
    quoted: bool


def option_text(value: object) -> str:
    """Writes an option's value.

    Args:
        value: A bool, int, float, str, None, or a tuple of these.

    Returns:
        Text that `option_value` reads back as an equal value.

    Raises:
        TypeError: The value is of another type; a pass declared a field that cannot be an option.
    """
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int():
            return str(int(value))
        case float():
            return repr(float(value)).replace("e+", "e")  # `+` joins the items of a tuple
        case str():
            return value if _BARE.fullmatch(value) and value.lower() not in _WORDS else json.dumps(value)
        case tuple():
            return "+".join(option_text(item) for item in value) or "()"
    raise TypeError(f"{value!r} cannot be the value of an option; use bool, int, float, str, None or a tuple of these")


def option_value(items: Sequence[Item], kind: object) -> object:
    """Reads an option's value.

    Args:
        items: Its parts, at least one.
        kind: The type of the field: bool, int, float, str, Literal, a union (None included) or a tuple of these.

    Returns:
        The value.

    Raises:
        ValueError: The text is not of that type; the message says what is allowed.
    """
    origin = get_origin(kind)
    if origin in {Union, types.UnionType}:
        return _one_of(items, get_args(kind))
    if origin is tuple:
        return _tuple(items, get_args(kind))
    quoted = any(item.quoted for item in items)
    if quoted and len(items) > 1:
        raise ValueError("takes one value, not several joined by '+'")
    item = Item("+".join(item.text for item in items), quoted)
    return _literal(item, get_args(kind)) if origin is Literal else _scalar(item, kind)


def _one_of(items: Sequence[Item], kinds: Sequence[object]) -> object:
    reasons = []
    for kind in sorted(kinds, key=lambda kind: (kind is not types.NoneType, kind is str)):
        try:
            return option_value(items, kind)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(" or ".join(reasons))


def _tuple(items: Sequence[Item], kinds: Sequence[object]) -> tuple[object, ...]:
    if [item.text for item in items] == ["()"] and not items[0].quoted:
        items = ()
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = [kinds[0]] * len(items)
    if len(kinds) != len(items):
        raise ValueError(f"takes {len(kinds)} values joined by '+', got {len(items)}")
    return tuple(option_value([item], kind) for item, kind in zip(items, kinds, strict=True))


def _literal(item: Item, choices: Sequence[object]) -> object:
    texts = {choice: choice for choice in choices if isinstance(choice, str)}
    written = {} if item.quoted else {option_text(choice): choice for choice in choices}
    known = {**texts, **written}
    if item.text not in known:
        raise ValueError(f"unknown choice {item.text!r}{closest(item.text, known)}")
    return known[item.text]


def _scalar(item: Item, kind: object) -> object:
    if kind is str:
        return item.text
    words: dict[object, dict[str, object]] = {bool: {"true": True, "false": False}, types.NoneType: {"none": None}}
    if kind in words:
        if item.quoted or item.text not in words[kind]:
            raise ValueError(f"allowed is {' or '.join(words[kind])}, got {item.text!r}")
        return words[kind][item.text]
    if kind is int or kind is float:
        return _number(item, kind)
    raise TypeError(f"a pass declares an option of type {kind}, which has no text form")


def _number(item: Item, kind: type[int] | type[float]) -> int | float:
    allowed = "a whole number" if kind is int else "a number"
    try:
        value = kind(item.text)
    except ValueError:
        raise ValueError(f"allowed is {allowed}, got {item.text!r}") from None
    if item.quoted or math.isnan(value):
        raise ValueError(f"allowed is {allowed}, got {item.text!r}")
    return value
