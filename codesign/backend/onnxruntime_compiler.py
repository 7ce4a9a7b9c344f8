"""The second compiler: onnxruntime, which optimises a graph when it loads it."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs among the dependencies

from codesign.backend.base import Artifact
from codesign.backend.sidecar import Sidecar
from codesign.errors import CompileError
from codesign.files import replacing
from codesign.hardware.target import Target

NARROW = {onnx.TensorProto.INT4: onnx.TensorProto.INT8, onnx.TensorProto.INT2: onnx.TensorProto.INT8}
"""Types of weights that onnxruntime 1.32 only runs in floating point, and those that it multiplies in integers."""


class OnnxruntimeCompiler:
    """Copies the ONNX file with INT4 weights widened to int8, for which onnxruntime has integer kernels."""

    name: ClassVar[str] = "onnxruntime"

    def unsupported(self, graph_path: Path) -> tuple[str, ...]:
        """What onnxruntime cannot run.

        Args:
            graph_path: The ONNX file.

        Returns:
            A line for the node that onnxruntime names, or nothing.
        """
        _widened(graph_path)
        try:
            _session_of(graph_path)
        except Exception as error:  # onnxruntime raises a dozen classes without a common base
            return (f"graph ({graph_path.name}): {_first_line(error)}",)
        return ()

    def compile(self, graph_path: Path, target: Target, plan_digest: str, work_dir: Path) -> Artifact:
        """Writes the file that onnxruntime loads.

        Args:
            graph_path: The ONNX file.
            target: Where it shall run.
            plan_digest: Recorded in the artefact.
            work_dir: Folder for the artefact.

        Returns:
            The artefact.

        Raises:
            CompileError: The file cannot be read or loaded.
        """
        widened, weight_bytes = _widened(graph_path)
        path = work_dir / f"{self.name}-{target.name}-{plan_digest}.onnx"
        with replacing(path) as temporary:
            onnx.save(widened, temporary)
        try:
            session = _session_of(path)
        except Exception as error:  # onnxruntime raises a dozen classes without a common base
            path.unlink(missing_ok=True)
            raise CompileError(f"{graph_path}: onnxruntime refuses it ({_first_line(error)})") from error
        (start,), (end,) = session.get_inputs(), session.get_outputs()
        shapes = tuple(start.shape), tuple(end.shape)
        Sidecar(self.name, target.name, plan_digest, *shapes, target.threads, weight_bytes).write(path)
        return Artifact(path, self.name, target.name, plan_digest, weight_bytes)


def _session_of(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _widened(graph_path: Path) -> tuple[onnx.ModelProto, int]:
    """The model with narrow initialisers widened, and bytes of all its constants with at least one axis."""
    try:
        model = onnx.load(graph_path)
    except (OSError, DecodeError) as error:
        raise CompileError(f"{graph_path}: not a valid ONNX file ({_first_line(error)}); export it again") from error
    weight_bytes = 0
    for tensor in model.graph.initializer:
        if tensor.data_type in NARROW:
            values = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        array = onnx.numpy_helper.to_array(tensor)
        is_weight = array.ndim > 0 and array.dtype in {np.dtype(t) for t in ("int8", "uint8", "int32", "float32")}
        weight_bytes += array.nbytes if is_weight else 0
    return model, weight_bytes


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
