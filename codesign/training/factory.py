"""Calling the user's own functions by reference."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from codesign.errors import InputError, closest


def call_factory(reference: str, base: Path) -> object:
    """Imports a module and calls one of its functions without arguments.

    Args:
        reference: `package.module:factory`, or `path/to/file.py:factory`.
        base: Folder that a relative path to a file starts from.

    Returns:
        What the function returns.

    Raises:
        InputError: The module, the file or the function does not exist, or it raises an error.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise InputError(f"{reference!r}: expected 'package.module:factory' or 'path/to/file.py:factory'")
    try:
        module = _from_file(base / place) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise InputError(f"{reference}: cannot be imported ({type(error).__name__}: {error}); correct it") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = (key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise InputError(f"{reference}: has no function {name!r}{closest(name, known)}")
    try:
        return factory()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{reference}: failed ({type(error).__name__}: {error}); correct the function") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
