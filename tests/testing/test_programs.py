import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from codesign.ir.verifier import violations
from codesign.testing.programs import small_program


@pytest.mark.parametrize("batch_norm", [False, True])
def test_programs_are_legal_and_run(batch_norm: bool) -> None:
    program = small_program(batch_norm=batch_norm)
    assert violations(program.graph) == ()
    proto = ir.to_proto(program.graph)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": np.ones(program.input_shape, np.float32)})
    assert np.asarray(logits).shape == (1, 5)
    assert np.isfinite(np.asarray(logits)).all()
    assert [node.name for node in program.weighted_nodes] == ["stem", "branch", "head"]
