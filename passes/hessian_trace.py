"""The pass `hessian-trace`: trace of the loss's Hessian block in every weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from codesign.curvature.hutchinson import HutchinsonOptions, hutchinson_traces
from codesign.curvature.module_network import ModuleNetwork
from codesign.curvature.packed_gauss_newton import PackingOptions, gauss_newton_traces
from codesign.curvature.tapped_network import (
    BlockTrace,
    Convolution,
    LayerGeometry,
    Linear,
    Tap,
    as_pair,
    check_samples_apart,
)
from codesign.errors import InputError
from codesign.ir.annotation import annotate
from codesign.ir.annotations import HessianTrace
from codesign.ir.attributes import Attributes
from codesign.ir.linearity import gauss_newton_obstacle
from codesign.ir.onnx_to_torch import TorchGraph
from codesign.ir.operators_linear import window_padding
from codesign.ir.program import Program, name_of
from codesign.ir.shapes import static_shape
from codesign.pass_manager.base import AnalysisPass, AnnotationSet, CalibrationData, PassContext

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class HessianTracePass(AnalysisPass):
    """Traces of per-layer Hessian blocks of the mean cross-entropy on calibration data.

    Where the network is piecewise linear in a weight the block is its Gauss-Newton block, which needs no labels and is
    found from per-sample gradients (`codesign.curvature.packed_gauss_newton`). Elsewhere Hutchinson's method estimates
    the trace of the true Hessian, with labels (`codesign.curvature.hutchinson`). A weight that several nodes share has
    one block, which each of them carries.

    Attributes:
        samples: How many calibration samples to use, from the first.
        weights_of: `folded`: the weights that the graph holds and that are quantised; `module`: the torch module's own
            parameters, BatchNorm apart.
        dtype: What the network is computed in; sums are in float64.
        drop: Share of the softmax Hessian's eigenvalues that is sampled instead of run; 0 makes the trace exact.
        probes: Most random vectors of Hutchinson's method.
        relative_error: Standard error, as a share of the trace, at which Hutchinson's method stops earlier.
        top_eigenvalue: Whether the largest eigenvalue of Gauss-Newton blocks is found too (a lower bound if part of the
            trace is sampled).
    """

    name: ClassVar[str] = "hessian-trace"
    provides: ClassVar[AnnotationSet] = frozenset({HessianTrace})
    samples: int = 256
    weights_of: Literal["folded", "module"] = "folded"
    dtype: Literal["float32", "float64"] = "float32"
    drop: float = 0.001
    probes: int = 256
    relative_error: float = 0.05
    top_eigenvalue: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"pass {self.name}: samples is {self.samples}, allowed are 1 or more; try 256")
        self._packing()  # both refuse options out of range
        self._probing()

    def _packing(self) -> PackingOptions:
        return PackingOptions(drop=self.drop, top_eigenvalue=self.top_eigenvalue)

    def _probing(self) -> HutchinsonOptions:
        least = min(HutchinsonOptions.min_probes, self.probes)
        return HutchinsonOptions(max_probes=self.probes, min_probes=least, relative_error=self.relative_error)

    def run(self, program: Program, context: PassContext) -> None:
        """Annotates every node with a weight.

        Args:
            program: The network; with `weights_of=module` it must come from a torch module.
            context: Must hold calibration data, with labels if some block is not Gauss-Newton.
        """
        if not program.weighted_nodes:
            return
        images = self._images(program, context.calibration)
        source = self._source(program)
        obstacles = {node: source.obstacle(node) for node in program.weighted_nodes}
        once = check_samples_apart(source.network, images)
        packed = {n: source.layer_of[name_of(n)] for n, obstacle in obstacles.items() if obstacle is None}
        packed = {node: layer for node, layer in packed.items() if layer in once}
        probed = {n: source.weight_of[name_of(n)] for n in obstacles if n not in packed}
        probes = self._probed(source, images, probed, obstacles, context)  # first, for it may refuse missing labels
        traces = self._packed(source, images, list(packed.values()), context)
        for node in obstacles:
            block = traces[packed[node]] if node in packed else probes[probed[node]]
            annotate(node, self._fact(block, source.elements_of(node), node in packed, len(images)))

    def _fact(self, block: BlockTrace, parameters: int, packed: bool, samples: int) -> HessianTrace:
        return HessianTrace(
            trace=block.trace,
            standard_error=block.standard_error,
            top_eigenvalue=block.top_eigenvalue,
            parameters=parameters,
            exact=packed and not block.draws,
            method="packed-gauss-newton" if packed else "hutchinson",
            weights_of=self.weights_of,
            samples=samples,
        )

    def _images(self, program: Program, data: CalibrationData | None) -> Tensor:
        if data is None or not len(data.images):
            raise InputError(f"pass {self.name} needs calibration data; name some with --data")
        images = np.ascontiguousarray(data.images[: self.samples])
        if images.shape[1:] != program.input_shape[1:]:
            raise InputError(
                f"pass {self.name}: calibration images have shape {list(images.shape[1:])}, the network takes "
                f"{list(program.input_shape[1:])}; correct the preprocessing"
            )
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
        if len(bad):
            raise InputError(f"pass {self.name}: calibration image {bad[0]} holds NaN or infinity; correct the data")
        return torch.from_numpy(images).to(DTYPES[self.dtype])

    def _source(self, program: Program) -> "_Source":
        nodes = program.weighted_nodes
        if self.weights_of == "folded":
            graph = GraphNetwork(program.graph, DTYPES[self.dtype])
            return _Source(graph, {name_of(n): name_of(n) for n in nodes}, graph.weight_of)
        if program.module is None:
            raise InputError(
                f"pass {self.name}: weights-of=module needs the torch module, but there is none that takes "
                f"batches; use weights-of=folded"
            )
        module = ModuleNetwork(program.module, DTYPES[self.dtype])
        parameters = {name_of(node): program.parameter_of.get(name_of(node), "") for node in nodes}
        weight_of = {node: module.canonical_name(parameter) for node, parameter in parameters.items()}
        missing = [node for node, weight in weight_of.items() if weight is None]
        if missing:
            raise InputError(
                f"pass {self.name}: weights-of=module, but the weights of {', '.join(missing)} are no parameters of "
                f"the module; use weights-of=folded"
            )
        layer_of = {node: _owner(parameter) for node, parameter in parameters.items()}
        return _Source(module, layer_of, {node: weight for node, weight in weight_of.items() if weight is not None})

    def _packed(
        self, source: "_Source", images: Tensor, layers: list[str], context: PassContext
    ) -> Mapping[str, BlockTrace]:
        if not layers:
            return {}
        return gauss_newton_traces(source.network, images, layers, self._packing(), context.seed, context.progress)

    def _probed(
        self,
        source: "_Source",
        images: Tensor,
        weight_of: Mapping[ir.Node, str],
        obstacles: Mapping[ir.Node, str | None],
        context: PassContext,
    ) -> Mapping[str, BlockTrace]:
        if not weight_of:
            return {}
        assert context.calibration is not None
        labels = context.calibration.labels
        if labels is None:
            node = next(iter(weight_of))
            raise InputError(
                f"pass {self.name}: node {node.name!r}: {obstacles[node] or 'its gradients cannot be tapped'}; "
                f"its Hessian depends on labels, and the calibration data has none: give labelled data"
            )
        weights = {name: source.network.weights[name] for name in weight_of.values()}
        wanted = torch.from_numpy(np.ascontiguousarray(labels[: self.samples]))
        return hutchinson_traces(
            source.network.with_weights, weights, images, wanted, self._probing(), context.seed, context.progress
        )


def _owner(parameter: str) -> str:
    """Path of the layer whose `weight` a parameter is; a name that no layer has for other parameters."""
    return "" if parameter == "weight" else parameter.removesuffix(".weight")


@dataclass(frozen=True)
class _Source:
    """A network and where the weights of the graph's nodes are in it.

    Attributes:
        network: What is run.
        layer_of: Node name to the layer that would be tapped for it.
        weight_of: Node name to the name of its weight.
    """

    network: "GraphNetwork | ModuleNetwork"
    layer_of: Mapping[str, str]
    weight_of: Mapping[str, str]

    def obstacle(self, node: ir.Node) -> str | None:
        """Why the node's block is not a Gauss-Newton block, or None; weights that folding made apart may be shared."""
        weight = self.weight_of[name_of(node)]
        uses = list(self.weight_of.values()).count(weight)
        return f"its weight {weight!r} is used {uses} times" if uses > 1 else gauss_newton_obstacle(node)

    def elements_of(self, node: ir.Node) -> int:
        """Number of elements of the node's weight."""
        return self.network.weights[self.weight_of[name_of(node)]].numel()


