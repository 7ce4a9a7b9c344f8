"""How a device is reached, and what is promised there."""

from typing import Annotated, Literal

from pydantic import Field

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


class TvmTarget(StrictModel):
    """What TVM compiles for.

    Attributes:
        kind: TVM's target kind.
        mcpu: LLVM's name of the processor; `native` for the one of this machine.
        mtriple: LLVM's target triple, None for this machine.
    """

    kind: Literal["llvm"] = "llvm"
    mcpu: str = "native"
    mtriple: str | None = None


class Target(StrictModel):
    """A place to run a network.

    Attributes:
        name: Same as the file's name.
        description: One line.
        profile: Name of its hardware profile.
        runner: `local` measures on this machine; `simulated` takes latency and energy from the cost model.
        threads: Threads of the measured program.
        tvm: What TVM compiles for; None for simulated targets.
        mesh_shape: Devices along each mesh axis.
        budget: Limits of the device itself, such as its flash.
    """

    name: str
    description: str
    profile: str
    runner: Literal["local", "simulated"]
    threads: Annotated[int, Field(gt=0)] = 1
    tvm: TvmTarget | None = None
    mesh_shape: tuple[int, ...] = (1,)
    budget: Budget = Budget()
