"""`codesign calibrate-link`: measures what joins a target's processes and writes a target with it."""

from dataclasses import dataclass
from pathlib import Path

from codesign.errors import InputError
from codesign.files import write_bytes
from codesign.hardware.catalog import load_target
from codesign.hardware.target import Target
from codesign.partition.link_measurement import LinkFit, fit_link, measure_links


@dataclass(frozen=True)
class CalibratedLink:
    """What was measured.

    Attributes:
        target: The target that it is for.
        fit: Latency, bandwidth and how well they predict.
        path: The target's file with the new link.
    """

    target: Target
    fit: LinkFit
    path: Path


def calibrate_link(target_name: str, out: Path | None, repeats: int) -> CalibratedLink:
    """Measures collectives between as many local processes as the target has devices.

    Args:
        target_name: A target that runs on this machine.
        out: Where the new target goes; `NAME-calibrated.toml` if None.
        repeats: Of each measurement.

    Returns:
        The fit.

    Raises:
        InputError: The target is simulated or has one device, or the file's name does not end in `.toml`.
    """
    target = load_target(target_name)
    devices = 1
    for size in target.mesh_shape:
        devices *= size
    if target.runner != "local" or devices < 2:
        raise InputError(
            f"target {target.name!r}: links are measured between local processes; it needs runner 'local' and a "
            "mesh_shape of at least 2, such as host-2proc"
        )
    path = out or Path(f"{target.name}-calibrated.toml")
    if path.suffix != ".toml":
        raise InputError(f"out: got {path}, the name of a target ends in .toml")
    fit = fit_link(measure_links(devices, repeats), devices)
    write_bytes(path, _toml(target, fit, path.stem).encode())
    return CalibratedLink(target, fit, path)


def _toml(target: Target, fit: LinkFit, name: str) -> str:
    lines = [
        f'name = "{name}"',
        f'description = "{target.description}; link measured"',
        f'profile = "{target.profile}"',
        'runner = "local"',
        f"threads = {target.threads}",
        f"mesh_shape = {list(target.mesh_shape)}",
    ]
    if target.tvm is not None:
        lines += ["", "[tvm]", f'kind = "{target.tvm.kind}"', f'mcpu = "{target.tvm.mcpu}"']
    source = (
        f"measured by codesign calibrate-link: {len(fit.samples)} collectives of gloo up to "
        f"{max(s.size_bytes for s in fit.samples)} bytes, median error on held-out ones {fit.relative_error:.0%}"
    )
    lines += [
        "",
        "[link]",
        f"latency_s = {fit.latency_s!r}",
        f"bandwidth_bytes_per_s = {fit.bandwidth_bytes_per_s!r}",
        f'source = "{source}"',
    ]
    return "\n".join(lines) + "\n"
