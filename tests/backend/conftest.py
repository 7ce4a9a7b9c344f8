"""A small quantised network and its compiled form."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.backend.artifact_folder import LIBRARIES, NETWORK, complete_folder
from codesign.backend.tvm_compiler import TvmCompiler
from codesign.hardware.target import RpcServer, Target, TvmTarget

RPC_HOST = Target(
    name="rpc-host",
    description="this machine, behind an RPC server",
    profile="host",
    runner="rpc",
    tvm=TvmTarget(),
    rpc=RpcServer(server="127.0.0.1:1"),
)
"""Its artefacts hold everything that any runner needs."""


def write_quantized_net(path: Path, out_channels: int = 5) -> Path:
    """y = dequantised(quantised(relu(conv(quantised(x))))) for x [1, 4, 6, 6]; input scale 0.04, output scale 0.1."""
    random = np.random.default_rng(0)
    constants = {
        "sx": np.float32(0.04), "zx": np.uint8(100), "sy": np.float32(0.1), "zy": np.uint8(3),
        "w": random.integers(-127, 128, (out_channels, 4, 3, 3)).astype(np.int8),
        "sw": random.uniform(0.001, 0.003, out_channels).astype(np.float32),
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "sx", "zx"], ["xq"], name="xq"),
        make("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], name="xd"),
        make("DequantizeLinear", ["w", "sw"], ["wd"], name="wd", axis=0),
        make("Conv", ["xd", "wd"], ["c"], name="layer", pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], name="relu"),
        make("QuantizeLinear", ["r", "sy", "zy"], ["rq"], name="rq"),
        make("DequantizeLinear", ["rq", "sy", "zy"], ["y"], name="yd"),
    ]
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])
    end = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, out_channels, 6, 6])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", [start], [end], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact's folder for this machine, with a quantised network of one layer."""
    folder = tmp_path_factory.mktemp("artifact")
    write_quantized_net(folder / NETWORK)
    artifact = TvmCompiler().compile(folder / NETWORK, RPC_HOST, "plan", folder / LIBRARIES)
    complete_folder(folder, artifact, RPC_HOST)
    return folder


@pytest.fixture(scope="session")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Three inputs."""
    return np.random.default_rng(1).uniform(-5, 5, (3, 4, 6, 6)).astype(np.float32)
