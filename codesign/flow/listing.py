"""What `codesign targets`, `codesign profiles` and `codesign passes` show."""

import dataclasses
import inspect

from rich.console import Group
from rich.table import Table
from rich.text import Text

from codesign.hardware.catalog import load_profile, load_target, profile_names, target_names
from codesign.hardware.profile import HardwareProfile
from codesign.pass_manager.options import option_text
from codesign.pass_manager.registry import find_pass, installed_passes
from codesign.report.quantities import seconds, size


def target_table() -> Table:
    """All shipped targets.

    Returns:
        One row for each.
    """
    table = Table("target", "profile", "runner", "threads", "description")
    for name in target_names():
        target = load_target(name)
        table.add_row(name, target.profile, target.runner, str(target.threads), target.description)
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
        One row for each.
    """
    table = Table("profile", "cost model", "unverified", "description")
    for name in profile_names():
        profile = load_profile(name)
        table.add_row(name, profile.model, str(len(profile.unverified)), profile.description)
    return table


def show_profile(name: str) -> Group:
    """One profile, with the source of each number.

    Args:
        name: Name of a shipped profile, or path of a TOML file.

    Returns:
        Tables of rates, memories and the rest.
    """
    profile = load_profile(name)
    return Group(_rest_of(profile), _rates_of(profile), _memories_of(profile))


def _rates_of(profile: HardwareProfile) -> Table:
    table = Table("weight x activation bits", "MAC/s", "pJ per MAC", "source", title="compute")
    for rate in profile.compute:
        widths = f"{rate.weight_bits} x {rate.activation_bits}"
        table.add_row(widths, f"{rate.macs_per_s:.4g}", f"{rate.energy_j_per_mac * 1e12:.3g}", rate.source)
    return table


def _memories_of(profile: HardwareProfile) -> Table:
    table = Table("memory", "capacity", "GB/s", "pJ per byte", "source", title="memories, nearest to the compute first")
    for level in profile.memories:
        bandwidth, energy = f"{level.bandwidth_bytes_per_s / 1e9:.4g}", f"{level.energy_j_per_byte * 1e12:.3g}"
        table.add_row(level.name, size(level.capacity_bytes), bandwidth, energy, level.source)
    return table


def _rest_of(profile: HardwareProfile) -> Table:
    table = Table("key", "value", title=profile.name)
    table.add_row("description", profile.description)
    table.add_row("cost model", profile.model)
    table.add_row("source", profile.source)
    if profile.array is not None:
        array = profile.array
        table.add_row("array", f"{array.rows} x {array.columns} at {array.clock_hz / 1e6:.4g} MHz ({array.source})")
        table.add_row("dataflows", ", ".join(array.dataflows))
    table.add_row("idle power", f"{profile.idle_power_w:.3g} W")
    table.add_row("dispatch", seconds(profile.dispatch_s))
    error = "unknown" if profile.relative_error is None else f"{100 * profile.relative_error:.0f} %"
    table.add_row("relative error of predictions", error)
    table.add_row("not verified", ", ".join(profile.unverified) or "nothing")
    return table


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