class GraphNetwork:
    """An ONNX graph as a network whose Conv, Gemm and MatMul nodes can be tapped, by their names.

    Args:
        model: The graph.
        dtype: What it is computed in.
    """

    def __init__(self, model: ir.Model, dtype: torch.dtype) -> None:
        self._graph = TorchGraph(model, dtype)
        found = {name_of(node): _geometry(node) for node in model.graph if name_of(node) in self._graph.weight_name_of}
        self._geometries = {name: geometry for name, geometry in found.items() if geometry is not None}

    @property
    def geometries(self) -> Mapping[str, LayerGeometry]:
        """Nodes that can be tapped, by name."""
        return MappingProxyType(self._geometries)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Constants by name."""
        return self._graph.constants

    @property
    def weight_of(self) -> Mapping[str, str]:
        """Node name to the name of its weight."""
        return self._graph.weight_name_of

    def __call__(self, inputs: Tensor, tap: Tap | None = None) -> Tensor:
        """Runs the graph.

        Args:
            inputs: `[N, ...]`.
            tap: Watches, and may replace, each tapped node's result.

        Returns:
            Logits `[N, ..., C]`.
        """

        def on_node(
            node: ir.Node, operands: tuple[Tensor | None, ...], results: tuple[Tensor, ...]
        ) -> tuple[Tensor, ...] | None:
            name = name_of(node)
            if tap is None or name not in self._geometries:
                return None
            entering, leaving = operands[0], results[0]
            assert entering is not None
            if isinstance(self._geometries[name], Linear) or entering.ndim == self.weights[self.weight_of[name]].ndim:
                return (tap(name, entering, leaving),)
            return (tap(name, entering.flatten(0, 1), leaving.flatten(0, 1)).view_as(leaving),)  # [N, B, C, ...]

        return self._graph.run(inputs, on_node=on_node)

    def with_weights(self, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Runs the graph with some of its constants exchanged.

        Args:
            inputs: `[N, ...]`.
            weights: By name.

        Returns:
            Logits `[N, ..., C]`, differentiable in `weights`.
        """
        return self._graph.run(inputs, weights)


def _geometry(node: ir.Node) -> LayerGeometry | None:
    """How the weight meets the input; None for forms without per-sample gradients here, such as 3-D convolution."""
    entering, weight = node.inputs[0], node.inputs[1]
    assert entering is not None and weight is not None
    shape, sizes = static_shape(weight), static_shape(entering)
    assert shape is not None
    attributes = Attributes(node, torch.float32, torch.device("cpu"))
    if node.op_type != "Conv":
        usable = len(shape) == 2 and not attributes.integer("transA", 0)
        return Linear(math.prod(shape), attributes.real("alpha", 1.0)) if usable else None
    rank = len(shape) - 2
    if sizes is None or rank not in {1, 2}:
        return None
    strides = attributes.integers("strides") or (1,) * rank
    dilations = attributes.integers("dilations") or (1,) * rank
    before, _ = window_padding(attributes, sizes[2:], shape[2:], strides, dilations)
    return Convolution(
        weight_elements=math.prod(shape),
        kernel=as_pair(shape[2:], 1),
        stride=as_pair(strides, 1),
        padding=as_pair(before, 0),
        dilation=as_pair(dilations, 1),
        groups=attributes.integer("group", 1),
    )
