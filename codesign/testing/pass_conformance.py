"""What every pass must do, as a suite that third parties run on theirs as well."""

from collections.abc import Callable

from codesign.errors import PassError
from codesign.ir.annotation import Annotation
from codesign.ir.fingerprint import graph_digest
from codesign.ir.printer import print_graph
from codesign.ir.program import Program
from codesign.pass_manager.base import AnnotationSet, Pass, PassContext
from codesign.pass_manager.manager import PassManager
from codesign.pass_manager.pipeline import parse_pipeline, pipeline_text
from codesign.pass_manager.staleness import facts_of

PassFactory = Callable[[], Pass]
ProgramFactory = Callable[[], Program]


def check_pass(pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext) -> None:
    """Runs all checks below on one pass.

    Args:
        pass_factory: Makes the pass, the same each time.
        program_factory: Makes a legal program with the facts that the pass requires, the same each time.
        context: What the pass is given.
    """
    check_text_round_trip(pass_factory)
    check_declaration(pass_factory, program_factory, context)
    check_requirements(pass_factory, program_factory, context)
    check_determinism(pass_factory, program_factory, context)
    check_second_run_changes_nothing(pass_factory, program_factory, context)
    check_names_are_stable(pass_factory, program_factory, context)


def check_text_round_trip(pass_factory: PassFactory) -> None:
    """The pass's text reads back as an equal pass, and its name is kebab-case.

    Args:
        pass_factory: Makes the pass.

    Raises:
        AssertionError: It does not.
    """
    pass_ = pass_factory()
    if pass_.name != pass_.name.lower() or not pass_.name.replace("-", "").isalnum():
        raise AssertionError(f"name {pass_.name!r} is not kebab-case")
    text = pipeline_text([pass_])
    read = parse_pipeline(text, {pass_.name: lambda: type(pass_)})
    if read != (pass_,):
        raise AssertionError(f"{text!r} reads back as {read}, not as {pass_!r}")


def check_declaration(pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext) -> None:
    """The pass runs under the manager: an analysis leaves the graph alone, what is promised is on every node.

    Args:
        pass_factory: Makes the pass.
        program_factory: Makes the program.
        context: What the pass is given.

    Raises:
        AssertionError: It breaks its declaration.
    """
    pass_ = pass_factory()
    try:
        PassManager([pass_]).run(program_factory(), context)
    except PassError as error:
        raise AssertionError(f"{pass_} breaks its declaration: {error}") from error


def check_requirements(pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext) -> None:
    """Each required fact is needed for a run, and no other fact influences it.

    Args:
        pass_factory: Makes the pass.
        program_factory: Makes the program.
        context: What the pass is given.

    Raises:
        AssertionError: A run without a required fact was accepted, or a fact that is not required changes the result.
    """
    pass_ = pass_factory()
    for kind in pass_.required():
        program = program_factory()
        _keep_only(program, pass_.required() - {kind})
        try:
            PassManager([pass_]).run(program, context)
        except PassError:
            continue
        raise AssertionError(f"{pass_} requires {kind.key!r} but was accepted without it")
    full, bare = program_factory(), program_factory()
    _keep_only(bare, pass_.required())
    for program in (full, bare):
        PassManager([pass_]).run(program, context)
    if _provided(full, pass_) != _provided(bare, pass_) or graph_digest(full.graph) != graph_digest(bare.graph):
        raise AssertionError(f"the result of {pass_} depends on a fact that it does not require")


def check_determinism(pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext) -> None:
    """Two runs on equal programs give equal programs.

    Args:
        pass_factory: Makes the pass.
        program_factory: Makes the program.
        context: What the pass is given.

    Raises:
        AssertionError: The results differ.
    """
    first, second = program_factory(), program_factory()
    for program in (first, second):
        PassManager([pass_factory()]).run(program, context)
    texts = print_graph(first.graph), print_graph(second.graph)
    _require_equal(texts[0], texts[1], f"two runs of {pass_factory()} on equal programs differ")


def check_second_run_changes_nothing(
    pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext
) -> None:
    """Run again on its own result, the pass changes neither the graph nor its facts.

    A pass whose requirements its own first run makes stale cannot run again, and is not asked to.

    Args:
        pass_factory: Makes the pass.
        program_factory: Makes the program.
        context: What the pass is given.

    Raises:
        AssertionError: The second run changes something.
    """
    program = program_factory()
    PassManager([pass_factory()]).run(program, context)
    if not pass_factory().required() <= {type(fact) for fact in facts_of(program.graph).values()}:
        return
    once = print_graph(program.graph)
    PassManager([pass_factory()]).run(program, context)
    _require_equal(once, print_graph(program.graph), f"a second run of {pass_factory()} changes the program")


def check_names_are_stable(pass_factory: PassFactory, program_factory: ProgramFactory, context: PassContext) -> None:
    """A node's name goes on to mean the same operator; a name is never passed on to another node.

    Args:
        pass_factory: Makes the pass.
        program_factory: Makes the program.
        context: What the pass is given.

    Raises:
        AssertionError: A name now belongs to another operator.
    """
    program = program_factory()
    before = {node.name: node.op_type for node in program.graph.graph}
    PassManager([pass_factory()]).run(program, context)
    for node in program.graph.graph:
        if before.get(node.name, node.op_type) != node.op_type:
            raise AssertionError(f"node {node.name!r} was {before[node.name]} and is now {node.op_type}")


def _keep_only(program: Program, kinds: AnnotationSet) -> None:
    keys = {kind.key for kind in kinds}
    for node in program.graph.graph:
        for key in [key for key, value in node.meta.items() if isinstance(value, Annotation) and key not in keys]:
            del node.meta[key]


def _provided(program: Program, pass_: Pass) -> dict[tuple[str, str], Annotation]:
    return {place: fact for place, fact in facts_of(program.graph).items() if type(fact) in pass_.provides}


def _require_equal(first: str, second: str, message: str) -> None:
    if first == second:
        return
    pairs = zip(first.splitlines(), second.splitlines(), strict=False)
    difference = next((pair for pair in pairs if pair[0] != pair[1]), ("(one is longer)", ""))
    raise AssertionError(f"{message}:\n  - {difference[0]}\n  + {difference[1]}")
