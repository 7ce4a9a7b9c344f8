"""Pipelines as text: `count-work,hessian-trace{samples=256,weights-of=module}`, there and back.

pipeline = pass ("," pass)*            pass  = NAME ["{" [option ("," option)*] "}"]
option   = NAME "=" value              value = item ("+" item)*
item     = "double-quoted JSON string" | characters other than , + { } " and space
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import get_type_hints

from codesign.errors import CodesignError, InputError, closest
from codesign.pass_manager.base import Pass
from codesign.pass_manager.options import Item, option_value
from codesign.pass_manager.registry import Loader, find_pass, installed_passes

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BARE = re.compile(r'[^,+{}"\s]+')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"\s*")


def parse_pipeline(text: str, known: Mapping[str, Loader] | None = None) -> tuple[Pass, ...]:
    """Reads a pipeline.

    Args:
        text: Passes in the order in which they run.
        known: Pass names to loaders; by default all installed passes. Only passes that are named are imported.

    Returns:
        The passes with their options.
    """
    return _Reader(text, installed_passes() if known is None else known).pipeline()


def pipeline_text(passes: Sequence[Pass]) -> str:
    """Writes a pipeline.

    Args:
        passes: Passes in the order in which they run.

    Returns:
        Text that `parse_pipeline` reads back as equal passes; options at their defaults are left out.
    """
    return ",".join(str(pass_) for pass_ in passes)


@dataclasses.dataclass(frozen=True)
class _Option:
    name: str
    name_at: int
    items: tuple[Item, ...]
    value_at: int


class _Reader:
    """Recursive descent over the text; `position` is the next character."""

    def __init__(self, text: str, known: Mapping[str, Loader]) -> None:
        self.text = text
        self.known = known
        self.position = 0

    def pipeline(self) -> tuple[Pass, ...]:
        passes = [self._pass()]
        while self._accept(","):
            passes.append(self._pass())
        if self.position < len(self.text):
            raise self._error("expected ',' and another pass", self.position)
        return tuple(passes)

    def _pass(self) -> Pass:
        self._take(_SPACE)
        start = self.position
        name = self._take(_NAME)
        if not name:
            raise self._error(f"expected the name of a pass; known: {', '.join(sorted(self.known)) or 'none'}", start)
        try:
            kind = find_pass(name, self.known)
        except InputError as error:
            raise self._error(str(error), start) from None
        return self._build(kind, self._options(), start)

    def _options(self) -> list[_Option]:
        options: list[_Option] = []
        if not self._accept("{") or self._accept("}"):
            return options
        while True:
            options.append(self._option())
            if self._accept("}"):
                return options
            if not self._accept(","):
                raise self._error("expected ',' or '}' after an option", self.position)

    def _option(self) -> _Option:
        self._take(_SPACE)
        name_at = self.position
        name = self._take(_NAME)
        if not name:
            raise self._error("expected the name of an option", name_at)
        if not self._accept("="):
            raise self._error(f"expected '=' after option {name!r}", self.position)
        value_at = self.position
        items = [self._item(name)]
        while self._accept("+"):
            items.append(self._item(name))
        return _Option(name, name_at, tuple(items), value_at)

    def _item(self, option: str) -> Item:
        start = self.position
        quoted = self._take(_QUOTED)
        if quoted:
            try:
                return Item(json.loads(quoted), quoted=True)
            except json.JSONDecodeError as error:
                raise self._error(f"the string is malformed ({error.msg})", start) from None
        if self.text.startswith('"', start):
            raise self._error("the string has no closing quote", start)
        bare = self._take(_BARE)
        if not bare:
            raise self._error(f"expected a value for option {option!r}", start)
        return Item(bare, quoted=False)

    def _build(self, kind: type[Pass], options: Sequence[_Option], start: int) -> Pass:
        hints = get_type_hints(kind)
        fields = {field.name.replace("_", "-"): field for field in dataclasses.fields(kind) if field.init}
        values: dict[str, object] = {}
        for option in options:
            if option.name not in fields:
                message = f"pass {kind.name} has no option {option.name!r}{closest(option.name, fields)}"
                raise self._error(message, option.name_at)
            field_name = fields[option.name].name
            if field_name in values:
                raise self._error(f"option {option.name!r} is given twice; keep one", option.name_at)
            try:
                values[field_name] = option_value(option.items, hints[field_name])
            except ValueError as error:
                raise self._error(f"option {option.name!r} of pass {kind.name}: {error}", option.value_at) from None
        for name, field in fields.items():
            if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
                raise self._error(f"pass {kind.name} needs option {name!r}; write {kind.name}{{{name}=...}}", start)
        try:
            return kind(**values)
        except (ValueError, CodesignError) as error:  # the pass's own checks
            raise self._error(f"pass {kind.name}: {error}", start) from error

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        if match is None:
            return ""
        self.position = match.end()
        return match.group()

    def _accept(self, character: str) -> bool:
        self._take(_SPACE)
        if not self.text.startswith(character, self.position):
            return False
        self.position += 1
        self._take(_SPACE)
        return True

    def _error(self, message: str, position: int) -> InputError:
        line = "".join(character if character.isprintable() else " " for character in self.text)
        return InputError(f"pipeline: {message}\n  {line}\n  {' ' * position}^")
