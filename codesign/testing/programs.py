"""Small legal programs for tests of passes."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from codesign.ir.program import Program
from codesign.ir.shape_inference import infer_shapes


class GraphBuilder:
    """Builds a graph node by node; weights are normal with standard deviation 1/2, the same for the same seed.

    Attributes:
        input: The graph's input.
    """

    def __init__(self, input_shape: Sequence[int], seed: int = 0) -> None:
        self.input = ir.val("input", ir.DataType.FLOAT, list(input_shape))
        self._graph = ir.Graph([self.input], [], nodes=[], opset_imports={"": 21}, name="main")
        self._tape = Tape(self._graph)
        self._random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> ir.Value:
        """Adds a random float32 initialiser.

        Args:
            name: Its name.
            *shape: Its sizes.

        Returns:
            The value.
        """
        return self.constant(name, self._random.normal(0.0, 0.5, shape).astype(np.float32))

    def constant(self, name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> ir.Value:
        """Adds an initialiser.

        Args:
            name: Its name.
            array: Its contents.

        Returns:
            The value.
        """
        return self._tape.initializer(ir.tensor(array, name=name))

    def add(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
        domain: str = "",
    ) -> ir.Value:
        """Adds a node with one result.

        Args:
            op_type: Its operator.
            name: Its name; the result is called `NAME_out`.
            inputs: Its operands, None for absent ones.
            attributes: Its attributes.
            domain: Its operator's domain.

        Returns:
            The result.
        """
        result = ir.val(f"{name}_out")
        return self._tape.op(op_type, inputs, attributes, domain=domain, name=name, output=result)

    def finish(self, output: ir.Value, shapes: bool = True) -> Program:
        """Completes the graph.

        Args:
            output: The graph's output.
            shapes: Whether the shapes of all values are inferred.

        Returns:
            The program, without a module.
        """
        self._graph.outputs.append(output)
        model = ir.Model(self._graph, ir_version=10, producer_name="codesign")
        if shapes:
            infer_shapes(model)
        elif output.dtype is None:
            output.type = ir.TensorType(ir.DataType.FLOAT)
        return Program(model)


def small_program(seed: int = 0, batch_norm: bool = False) -> Program:
    """A residual network of two convolutions and a dense layer on 3x8x8 images, with 5 classes.

    Args:
        seed: Of the weights.
        batch_norm: Whether a BatchNormalization follows the first convolution.

    Returns:
        The program, shapes inferred.
    """
    build = GraphBuilder((1, 3, 8, 8), seed)
    x = build.add("Conv", "stem", [build.input, build.weight("stem.weight", 4, 3, 3, 3), None], {"pads": (1, 1, 1, 1)})
    if batch_norm:
        parameters = [build.weight(f"norm.{name}", 4) for name in ("scale", "bias", "mean")]
        variance = build.constant("norm.variance", np.linspace(0.5, 2.0, 4, dtype=np.float32))
        x = build.add("BatchNormalization", "norm", [x, *parameters, variance], {"epsilon": 1e-3})
    x = build.add("Relu", "relu", [x])
    branch_weights = [build.weight("branch.weight", 4, 2, 3, 3), build.weight("branch.bias", 4)]
    branch = build.add("Conv", "branch", [x, *branch_weights], {"pads": (1, 1, 1, 1), "group": 2})
    x = build.add("Add", "join", [x, branch])
    x = build.add("GlobalAveragePool", "pool", [x])
    x = build.add("Flatten", "flatten", [x])
    head = [build.weight("head.weight", 5, 4), build.weight("head.bias", 5)]
    return build.finish(build.add("Gemm", "head", [x, *head], {"transB": 1}))
