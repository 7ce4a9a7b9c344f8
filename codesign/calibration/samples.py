"""Raw measurements as JSON lines, appended at once, so that nothing is lost when a device or the command goes away.

Each line tells under which conditions it was made. A repeat of the command takes up what was made under the same
conditions, and leaves all else in the file. A last line that was cut off is dropped.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from codesign.backend.kernel_timing import KernelTiming, usual_reference_s
from codesign.errors import InputError
from codesign.quantization.scheme import Widths

FLOAT = Widths(32, 32)


@dataclass(frozen=True)
class Conditions:
    """What a measurement depends on besides the kernel.

    Attributes:
        device: Name of the processor.
        threads: Threads of the measured program.
        instructions: What kernels were compiled for.
        compiler: Name and version.
        templates: Digest of the sources of the kernels.
    """

    device: str
    threads: int
    instructions: str
    compiler: str
    templates: str


@dataclass(frozen=True)
class KernelSample:
    """One operation of one network.

    Attributes:
        network: Which network.
        operation: Name of its node.
        shape: What it computes, for people; the network says it exactly.
        weight_bits: Width of its weight, 32 in floating point.
        activation_bits: Width of activations.
        timings: One for each kernel that the operation calls.
    """

    network: str
    operation: str
    shape: str
    weight_bits: int
    activation_bits: int
    timings: tuple[KernelTiming, ...]

    def seconds(self, usual_s: float) -> float:
        """Of all its kernels together.

        Args:
            usual_s: Seconds of the reference kernel at the usual clock.

        Returns:
            Seconds.
        """
        return sum(timing.seconds(usual_s) for timing in self.timings)

    def is_good(self, usual_s: float) -> bool:
        """Whether the machine was itself while its kernels were timed.

        Args:
            usual_s: Seconds of the reference kernel on an undisturbed machine.

        Returns:
            True if it was.
        """
        return all(timing.is_good(usual_s) for timing in self.timings)


@dataclass(frozen=True)
class NetworkSample:
    """One whole network.

    Attributes:
        network: Which network.
        calls: Kernels that it calls.
        timing: Of runs of it.
    """

    network: str
    calls: int
    timing: KernelTiming


Sample = KernelSample | NetworkSample
_KINDS: Mapping[str, TypeAdapter[Sample]] = {
    "kernel": TypeAdapter(KernelSample),
    "network": TypeAdapter(NetworkSample),
}
Kind = Literal["kernel", "network"]


class SampleFile:
    """The raw measurements of a device.

    Attributes:
        path: The file.
        conditions: Of what is measured now.
        kernels: Measured under these conditions, in the order of the file.
        networks: Likewise, each at its last measurement.
    """

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self.path = path
        self.conditions = conditions
        self.kernels: list[KernelSample] = []
        self.networks: list[NetworkSample] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        """Reads what is there, and cuts off a last line without an end.

        Raises:
            InputError: A line before the last is damaged.
        """
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                raise InputError(
                    f"{self.path}:{number}: is not a sample ({type(error).__name__}); remove that line or the file"
                ) from None

    def _take(self, row: "dict[str, object]") -> None:
        kind, conditions = str(row.pop("kind")), row.pop("conditions")
        sample = _KINDS[kind].validate_python(row)
        if conditions != dataclasses.asdict(self.conditions):
            return
        self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        """Adds a sample; a network that was measured again counts once."""
        if isinstance(sample, KernelSample):
            self.kernels.append(sample)
        else:
            self.networks = [other for other in self.networks if other.network != sample.network]
            self.networks.append(sample)

    def add(self, sample: Sample) -> None:
        """Appends a measurement; it is on the disk when this returns.

        Args:
            sample: The measurement.
        """
        kind: Kind = "kernel" if isinstance(sample, KernelSample) else "network"
        row = {"kind": kind, "conditions": dataclasses.asdict(self.conditions), **dataclasses.asdict(sample)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._keep(sample)

    def measured_operations(self, network: str) -> frozenset[str]:
        """Operations of a network that need not be measured again.

        Args:
            network: Its name.

        Returns:
            Names of nodes.
        """
        return frozenset(sample.operation for sample in self.kernels if sample.network == network)

    def is_complete(self, network: str) -> bool:
        """Whether a network was measured to its end.

        Args:
            network: Its name.

        Returns:
            True if the whole network was measured, which comes last.
        """
        return any(sample.network == network for sample in self.networks)

    def timings(self) -> Iterator[KernelTiming]:
        """All timings of kernels.

        Yields:
            In the order in which they were made.
        """
        for sample in self.kernels:
            yield from sample.timings

    def usual_s(self) -> float:
        """What the reference kernel takes on an undisturbed machine.

        Returns:
            Seconds; infinite if nothing was measured.
        """
        return usual_reference_s(self.timings())

    def good_networks(self) -> list[NetworkSample]:
        """Networks that were measured whole while the machine was itself.

        Returns:
            In the order of the file; all of them if most are not good, since the machine is then always like that.
        """
        usual_s = self.usual_s()
        good = [sample for sample in self.networks if sample.timing.is_good(usual_s)]
        return good if 2 * len(good) > len(self.networks) else list(self.networks)

    def kernels_s(self, network: str) -> float:
        """Sum of what the kernels of a network take by themselves, at the usual clock.

        Args:
            network: Its name.

        Returns:
            Seconds.
        """
        latest = {sample.operation: sample for sample in self.kernels if sample.network == network}
        usual_s = self.usual_s()
        return sum(sample.seconds(usual_s) for sample in latest.values())


def undisturbed(samples: Sequence[KernelSample], usual_s: float) -> list[KernelSample]:
    """Samples that a fit shall use: the last one of each operation, disturbed ones left out.

    Args:
        samples: In the order of the file.
        usual_s: Seconds of the reference kernel on an undisturbed machine.

    Returns:
        The good ones; all of them if most are not, since the machine is then always like that.
    """
    latest = {(sample.network, sample.operation): sample for sample in samples}
    good = [sample for sample in latest.values() if sample.is_good(usual_s)]
    return good if 2 * len(good) > len(latest) else list(latest.values())
