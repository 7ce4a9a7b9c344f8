"""The first steps: train, lower, annotate."""

import importlib.metadata
import importlib.util
from pathlib import Path

from codesign import __version__
from codesign.errors import InputError
from codesign.files import digest_of, write_json
from codesign.flow.context import RunContext
from codesign.ir.onnx_file import read_onnx
from codesign.ir.program import Program
from codesign.ir.serialization import load_graph, save_graph
from codesign.pass_manager.base import PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline
from codesign.plan.facts import GraphFacts
from codesign.plan.facts_json import facts_from_json, facts_to_json
from codesign.plan.from_graph import facts_of

LOWERED = "lowered.onnx"
GRAPH = "graph.onnx"
FACTS = "facts.json"
TRAINED = "training/weights.safetensors"


def versions() -> dict[str, str]:
    """Versions of everything that results depend on."""
    names = (
        "torch",
        "onnx",
        "onnx-ir",
        "onnxscript",
        "onnxruntime",
        "apache-tvm",
        "apache-tvm-ffi",
        "highspy",
        "numpy",
    )
    return {"codesign": __version__, **{name: importlib.metadata.version(name) for name in names}}


def source_digest(source: str, base: Path) -> str:
    """Digest of where a network comes from: the contents of the files that hold it.

    Args:
        source: As in the run file.
        base: Folder that relative paths start from.

    Returns:
        The digest; a source that does not exist has one too, and fails when it is loaded.
    """
    return digest_of(source, *(path for path in _source_files(source, base) if path.is_file()))


def _source_files(source: str, base: Path) -> list[Path]:
    place, separator, _ = source.rpartition(":")
    if not separator:
        return [base / source, *_external_data(base / source)]
    if place.endswith(".py"):
        return [base / place]
    beside = base.joinpath(*place.split("."))
    local = [beside.with_suffix(".py"), beside / "__init__.py"]
    if any(path.is_file() for path in local):
        return local
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):
        return []
    return [Path(found.origin)] if found is not None and found.origin else []


def _external_data(path: Path) -> list[Path]:
    """Files beside an `.onnx` file that hold its weights; a damaged file is refused when it is loaded."""
    if path.suffix != ".onnx":
        return []
    try:
        tensors = read_onnx(path).graph.initializer
    except InputError:
        return []
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path.parent / name for name in sorted(names)]


def obtain(context: RunContext) -> Program:
    """Lowers the network, after training it if the run file says so; step `lower` (and `train`).

    Args:
        context: The run.

    Returns:
        The lowered network, as read back from the run's folder.
    """
    run = context.run
    weights = _trained(context) if run.train is not None else run.model.weights
    weights_file = context.base / weights if weights else None
    parts: list[object] = [run.model.model_dump(mode="json"), source_digest(run.model.source, context.base), versions()]
    if weights_file is not None and weights_file.is_file():
        parts.append(weights_file)

    def compute() -> list[Path]:
        from codesign.ir.loading import load_program

        program = load_program(run.model.source, weights, run.model.input_shape, context.base)
        save_graph(program.graph, context.folder / LOWERED)
        return [context.folder / LOWERED]

    context.store.step("lower", digest_of(*parts), compute)
    program = Program(load_graph(context.folder / LOWERED))
    context.data.check(program.input_shape, output_shape(program))
    return program


def output_shape(program: Program) -> tuple[int, ...]:
    """Shape of the logits, batch of one included.

    Args:
        program: A lowered network.

    Returns:
        Such as `(1, 10)`.
    """
    shape = program.graph.graph.outputs[0].shape
    assert shape is not None
    return shape.numpy()


def _trained(context: RunContext) -> str:
    run, data = context.run, context.data
    assert run.train is not None
    if run.model.weights is not None:
        raise InputError("the run file has both [train] and model.weights; remove one of them")
    options, model = run.train, run.model
    key = digest_of(
        source_digest(model.source, context.base),
        options.model_dump(mode="json"),
        run.data.preprocessing.model_dump(mode="json"),
        data.splits.training.digest,
        run.seed,
        versions(),
    )

    def compute() -> list[Path]:
        from codesign.ir.loading import load_module
        from codesign.training.trainer import train

        weights = train(
            lambda: load_module(model.source, None, context.base),
            data.splits.training,
            run.data.preprocessing,
            options,
            (context.folder / TRAINED).parent,
            context.progress,
            run.seed,
        )
        return [weights]

    context.store.step("train", key, compute)
    return str((context.folder / TRAINED).resolve())


def pipeline_of(context: RunContext) -> str:
    """The passes that annotate the graph, as text.

    Args:
        context: The run.

    Returns:
        A pipeline that `codesign opt -p` takes as well.
    """
    quantization = context.run.quantization
    bits = "+".join(str(b) for b in sorted(quantization.weight_bits))
    correction = str(quantization.bias_correction).lower()
    passes = [observation_of(context), f"quantization-error{{bits={bits}}}"]
    if quantization.hessian_samples:
        passes.append(f"hessian-trace{{samples={quantization.hessian_samples}}}")
    options = f"bits={bits},samples={quantization.sensitivity_samples},bias-correction={correction}"
    match quantization.sensitivity:
        case "auto":
            has_fallback = quantization.hessian_samples > 0
            limit = f",max-forwards={quantization.sensitivity_forwards}" if has_fallback else ""
            passes.append(f"kl-sensitivity{{{options}{limit}}}")
        case "kl":
            passes.append(f"kl-sensitivity{{{options}}}")
        case "gauss-newton":
            passes.append(f"quadratic-loss{{{options}}}")
        case "hawq-v2":
            pass  # needs the traces above only
    passes.append(f"sensitivity{{method={quantization.sensitivity}}}")
    return ",".join(passes)


def observation_of(context: RunContext) -> str:
    """The passes that say how activations are quantised, as text.

    Args:
        context: The run.

    Returns:
        A pipeline.
    """
    quantization = context.run.quantization
    observe = f"observe-activations{{rule={quantization.range_rule},percentile={quantization.percentile}}}"
    return f"count-work,{observe}"


def annotate(context: RunContext, program: Program) -> tuple[Program, GraphFacts]:
    """Puts facts on every node; step `annotate`.

    Args:
        context: The run.
        program: The lowered network.

    Returns:
        The annotated network as read back from the run's folder, and its facts.
    """
    pipeline = pipeline_of(context)
    data = context.data
    key = digest_of(context.folder / LOWERED, pipeline, data.tuning_digest, context.run.seed, versions())

    def compute() -> list[Path]:
        passes = parse_pipeline(pipeline)
        pass_context = PassContext(data.calibration, context.run.seed, context.progress)
        PassManager(passes).run(program, pass_context)
        save_graph(program.graph, context.folder / GRAPH)
        write_json(context.folder / FACTS, facts_to_json(facts_of(program)))
        return [context.folder / GRAPH, context.folder / FACTS]

    context.store.step("annotate", key, compute)
    annotated = Program(load_graph(context.folder / GRAPH))
    return annotated, facts_from_json(context.store.read_json(context.folder / FACTS))
