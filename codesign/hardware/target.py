"""How a device is reached, and what is promised there."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from codesign.config import StrictModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Budget(StrictModel):
    """Limits that a plan must keep; None where there is none.

    Attributes:
        latency_s: Seconds for one run.
        energy_j: Joules for one run.
        peak_memory_bytes: Activations alive at once.
        weight_bytes: Packed weights.
        bops: Bit operations for one run.
    """

    latency_s: Positive | None = None
    energy_j: Positive | None = None
    peak_memory_bytes: Positive | None = None
    weight_bytes: Positive | None = None
    bops: Positive | None = None


Products = Literal["float32", "bfloat16"]
"""What layers in float32 multiply."""


class TvmTarget(StrictModel):
    """What TVM compiles for.

    Attributes:
        kind: TVM's target kind.
        mcpu: LLVM's name of the processor; `native` for the one of this machine.
        mtriple: LLVM's target triple, None for this machine.
        float_products: What layers in float32 multiply: `bfloat16` rounds the operands of convolutions and dense layers
            where AMX then computes them faster, sums stay float32. It needs a processor with AMX-BF16.
    """

    kind: Literal["llvm"] = "llvm"
    mcpu: str = "native"
    mtriple: str | None = None
    float_products: Products = "float32"


Address = Annotated[str, Field(pattern=r"^[^\s:]+:[0-9]{1,5}$")]
"""`host:port`."""


class RpcServer(StrictModel):
    """How a TVM RPC server is reached: by a tracker, which hands out servers of a kind, or directly.

    Attributes:
        tracker: Address of the tracker.
        server: Address of the server itself; exclusive with `tracker`.
        key: What servers of this kind are registered as.
        connect_timeout_s: Seconds for reaching a server, and for each step that only moves data.
        queue_timeout_s: Seconds to wait until a server is free that others use.
    """

    tracker: Address | None = None
    server: Address | None = None
    key: Annotated[str, Field(pattern=r"^\S+$")] = "codesign"
    connect_timeout_s: Positive = 20.0
    queue_timeout_s: Positive = 60.0

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if (self.tracker is None) == (self.server is None):
            raise ValueError("give either tracker = 'host:port' or server = 'host:port'")
        return self


class Emulator(StrictModel):
    """What qemu's user-mode emulation of aarch64 runs with.

    Attributes:
        wheels: Folder with the aarch64 wheels of apache-tvm and apache-tvm-ffi, whose libraries run in the emulator.
        sysroot: Where the cross compiler's C library is.
    """

    wheels: str = "aarch64-wheels"
    sysroot: str = "/usr/aarch64-linux-gnu"


RunnerKind = Literal["local", "simulated", "rpc", "qemu-aarch64"]


class TargetLink(StrictModel):
    """What joins the devices of a target.

    Attributes:
        latency_s: Seconds to start a message.
        bandwidth_bytes_per_s: Bytes that one device sends in a second.
        energy_j_per_byte: Joules for one byte sent.
        source: Where the numbers come from.
    """

    latency_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    bandwidth_bytes_per_s: Positive
    energy_j_per_byte: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    source: Annotated[str, Field(min_length=3)]


class DeviceGroup(StrictModel):
    """Equal devices of a target.

    Attributes:
        name: Such as `big`.
        profile: Name of their hardware profile.
        count: How many there are.
        speed: Their rates as a multiple of the profile's.
        source: Where `speed` comes from; needed where it is not 1.
    """

    name: Annotated[str, Field(min_length=1)]
    profile: str
    count: Annotated[int, Field(gt=0)] = 1
    speed: Positive = 1.0
    source: str = ""

    @model_validator(mode="after")
    def _speed_has_a_source(self) -> "DeviceGroup":
        if self.speed != 1.0 and not self.source:
            raise ValueError("speed needs a source")
        return self


class Target(StrictModel):
    """A place to run a network.

    Attributes:
        name: Same as the file's name.
        description: One line.
        profile: Name of its hardware profile.
        runner: `local` measures on this machine; `simulated` takes latency and energy from the cost model; `rpc`
            measures on a device that runs a TVM RPC server; `qemu-aarch64` counts instructions in an emulator.
        threads: Threads of the measured program.
        tvm: What TVM compiles for; None for simulated targets.
        rpc: How the device is reached, only for the runner `rpc`.
        qemu: What the emulator runs with, only for the runner `qemu-aarch64`.
        mesh_shape: Devices along each mesh axis.
        link: What joins several devices; None for one.
        devices: Devices that are not all alike, each with its profile; empty where all are as `profile` says.
        budget: Limits of the device itself, such as its flash.
    """

    name: str
    description: str
    profile: str
    runner: RunnerKind
    threads: Annotated[int, Field(gt=0)] = 1
    tvm: TvmTarget | None = None
    rpc: RpcServer | None = None
    qemu: Emulator | None = None
    mesh_shape: tuple[int, ...] = (1,)
    link: TargetLink | None = None
    devices: tuple[DeviceGroup, ...] = ()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _runner_has_its_sections(self) -> Self:
        for runner, section, present in (("rpc", "rpc", self.rpc), ("qemu-aarch64", "qemu", self.qemu)):
            if (self.runner == runner) != (present is not None):
                raise ValueError(f"the section [{section}] goes with runner = {runner!r}, and only with it")
        if self.runner in {"rpc", "qemu-aarch64"} and self.tvm is None:
            raise ValueError(f"runner = {self.runner!r} needs a section [tvm] that says what TVM compiles for")
        return self
