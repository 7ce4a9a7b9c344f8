"""What `codesign targets`, `codesign profiles` and `codesign passes` show."""

import dataclasses
import inspect

from rich.console import Group
from rich.table import Table
from rich.text import Text

from codesign.hardware.catalog import load_profile, load_target, profile_names, target_names
from codesign.hardware.profile import HardwareProfile, PeArray
from codesign.hardware.unverified import unverified_values, values_of
from codesign.pass_manager.options import option_text
from codesign.pass_manager.registry import find_pass, installed_passes
from codesign.report.quantities import seconds, size

NOT_VERIFIED = " ?"
"""Stands behind each value that was recalled, inferred or assumed."""
LEGEND = Text("?: recalled, inferred or assumed, and not verified")


def target_table() -> Table:
    """All shipped targets.

    Returns:
        One row for each.
    """
    table = Table("target", "profile", "not verified", "runner", "threads", "description")
    for name in target_names():
        target = load_target(name)
        share = _unverified_share(load_profile(target.profile))
        table.add_row(name, target.profile, share, target.runner, str(target.threads), target.description)
    return table


def show_target(name: str) -> Table:
    """One target.

    Args:
        name: Name of a shipped target, or path of a TOML file.

    Returns:
        One row for each key.
    """
    target = load_target(name)
    table = Table("key", "value", title=target.name)
    for key, value in target.model_dump(exclude_none=True).items():
        table.add_row(key, str(value))
    return table


def profile_table() -> Table:
    """All shipped profiles.

    Returns:
        One row for each, with how many of its values are not verified.
    """
    table = Table("profile", "cost model", "not verified", "description")
    for name in profile_names():
        profile = load_profile(name)
        table.add_row(name, profile.model, _unverified_share(profile), profile.description)
    return table


def show_profile(name: str) -> Group:
    """One profile, with the source of each number and a mark at each that is not verified.

    Args:
        name: Name of a shipped profile, or path of a TOML file.

    Returns:
        Tables of rates, memories and the rest.
    """
    profile = load_profile(name)
    doubtful = unverified_values(profile)
    return Group(_rest_of(profile, doubtful), _rates_of(profile, doubtful), _memories_of(profile, doubtful), LEGEND)


def _unverified_share(profile: HardwareProfile) -> str:
    return f"{len(unverified_values(profile))} of {len(values_of(profile))}"


def _marked(text: str, key: str, doubtful: frozenset[str]) -> str:
    return text + NOT_VERIFIED if key in doubtful else text


def _rates_of(profile: HardwareProfile, doubtful: frozenset[str]) -> Table:
    columns = ("weight x activation bits", "MAC/s", "pJ per MAC", "efficiency", "ps to unpack a weight", "source")
    table = Table(*columns, title="compute")
    for rate in profile.compute:
        widths = f"{rate.weight_bits}x{rate.activation_bits}"
        values = {
            "macs_per_s": f"{rate.macs_per_s:.4g}",
            "energy_j_per_mac": f"{rate.energy_j_per_mac * 1e12:.3g}",
            "efficiency": f"{rate.efficiency:.2g}",
            "unpack_s_per_weight": f"{rate.unpack_s_per_weight * 1e12:.3g}",
        }
        cells = (_marked(text, f"compute.{widths}.{key}", doubtful) for key, text in values.items())
        table.add_row(widths, *cells, rate.source)
    return table


def _memories_of(profile: HardwareProfile, doubtful: frozenset[str]) -> Table:
    table = Table("memory", "capacity", "GB/s", "pJ per byte", "source", title="memories, nearest to the compute first")
    for level in profile.memories:
        values = {
            "capacity_bytes": size(level.capacity_bytes),
            "bandwidth_bytes_per_s": f"{level.bandwidth_bytes_per_s / 1e9:.4g}",
            "energy_j_per_byte": f"{level.energy_j_per_byte * 1e12:.3g}",
        }
        cells = (_marked(text, f"memories.{level.name}.{key}", doubtful) for key, text in values.items())
        table.add_row(level.name, *cells, level.source)
    return table


def _rest_of(profile: HardwareProfile, doubtful: frozenset[str]) -> Table:
    table = Table("key", "value", title=profile.name)
    table.add_row("description", profile.description)
    table.add_row("cost model", profile.model)
    table.add_row("source", profile.source)
    if profile.array is not None:
        table.add_row("array", _array_text(profile.array, doubtful))
        table.add_row("dataflows", _marked(", ".join(profile.array.dataflows), "array.dataflows", doubtful))
    table.add_row("threads", str(profile.threads))
    table.add_row("idle power", _marked(f"{profile.idle_power_w:.3g} W", "idle_power_w", doubtful))
    table.add_row("dispatch", _marked(seconds(profile.dispatch_s), "dispatch_s", doubtful))
    error = "unknown" if profile.relative_error is None else f"{100 * profile.relative_error:.0f} %"
    table.add_row("relative error of predictions", error)
    table.add_row("not verified", ", ".join(profile.unverified) or "nothing")
    return table


def _array_text(array: PeArray, doubtful: frozenset[str]) -> str:
    rows, columns = (_marked(str(getattr(array, key)), f"array.{key}", doubtful) for key in ("rows", "columns"))
    clock = _marked(f"{array.clock_hz / 1e6:.4g} MHz", "array.clock_hz", doubtful)
    kind = _marked(array.kind, "array.kind", doubtful)
    return f"{rows} x {columns}, {kind}, at {clock} ({array.source})"


def pass_table() -> Table:
    """All installed passes.

    Returns:
        One row for each.
    """
    table = Table("pass", "needs", "provides", "what it does")
    known = installed_passes()
    for name in known:
        kind = find_pass(name, known)
        needs, provides = (", ".join(sorted(fact.key for fact in facts)) for facts in (kind.requires, kind.provides))
        table.add_row(name, needs, provides, (inspect.getdoc(kind) or "").splitlines()[0])
    return table


def show_pass(name: str) -> Group:
    """One pass's options.

    Args:
        name: Kebab-case name.

    Returns:
        What it does, and one row for each option.
    """
    kind = find_pass(name, installed_passes())
    table = Table("option", "default", title=name)
    for field in dataclasses.fields(kind):
        default = "" if field.default is dataclasses.MISSING else option_text(field.default)
        table.add_row(field.name.replace("_", "-"), default)
    return Group(Text(inspect.getdoc(kind) or ""), table)
