"""What a calibration must know of a device before it measures."""

import importlib.metadata
from pathlib import Path

from codesign.backend.base import Compiler
from codesign.backend.kernel_table import read_kernel_calls
from codesign.backend.kernel_timing import ReferenceKernel
from codesign.backend.library_cache import templates_digest
from codesign.calibration.probe_network import REFERENCE_LAYER, reference_network
from codesign.calibration.samples import Conditions
from codesign.errors import InputError
from codesign.hardware.calibration import VectorUnit
from codesign.hardware.host import detect_host
from codesign.hardware.target import Target
from codesign.ir.serialization import save_graph

LANES = 16
"""Output channels that the kernels of the TVM backend compute side by side, whatever the processor."""
DOT_CHANNELS = 4


def vector_unit(target: Target) -> VectorUnit:
    """What kernels are compiled for.

    Args:
        target: The target.

    Returns:
        Registers, and the width of vectors and dot products.

    Raises:
        InputError: TVM compiles nothing for this target.
    """
    if target.tvm is None:
        raise InputError(
            f"target {target.name!r} has no [tvm] section, so there are no kernels to measure; choose another target"
        )
    from codesign.backend.kernels.instruction_set import instruction_set
    from codesign.backend.tvm_compiler import tvm_target

    found = instruction_set(tvm_target(target.tvm, target.threads), target.tvm.float_products)
    dot_channels = DOT_CHANNELS if found.vnni else 1
    return VectorUnit(
        registers=found.registers, lanes=LANES, dot_channels=dot_channels, amx=found.amx, bfloat16=found.bfloat16
    )


def conditions_of(target: Target, unit: VectorUnit) -> Conditions:
    """What measurements of a target depend on.

    Args:
        target: A target on this machine, or one that is reached over RPC.
        unit: What kernels are compiled for.

    Returns:
        The conditions.
    """
    assert target.tvm is not None
    instructions = f"{target.tvm.mcpu}, {unit.registers} registers, {unit.dot_channels} products an instruction"
    instructions += (", AMX" if unit.amx else "") + (", products of bfloat16" if unit.bfloat16 else "")
    tvm = f"tvm {importlib.metadata.version('apache-tvm')}"
    return Conditions(_device_name(target), target.threads, instructions, tvm, templates_digest())


def _device_name(target: Target) -> str:
    if target.rpc is None:
        host = detect_host()
        return f"{host.name}, {host.cores} cores"
    reached = target.rpc.server or f"{target.rpc.key} at {target.rpc.tracker}"
    return f"{target.name} over RPC ({reached})"


def compile_reference(compiler: Compiler, target: Target, work_dir: Path) -> ReferenceKernel:
    """Compiles the kernel that is timed again and again.

    Args:
        compiler: The compiler.
        target: Where it runs.
        work_dir: Folder for its files.

    Returns:
        The kernel, a 3x3 convolution of about 20 us on one core, always in float32 on vectors.
    """
    if target.tvm is not None:
        on_vectors = target.tvm.model_copy(update={"float_products": "float32"})
        target = target.model_copy(update={"tvm": on_vectors})
    path = work_dir / "reference.onnx"
    save_graph(reference_network(), path)
    artifact = compiler.compile(path, target, "reference", work_dir)
    call = next(call for call in read_kernel_calls(artifact.path) if call.operation == REFERENCE_LAYER)
    return ReferenceKernel(artifact, call)
