"""Calling the user's own functions by reference."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from codesign.errors import InputError, closest
from codesign.files import digest_of


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
        try:
            module = _from_file(path) if is_file else importlib.import_module(place)
        except Exception as error:  # a user's code may raise anything
            raise InputError(f"{place}: cannot be imported ({type(error).__name__}: {error}); correct it") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            known = (key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise InputError(f"{reference}: has no function {name!r}{closest(name, known)}")
        try:
            return factory()
        except InputError:
            raise
        except Exception as error:  # the same
            raise InputError(f"{reference}: failed ({type(error).__name__}: {error}); correct the function") from error


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
