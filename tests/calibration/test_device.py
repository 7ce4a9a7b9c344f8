"""What a calibration knows of a target whose products are rounded."""

from pathlib import Path
from typing import ClassVar

from codesign.backend.base import Artifact
from codesign.backend.kernel_table import KernelCall, write_kernel_calls
from codesign.calibration.device import compile_reference, conditions_of, vector_unit
from codesign.calibration.probe_network import REFERENCE_LAYER
from codesign.hardware.target import Target, TvmTarget

PLAIN = Target(name="here", description="", profile="host-cpu", runner="local", tvm=TvmTarget(mcpu="sapphirerapids"))
ROUNDED = PLAIN.model_copy(update={"tvm": TvmTarget(mcpu="sapphirerapids", float_products="bfloat16")})


class _Compiler:
    """Remembers what it was asked for."""

    name: ClassVar[str] = "fake"

    def __init__(self) -> None:
        self.targets: list[Target] = []

    def unsupported(self, graph_path: Path) -> tuple[str, ...]:
        return ()

    def compile(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> Artifact:
        self.targets.append(target)
        write_kernel_calls(work_dir / "fake.so", [KernelCall("kernel", REFERENCE_LAYER, ())])
        return Artifact(work_dir / "fake.so", self.name, target.name, plan_digest, 0)


def test_samples_of_rounded_products_are_kept_apart() -> None:
    plain, rounded = vector_unit(PLAIN), vector_unit(ROUNDED)
    assert rounded == plain.model_copy(update={"bfloat16": True})
    assert conditions_of(ROUNDED, rounded) != conditions_of(PLAIN, plain)
    assert conditions_of(ROUNDED, rounded).instructions.endswith(", AMX, products of bfloat16")


def test_the_reference_kernel_is_the_same_for_both(tmp_path: Path) -> None:
    compiler = _Compiler()
    compile_reference(compiler, ROUNDED, tmp_path)
    assert compiler.targets == [PLAIN]
