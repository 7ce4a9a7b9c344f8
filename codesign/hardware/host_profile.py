"""The profile of this machine: numbers for families of processors from a file, completed by detection."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from codesign.config import StrictModel
from codesign.errors import InputError
from codesign.hardware.host import Host
from codesign.hardware.profile import (
    ComputeRate,
    Count,
    Fraction,
    HardwareProfile,
    MemoryLevel,
    NotNegative,
    Positive,
    Source,
)
from codesign.quantization.scheme import WEIGHT_BITS

LANE_BITS = 32
"""Width of an accumulator or floating-point number in a vector."""
Share = Annotated[float, Field(ge=0, le=1)]


class InstructionSet(StrictModel):
    """Arithmetic of one family of cores.

    Attributes:
        name: For people.
        architecture: `x86_64`, `aarch64`, or `any`.
        flags: Linux's names of the extensions that must all be there.
        vendor: x86 vendor string that must match; empty for any.
        family: x86 family number that must match; 0 for any.
        vector_bits: Width of a vector register.
        int8_macs_per_cycle: Peak 8-bit multiply-accumulates of one core in a cycle.
        fp32_macs_per_cycle: Peak 32-bit floating-point multiply-accumulates of one core in a cycle.
        input_channel_multiple: 8-bit products that one lane adds up in one instruction.
        turbo: Frequency of one busy core over the nominal one, for systems that tell the nominal frequency only.
        core_power_w: Power of one busy core with its share of the chip.
        source: Where the numbers come from.
    """

    name: str
    architecture: Literal["x86_64", "aarch64", "any"]
    flags: tuple[str, ...]
    vendor: str = ""
    family: int = 0
    vector_bits: Count
    int8_macs_per_cycle: Positive
    fp32_macs_per_cycle: Positive
    input_channel_multiple: Count
    turbo: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    core_power_w: Positive
    source: Source

    def fits(self, host: Host) -> bool:
        """Whether a processor has this arithmetic.

        Args:
            host: The processor.

        Returns:
            True if architecture, vendor, family and every flag match.
        """
        return (
            self.architecture in {host.architecture, "any"}
            and self.vendor in {host.vendor, ""}
            and self.family in {host.family, 0}
            and host.flags.issuperset(self.flags)
        )


class CacheNumbers(StrictModel):
    """Speed and energy of one level of cache.

    Attributes:
        level: 1 is nearest to the core.
        bytes_per_cycle: Sustained reads of one core.
        energy_j_per_byte: Joules for one byte.
        fallback_bytes: Capacity where the system does not tell it.
        source: Where the numbers come from.
    """

    level: Count
    bytes_per_cycle: Positive
    energy_j_per_byte: NotNegative
    fallback_bytes: Count
    source: Source


class DramNumbers(StrictModel):
    """Speed and energy of main memory.

    Attributes:
        bandwidth_bytes_per_s_per_core: What one core reads.
        saturating_cores: Cores beyond which the total grows no more.
        energy_j_per_byte: Joules for one byte.
        source: Where the numbers come from.
    """

    bandwidth_bytes_per_s_per_core: Positive
    saturating_cores: Count
    energy_j_per_byte: NotNegative
    source: Source


class UnpackCost(StrictModel):
    """Cycles to turn packed weights of one width into one vector of 8-bit operands.

    Attributes:
        weight_bits: Width of the packed weight.
        cycles_per_vector: Cycles for one vector of 8-bit weights.
        source: Where the number comes from.
    """

    weight_bits: Literal[2, 3, 4, 5, 6]
    cycles_per_vector: NotNegative
    source: Source


class KernelNumbers(StrictModel):
    """How far compiled kernels stay from the peak.

    Attributes:
        int8_efficiency: Share of the peak that inner loops of 8-bit kernels reach.
        fp32_efficiency: The same for floating point.
        int8_epilogue_cycles_per_vector: Cycles for bias, activation and requantisation of one vector of accumulators.
        fp32_epilogue_cycles_per_vector: Cycles for bias and activation of one vector of accumulators.
        dispatch_s: Fixed time of one kernel.
        parallel_launch_s: Further time of one kernel that runs on several threads.
        further_thread_share: What each thread after the first adds, as a share of the first.
        source: Where the numbers come from.
    """

    int8_efficiency: Fraction
    fp32_efficiency: Fraction
    int8_epilogue_cycles_per_vector: NotNegative
    fp32_epilogue_cycles_per_vector: NotNegative
    dispatch_s: NotNegative
    parallel_launch_s: NotNegative
    further_thread_share: Share
    source: Source


class ArithmeticEnergy(StrictModel):
    """Energy of the arithmetic alone; fetching, decoding and registers are in the power of the core.

    Attributes:
        int8_j_per_mac: One 8-bit multiply-accumulate.
        fp32_j_per_mac: One 32-bit floating-point multiply-accumulate.
        source: Where the numbers come from.
    """

    int8_j_per_mac: NotNegative
    fp32_j_per_mac: NotNegative
    source: Source


class HostProfile(StrictModel):
    """A profile file that says `detect = true`: what detection cannot find out about a processor.

    Attributes:
        name: Same as the file's name.
        description: One line.
        detect: Marks such a file.
        source: Where the description as a whole comes from.
        fallback_clock_hz: Frequency where the system does not tell it.
        instruction_sets: The first that fits the processor counts.
        caches: One row for each level that a processor may have.
        dram: Main memory.
        kernels: What compiled kernels reach.
        unpack: One row for each width below 8.
        arithmetic: Energy of operations.
        unverified: Keys of the finished profile whose value was recalled, inferred or assumed.
    """

    name: str
    description: str
    detect: Literal[True]
    source: Source
    fallback_clock_hz: Positive
    instruction_sets: tuple[InstructionSet, ...] = Field(min_length=1)
    caches: tuple[CacheNumbers, ...] = Field(min_length=1)
    dram: DramNumbers
    kernels: KernelNumbers
    unpack: tuple[UnpackCost, ...]
    arithmetic: ArithmeticEnergy
    unverified: tuple[str, ...] = ()

    @field_validator("instruction_sets")
    @classmethod
    def _last_fits_all(cls, rows: tuple[InstructionSet, ...]) -> tuple[InstructionSet, ...]:
        last = rows[-1]
        if last.architecture != "any" or last.flags or last.vendor or last.family:
            raise ValueError("the last row must fit every processor: architecture 'any', no flags, vendor or family")
        return rows

    @field_validator("unpack")
    @classmethod
    def _every_width(cls, rows: tuple[UnpackCost, ...]) -> tuple[UnpackCost, ...]:
        if sorted(row.weight_bits for row in rows) != [bits for bits in WEIGHT_BITS if bits < 8]:
            raise ValueError("needs exactly one row for each of the widths 2, 3, 4, 5 and 6")
        return rows

    def complete(self, host: Host, threads: int) -> HardwareProfile:
        """Puts the numbers of the file and what was detected together.

        Args:
            host: The processor.
            threads: Threads that the profile is for.

        Returns:
            The profile; what had to be assumed is in `unverified`.

        Raises:
            InputError: The processor has fewer hardware threads.
        """
        if threads > host.logical_cores:
            raise InputError(
                f"profile {self.name!r}: {threads} threads asked of a machine with {host.logical_cores}; "
                f"set threads to {host.logical_cores} or fewer"
            )
        return _Completion(self, host, threads).profile()


class _Completion:
    """The arithmetic of `HostProfile.complete`."""

    def __init__(self, file: HostProfile, host: Host, threads: int) -> None:
        self.file = file
        self.host = host
        self.threads = threads
        self.cores = min(threads, host.cores)
        self.speedup = 1.0 + (self.cores - 1) * file.kernels.further_thread_share
        self.isa = next(isa for isa in file.instruction_sets if isa.fits(host))
        self.clock_hz = host.clock_hz or file.fallback_clock_hz
        self.clock_source = host.clock_source if host.clock_hz else "assumed frequency"
        if host.clock_hz and host.clock_is_nominal and self.isa.turbo > 1:
            self.clock_hz *= self.isa.turbo
            self.clock_source += f", x {self.isa.turbo:g} turbo"

    def profile(self) -> HardwareProfile:
        kernels = self.file.kernels
        return HardwareProfile(
            name=self.file.name,
            description=self._description(),
            model="roofline",
            source=self.file.source,
            threads=self.threads,
            compute=(*(self._int8_rate(bits) for bits in WEIGHT_BITS), self._fp32_rate()),
            memories=(*self._caches(), self._dram()),
            idle_power_w=self.isa.core_power_w * self.cores,
            dispatch_s=kernels.dispatch_s + (kernels.parallel_launch_s if self.threads > 1 else 0.0),
            unverified=self._unverified(),
        )

    def _description(self) -> str:
        host = self.host
        amx = "; peaks are those of vectors, which layers on AMX exceed" if "amx_int8" in host.flags else ""
        return (
            f"{host.name}: {host.cores} cores at {self.clock_hz / 1e9:.2f} GHz ({self.clock_source}), "
            f"{self.isa.name}{amx}; numbers for {self.threads} thread{'s' if self.threads > 1 else ''}"
        )

    def _unverified(self) -> tuple[str, ...]:
        missing = [] if self.host.caches else [f"memories.l{row.level}.capacity_bytes" for row in self.file.caches]
        clock = [] if self.host.clock_hz and not self.host.clock_is_nominal else ["compute.macs_per_s"]
        absent = tuple(f"memories.l{row.level}." for row in self.file.caches if not self._has(row))
        kept = [key for key in self.file.unverified if not key.startswith(absent)]
        return (*kept, *clock, *missing)

    def _has(self, row: CacheNumbers) -> bool:
        """Whether the processor has this level; where the system does not tell, it is taken to have them all."""
        return not self.host.caches or any(cache.level == row.level for cache in self.host.caches)

    def _rate_source(self, macs_per_cycle: float) -> str:
        return (
            f"{macs_per_cycle:g} MAC a cycle and core x {self.clock_hz / 1e9:.2f} GHz ({self.clock_source}); "
            f"{self.isa.source}; {self.file.kernels.source}; energy: {self.file.arithmetic.source}"
        )

    def _int8_rate(self, bits: int) -> ComputeRate:
        isa, kernels = self.isa, self.file.kernels
        unpack = next((row for row in self.file.unpack if row.weight_bits == bits), None)
        cycles = 0.0 if unpack is None else unpack.cycles_per_vector
        note = "" if unpack is None else f"; unpacked to 8 bits, so no faster than 8 bits: {unpack.source}"
        weights_per_s = self.clock_hz * self.speedup * isa.vector_bits / 8
        outputs_per_s = self.clock_hz * self.speedup * isa.vector_bits / LANE_BITS
        return ComputeRate(
            weight_bits=bits,
            activation_bits=8,
            macs_per_s=isa.int8_macs_per_cycle * self.clock_hz * self.speedup,
            energy_j_per_mac=self.file.arithmetic.int8_j_per_mac,
            efficiency=kernels.int8_efficiency,
            unpack_s_per_weight=cycles / weights_per_s,
            epilogue_s_per_output=kernels.int8_epilogue_cycles_per_vector / outputs_per_s,
            output_channel_multiple=isa.vector_bits // LANE_BITS,
            input_channel_multiple=isa.input_channel_multiple,
            source=self._rate_source(isa.int8_macs_per_cycle) + note,
        )

    def _fp32_rate(self) -> ComputeRate:
        isa, kernels = self.isa, self.file.kernels
        outputs_per_s = self.clock_hz * self.speedup * isa.vector_bits / LANE_BITS
        return ComputeRate(
            weight_bits=32,
            activation_bits=32,
            macs_per_s=isa.fp32_macs_per_cycle * self.clock_hz * self.speedup,
            energy_j_per_mac=self.file.arithmetic.fp32_j_per_mac,
            efficiency=kernels.fp32_efficiency,
            epilogue_s_per_output=kernels.fp32_epilogue_cycles_per_vector / outputs_per_s,
            output_channel_multiple=isa.vector_bits // LANE_BITS,
            source=self._rate_source(isa.fp32_macs_per_cycle),
        )

    def _caches(self) -> tuple[MemoryLevel, ...]:
        found = {cache.level: cache for cache in self.host.caches}
        levels = []
        for row in sorted(self.file.caches, key=lambda row: row.level):
            if not self._has(row):
                continue
            cache = found.get(row.level)
            shared = cache.shared if cache is not None else row.level > 2
            size = cache.size_bytes if cache is not None else row.fallback_bytes
            levels.append(
                MemoryLevel(
                    name=f"l{row.level}",
                    capacity_bytes=size if shared else size * self.cores,
                    bandwidth_bytes_per_s=row.bytes_per_cycle * self.clock_hz * self.cores,
                    energy_j_per_byte=row.energy_j_per_byte,
                    source=f"capacity {'detected' if cache is not None else 'assumed'}; {row.source}",
                )
            )
        return tuple(levels)

    def _dram(self) -> MemoryLevel:
        dram = self.file.dram
        return MemoryLevel(
            name="dram",
            capacity_bytes=self.host.memory_bytes,
            bandwidth_bytes_per_s=dram.bandwidth_bytes_per_s_per_core * min(self.cores, dram.saturating_cores),
            energy_j_per_byte=dram.energy_j_per_byte,
            source=f"capacity detected; {dram.source}",
        )
