"""Calling the user's own functions by reference."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from codesign.errors import InputError, closest, first_line
from codesign.files import digest_of

ResultT = TypeVar("ResultT")


def call_factory(reference: str, base: Path) -> object:
    """Imports a module and calls one of its functions without arguments.

    Args:
        reference: `package.module:factory`, or `path/to/file.py:factory`.
        base: Folder that relative paths, and modules that are not installed, are looked for in.

    Returns:
        What the function returns.

    Raises:
        InputError: The module, the file or the function does not exist, or it raises an error.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise InputError(f"{reference!r}: expected 'package.module:factory' or 'path/to/file.py:factory'")
    is_file = place.endswith(".py")
    path = base / place
    if is_file and not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with _importable(path.parent if is_file else base):
        module = _attempt(lambda: _from_file(path) if is_file else importlib.import_module(place), place, "import")
        return _attempt(_function(module, name, reference), reference, "call")


def _function(module: ModuleType, name: str, reference: str) -> Callable[[], object]:
    function: Callable[[], object] | None = getattr(module, name, None)
    if not callable(function):
        known = (key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(f"{reference}: has no {name!r}{closest(name, known)}")
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        raise InputError(f"{reference}: cannot be called without arguments ({error}); write one that can") from None
    return function


def _attempt(action: Callable[[], ResultT], what: str, verb: str) -> ResultT:
    try:
        return action()
    except InputError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise InputError(f"{what}: {verb} failed ({type(error).__name__}: {first_line(error)}); correct it") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _from_file(path: Path) -> ModuleType:
    name = f"{path.stem}_{digest_of(str(path.resolve()))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
