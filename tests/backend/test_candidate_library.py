"""Candidates in one library, what happens to those that fail, and networks that are compiled with a choice."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from codesign.backend import candidate_library
from codesign.backend.candidate_library import IsolatedCandidateCompiler, write_candidates
from codesign.backend.kernel_candidates import candidates
from codesign.backend.kernel_table import KernelArgument, KernelCall, read_kernel_calls, write_kernel_calls
from codesign.backend.kernels.epilogue import IntegerEpilogue
from codesign.backend.kernels.geometry import ConvolutionShape
from codesign.backend.kernels.instruction_set import instruction_set
from codesign.backend.kernels.layer_kernel import LayerKernel, read_layer_kernel
from codesign.backend.kernels.parameters import KernelParameters, VectorTiling
from codesign.backend.library_cache import library_key
from codesign.backend.tvm_compiler import TvmCompiler, tvm_target
from codesign.hardware.amx_permission import request_amx
from codesign.hardware.target import Target, TvmTarget

HOST = Target(name="host", description="this machine", profile="host", runner="local", tvm=TvmTarget())
KERNEL = LayerKernel(ConvolutionShape(6, 8, 16, 32), 8, IntegerEpilogue())
WAYS = tuple(VectorTiling(columns, blocks) for columns, blocks in ((8, 2), (4, 2), (8, 1), (2, 1)))


def test_all_candidates_are_in_one_library(tmp_path: Path) -> None:
    wrong = VectorTiling(8, 3)  # does not divide the channels
    write_candidates(KERNEL, [WAYS[0], wrong, WAYS[1]], HOST, tmp_path / "c.so")
    calls = read_kernel_calls(tmp_path / "c.so")
    assert (calls[0].kernel, calls[0].operation) == ("candidate_0", "0")
    assert calls[0].arguments[0] == KernelArgument((1, 6, 8, 16), "uint8")
    kernels = tvm.runtime.load_module(str(tmp_path / "c.so")).imports[0]
    assert all(kernels.implements_function(call.kernel) for call in calls)
    assert {"0", "2"} <= {call.operation for call in calls}


class _Process:
    """Stands for the compiling process, which fails wherever a bad candidate is among those it is given."""

    def __init__(self, bad: Sequence[KernelParameters], monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad, self.started = bad, 0
        monkeypatch.setattr(candidate_library, "run_module", self)

    def __call__(self, _module: str, request: Path, _environment: object, _timeout_s: float, _log: Path) -> str | None:
        self.started += 1
        values = json.loads(request.read_text())
        given = [VectorTiling(**parameters) for parameters in values["candidates"]]
        if set(given) & set(self.bad):
            return "was killed by SIGSEGV"
        assert read_layer_kernel(values["kernel"]) == KERNEL
        made = [KernelCall(f"candidate_{n}", str(n), ()) for n in range(len(given))]
        write_kernel_calls(Path(values["library"]), made)
        return None


@pytest.mark.parametrize("bad", [(), (0,), (2,), (1, 3), (0, 1, 2), (0, 1, 2, 3)])
def test_a_candidate_that_kills_the_process_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...]
) -> None:
    process = _Process([WAYS[n] for n in bad], monkeypatch)
    made = IsolatedCandidateCompiler(HOST).compile(KERNEL, WAYS, tmp_path)
    assert list(made.calls) == [way for number, way in enumerate(WAYS) if number not in bad]
    assert made.failures == {WAYS[number]: "was killed by SIGSEGV" for number in bad}
    assert process.started <= 3 * len(WAYS)


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    made = IsolatedCandidateCompiler(HOST, timeout_s=0.05).compile(KERNEL, WAYS[:1], tmp_path)
    assert made.calls == {}
    assert "ran past its limit" in made.failures[WAYS[0]]


def _network(path: Path) -> Path:
    """Quantised convolution of 16 to 32 channels, 3x3, on 8x8."""
    random = np.random.default_rng(0)
    constants = {
        "sx": np.float32(0.04), "zx": np.uint8(100), "sy": np.float32(0.1), "zy": np.uint8(3),
        "w": random.integers(-127, 128, (32, 16, 3, 3)).astype(np.int8),
        "sw": random.uniform(0.001, 0.003, 32).astype(np.float32),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="xq"),
        make("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="xd"),
        make("DequantizeLinear", ["w", "sw"], ["wd"], name="wd", axis=0),
        make("Conv", ["xd", "wd"], ["c"], name="layer", pads=[1, 1, 1, 1]),
        make("QuantizeLinear", ["c", "sy", "zy"], ["cq"], name="cq"),
        make("DequantizeLinear", ["cq", "sy", "zy"], ["y"], name="yd"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 16), ("y", 32))]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _outputs(library: Path, image: NDArray[np.float32]) -> NDArray[np.float32]:
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result: NDArray[np.float32] = machine["main"](tvm.runtime.tensor(image)).numpy()
    return result


def test_weights_follow_the_choice_and_outputs_stay_the_same(tmp_path: Path) -> None:
    """Kernels on AMX and on VNNI order weights differently."""
    path = _network(tmp_path / "net.onnx")
    image = np.random.default_rng(1).uniform(-5, 5, (1, 16, 8, 8)).astype(np.float32)
    plain = TvmCompiler().compile(path, HOST, "plain", tmp_path).path
    identity = next(call.identity for call in read_kernel_calls(plain) if call.identity)
    assert HOST.tvm is not None
    ways = candidates(read_layer_kernel(identity), instruction_set(tvm_target(HOST.tvm, 1)), 1)
    by_kind = {way.kind: way for way in ways[1:]}
    assert len(by_kind) == (2 if request_amx() else 1)
    expected = _outputs(plain, image)
    for kind, way in by_kind.items():
        library = TvmCompiler(choices={identity: way}).compile(path, HOST, kind, tmp_path).path
        assert np.array_equal(_outputs(library, image), expected)
    keys = {library_key(path, HOST), *(library_key(path, HOST, {identity: way}) for way in by_kind.values())}
    assert len(keys) == 1 + len(by_kind)
