"""The product of a run with tuned kernels, where its run file asks for that."""

from pathlib import Path

from codesign.backend.kernels.parameters import CHOICES
from codesign.backend.library_cache import LibraryCache, cache_folder
from codesign.backend.tvm_process import IsolatedTvmCompiler
from codesign.errors import CompileError
from codesign.files import digest_of, write_json
from codesign.flow.build import Compiled, compile_step, machine
from codesign.flow.context import RunContext
from codesign.flow.prepare import versions
from codesign.flow.tune import tune_network
from codesign.tuning.budget import tuning_budget_s

FOLDER = "tvm-tuned"


def tuned_product(context: RunContext, found: Compiled | str) -> tuple[Compiled | str, str]:
    """Tunes the kernels of the chosen network and compiles it once more; steps `tune` and `compile` of its plan.

    Args:
        context: The run.
        found: The chosen network as it was compiled, or why that failed.

    Returns:
        The network with another product, and what was tuned, in words; what was given, and nothing, where the run file
        asks for no tuning or nothing was found.
    """
    tune = context.run.measure.tune
    if tune is None or isinstance(found, str):
        return found, ""
    network, artifacts = found
    identity = artifacts[0].plan_digest
    result = context.folder / "artifacts" / identity / "tuning.json"
    key = digest_of(network, context.target.model_dump(mode="json"), machine(), versions(), tune)

    def compute() -> list[Path]:
        tuned = tune_network(network, context.target, tuning_budget_s(tune, "measure.tune"), context.progress)
        context.progress.note(tuned.summary)
        choices = CHOICES.dump_python(tuned.choices, mode="json")
        write_json(result, {"summary": tuned.summary, "choices": choices})
        return [result]

    context.store.step(f"tune/{identity}", key, compute)
    kept = context.store.read_json(result)
    choices, summary = CHOICES.validate_python(kept["choices"]), str(kept["summary"])
    if not choices:
        return found, summary
    compiler = IsolatedTvmCompiler(LibraryCache(cache_folder()), choices=choices)
    try:
        product = compile_step(context, compiler, network, identity, (FOLDER, digest_of(key, result)))
    except CompileError as error:
        context.progress.note(f"the tuned network does not compile, the product is not tuned: {error}")
        return found, ""
    return (network, (product, *artifacts[1:])), summary
