"""Which profiles and targets there are: those that are shipped, and a user's own TOML files."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from codesign.config import load, read_toml, validate
from codesign.errors import InputError, closest
from codesign.hardware.host import detect_host
from codesign.hardware.host_profile import HostProfile
from codesign.hardware.profile import HardwareProfile
from codesign.hardware.target import Target

PROFILES = "codesign.hw_profiles"
TARGETS = "codesign.targets"
SUFFIX = ".toml"


def profile_names() -> tuple[str, ...]:
    """Names of the shipped profiles, in alphabetical order."""
    return _names(PROFILES)


def target_names() -> tuple[str, ...]:
    """Names of the shipped targets, in alphabetical order."""
    return _names(TARGETS)


def load_profile(name_or_path: str, threads: int = 1) -> HardwareProfile:
    """Reads a hardware profile; one that says `detect = true` is completed with what this machine is.

    Args:
        name_or_path: Name of a shipped profile, or path of a TOML file.
        threads: Threads that a detected profile is for; the numbers of other profiles stand as they are.

    Returns:
        The profile.

    Raises:
        InputError: There is no such profile, or the file is not valid; the message names the file and the key.
    """
    with _located(name_or_path, PROFILES, "profile") as path:
        values = read_toml(path)
        _check_name(values, path)
        if "detect" not in values:
            return validate(HardwareProfile, values, str(path))
        return validate(HostProfile, values, str(path)).complete(detect_host(), threads)


def load_target(name_or_path: str) -> Target:
    """Reads a target.

    Args:
        name_or_path: Name of a shipped target, or path of a TOML file.

    Returns:
        The target.

    Raises:
        InputError: There is no such target, or the file is not valid; the message names the file and the key.
    """
    with _located(name_or_path, TARGETS, "target") as path:
        target = load(Target, path)
        _check_name({"name": target.name}, path)
        for key, profile in (("profile", target.profile), *(("devices.profile", d.profile) for d in target.devices)):
            if profile not in profile_names() and not _is_path(profile):
                raise InputError(f"{path}: {key}: no profile is named {profile!r}{closest(profile, profile_names())}")
        return target


def profile_of(target: Target) -> HardwareProfile:
    """The profile of a target's device, for the target's number of threads.

    Args:
        target: The target.

    Returns:
        The profile.
    """
    return load_profile(target.profile, target.threads)


def _names(package: str) -> tuple[str, ...]:
    files = (entry.name for entry in resources.files(package).iterdir())
    return tuple(sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)))


def _is_path(name_or_path: str) -> bool:
    return name_or_path.endswith(SUFFIX) or "/" in name_or_path or "\\" in name_or_path


@contextmanager
def _located(name_or_path: str, package: str, what: str) -> Iterator[Path]:
    if _is_path(name_or_path):
        yield Path(name_or_path).expanduser()
        return
    names = _names(package)
    if name_or_path not in names:
        raise InputError(
            f"no {what} is named {name_or_path!r}{closest(name_or_path, names)} "
            f"(a {what} of your own is named by the path of its {SUFFIX} file)"
        )
    with resources.as_file(resources.files(package) / (name_or_path + SUFFIX)) as path:
        yield path


def _check_name(values: dict[str, object], path: Path) -> None:
    if "name" in values and values["name"] != path.stem:
        raise InputError(
            f"{path}: name: got {values['name']!r}, but the file is named {path.stem!r}; make the two the same"
        )
