"""The Hessian in all weights of a network at once: trace, top eigenvalues and spectral density, as PyHessian."""

from codesign.curvature.eigenpairs import top_eigenpairs
from codesign.curvature.hessian_operator import HessianOperator
from codesign.curvature.hutchinson import hutchinson
from codesign.curvature.probing import StoppingRule
from codesign.curvature.spectral_density import spectral_density
from codesign.errors import InputError
from codesign.flow.analyze_request import AnalyzeRequest
from codesign.flow.resources import Stopwatch
from codesign.ir.program import Program
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.calibration_samples import LARGEST_BATCH, result_elements
from codesign.pass_manager.curvature_source import DTYPES, CurvatureSource, all_samples, labels_of
from codesign.report.analysis_contents import NetworkAnalysis
from codesign.report.quantities import size

STEPS = 100
"""Lanczos steps, as many as PyHessian's default."""
_FEWEST_STEPS = 16
_GRAPH_COPIES = 12
"""How often the gradient graph and four batched products with it hold every activation, at most."""
_CURVE_POINTS = 2000


def analyze_network(
    program: Program, request: AnalyzeRequest, context: PassContext, watch: Stopwatch
) -> NetworkAnalysis:
    """Trace by Hutchinson's method, top eigenvalues and spectral density of one Hessian.

    It is that of the mean cross-entropy in all parameters of the module, or in all weights and biases of the graph's
    weighted nodes. Cost: a Hessian-vector product each for up to 256 probes, 100 for each eigenvalue and 100 Lanczos
    steps, each two passes over the data or fewer.

    Args:
        program: The network.
        request: Whose weights, how many eigenvalues and how exact a trace.
        context: With labelled samples.
        watch: Told about time and sweeps over the data.

    Returns:
        What was found.

    Raises:
        InputError: Too few vectors of the size of all weights fit the memory limit.
    """
    dtype = DTYPES[request.dtype]
    source = CurvatureSource.of(program, request.weights_of, dtype)
    samples = all_samples("metric density", program, context, request.samples, dtype)
    names = _names(program, source)
    weights = {name: source.network.weights[name] for name in names}
    per_sample = result_elements(program) * dtype.itemsize * _GRAPH_COPIES
    operator = HessianOperator(
        source.with_weights,
        weights,
        samples.images,
        labels_of(samples, "metric density: the Hessian"),
        samples_at_once=min(max(context.memory_bytes // per_sample, 1), LARGEST_BATCH),
        shard=context.shard,
    )
    vectors = context.memory_bytes // (operator.dimension * dtype.itemsize)
    fewest = max(_FEWEST_STEPS, 4 * request.eigenvalues)
    if vectors < min(fewest, operator.dimension):
        raise InputError(
            f"metric density: {fewest} vectors of {operator.dimension:,} weights do not fit a memory limit of "
            f"{size(context.memory_bytes)}; raise --memory-limit, or ask for fewer --eigenvalues"
        )
    with watch.step("network"):
        found = _spectrum(operator, request, context, vectors)
    watch.sweep(operator.passes_over_data)
    return found


def _spectrum(
    operator: HessianOperator, request: AnalyzeRequest, context: PassContext, vectors: int
) -> NetworkAnalysis:
    seed, progress = context.seed, context.progress
    error = StoppingRule.relative_error if request.relative_error is None else request.relative_error
    trace = hutchinson(
        operator, StoppingRule(relative_error=error, seconds=request.seconds), seed, progress, context.shard
    )
    basis = min(max(24, 8 * request.eigenvalues), vectors)
    pairs = top_eigenpairs(operator, request.eigenvalues, seed=seed, progress=progress, basis_size=basis)
    density = spectral_density(operator, min(STEPS, vectors), seed=seed, progress=progress)
    length = float(density.nodes.max() - density.nodes.min()) or 1.0
    curve = density.curve(_CURVE_POINTS, margin=0.02 * length, variance=(0.003 * length) ** 2)
    return NetworkAnalysis(
        parameters=operator.dimension,
        trace=trace.trace,
        standard_error=trace.standard_error,
        top_eigenvalues=tuple(pairs.values.tolist()),
        residuals=tuple(pairs.residuals.tolist()),
        nodes=tuple(map(tuple, density.nodes.tolist())),
        weights=tuple(map(tuple, density.weights.tolist())),
        grid=tuple(curve.grid.tolist()),
        density=tuple(curve.density.tolist()),
    )


def _names(program: Program, source: CurvatureSource) -> tuple[str, ...]:
    if source.weights_of == "module":
        return tuple(source.network.weights)
    operands = (value for node in program.weighted_nodes for value in node.inputs[1:])
    constants = (value for value in operands if value is not None and value.const_value is not None)
    return tuple(dict.fromkeys(str(value.name) for value in constants))
