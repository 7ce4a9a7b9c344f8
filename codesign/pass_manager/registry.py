"""Finding passes, codesign's own and other distributions' alike, by their entry points."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points

from codesign.errors import InputError, PassError, closest
from codesign.pass_manager.base import Pass

GROUP = "codesign.passes"
"""Entry-point group; the name is the pass's kebab-case name, the value `package.module:Class`."""

Loader = Callable[[], type[Pass]]
"""Imports a pass's module when it is called, and not before."""


def installed_passes() -> Mapping[str, Loader]:
    """All passes of all installed distributions.

    Returns:
        Name to loader; nothing is imported yet.
    """
    return loaders_of(entry_points(group=GROUP))


def loaders_of(points: Iterable[EntryPoint]) -> Mapping[str, Loader]:
    """Loaders for given entry points.

    Args:
        points: Entry points of the group `codesign.passes`.

    Returns:
        Name to loader; a loader raises PassError if two distributions claim its name or its import fails.
    """
    by_name: dict[str, dict[tuple[str, str], EntryPoint]] = defaultdict(dict)
    for point in points:
        by_name[point.name][_distribution(point), point.value] = point
    return {name: partial(_load, name, tuple(claims.values())) for name, claims in sorted(by_name.items())}


def find_pass(name: str, known: Mapping[str, Loader]) -> type[Pass]:
    """Imports one pass.

    Args:
        name: Its kebab-case name.
        known: Name to loader.

    Returns:
        The class.

    Raises:
        InputError: There is no such pass; the closest name is given.
    """
    if name not in known:
        raise InputError(f"unknown pass {name!r}{closest(name, known)}")
    return known[name]()


def _distribution(point: EntryPoint) -> str:
    return "an unnamed distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _load(name: str, claims: tuple[EntryPoint, ...]) -> type[Pass]:
    sides = [f"{_distribution(point)} ({point.value})" for point in claims]
    if len(claims) > 1:
        raise PassError(
            f"pass {name!r} is claimed by {' and by '.join(sides)}; uninstall one or rename its entry point"
        )
    try:
        found = claims[0].load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise PassError(
            f"pass {name!r} of {sides[0]} cannot be imported ({type(error).__name__}: {error}); "
            f"repair or uninstall that distribution"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise PassError(f"pass {name!r} of {sides[0]} is not a subclass of Pass; correct its entry point")
    if found.name != name:
        raise PassError(f"pass {name!r} of {sides[0]} calls itself {found.name!r}; give both the same name")
    return found
