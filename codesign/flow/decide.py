"""The search step: which plans to build, and which of them is the choice."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from codesign.cost.base import price
from codesign.files import digest_of, write_bytes
from codesign.flow.build import BASELINE
from codesign.flow.context import RunContext
from codesign.flow.prepare import GRAPH, versions
from codesign.ir.program import Program, name_of
from codesign.plan.facts import GraphFacts
from codesign.plan.plan import Cost, Plan
from codesign.quantization.scheme import BitWidths
from codesign.quantization.simulation import SimulatedNetwork
from codesign.report.contents import BudgetChoice, Estimate
from codesign.run_file import BudgetSection
from codesign.search.engine import AllocationStrategy, drive, recall_or_measure
from codesign.search.from_facts import plan_of_choice, problem_from_facts, weight_bytes_limit
from codesign.search.journal import FileJournal
from codesign.search.objective import Evaluation
from codesign.search.sweep import budgets_between, sweep
from codesign.training.evaluation import sample_kl_divergence

SEARCH = "search.json"
JOURNAL = "journal.jsonl"
"""Every plan that was measured."""


@dataclass(frozen=True)
class Proposal:
    """A network to build.

    Attributes:
        plan: Its widths; None for the network in floating point.
        roles: Why it is built.
        cost: What the cost model expects; None for the network in floating point.
        predicted_loss_nats: Sum of sensitivities and of the loss of rounding activations.
        measured_loss: KL divergence of its outputs on search data.
    """

    plan: Plan | None
    roles: tuple[str, ...]
    cost: Cost | None = None
    predicted_loss_nats: float | None = None
    measured_loss: Estimate | None = None

    @property
    def identity(self) -> str:
        """Digest of the plan, or `baseline`."""
        return BASELINE if self.plan is None else self.plan.digest


@dataclass(frozen=True)
class Decision:
    """What the search found.

    Attributes:
        proposals: Networks to build, the one in floating point first.
        choices: One for each budget.
    """

    proposals: tuple[Proposal, ...]
    choices: tuple[BudgetChoice, ...]


_DECISION = TypeAdapter(Decision)


def decide(context: RunContext, program: Program, facts: GraphFacts) -> Decision:
    """Chooses plans under every budget; step `search`.

    Args:
        context: The run.
        program: The annotated network.
        facts: Its facts.

    Returns:
        Plans to build.

    Raises:
        InfeasibleBudgetError: A budget cannot be kept; what can be reached is named.
    """
    run, result = context.run, context.folder / SEARCH
    key = digest_of(
        context.folder / GRAPH,
        context.data.tuning_digest,
        run.search.model_dump(mode="json"),
        run.quantization.model_dump(mode="json"),
        context.profile.model_dump(mode="json"),
        context.target.budget.model_dump(mode="json"),
        run.seed,
        versions(),
    )

    def compute() -> list[Path]:
        decision = _Search(context, program, facts).run()
        write_bytes(result, _DECISION.dump_json(decision, indent=1))
        return [result]

    context.store.step("search", key, compute)
    return _DECISION.validate_json(result.read_bytes())


class PlanMeter:
    """Measures whole plans: the KL divergence of their outputs from the float network's, on search data.

    Attributes:
        subject: Digest of all that a measurement depends on beside the plan.
    """

    def __init__(self, context: RunContext, program: Program, facts: GraphFacts) -> None:
        self._context, self._facts = context, facts
        self._images = context.data.search_images
        correction = context.run.quantization.bias_correction
        self._network = SimulatedNetwork(program.graph, correction)
        self._reference = self._network.logits(self._images, None, quantize_activations=False)
        profile = context.profile.model_dump(mode="json")  # evaluations hold costs
        self.subject = digest_of(context.folder / GRAPH, context.data.tuning_digest, correction, profile, versions())

    def measure(self, plan: Plan) -> Evaluation:
        """Runs a plan.

        Args:
            plan: The plan.

        Returns:
            Its cost by the cost model and its measured loss, sample by sample.
        """
        losses = self._losses(plan.bits_of)
        cost = price(self._context.cost_model, self._facts, plan)
        return Evaluation(plan, cost, float(losses.mean()), None, tuple(losses.tolist()))

    def activation_loss_nats(self) -> float:
        """Loss of rounding activations to 8 bits, with all weights in floating point."""
        return float(self._losses({}).mean())

    def _losses(self, bits: Mapping[str, BitWidths]) -> NDArray[np.float64]:
        return sample_kl_divergence(self._reference, self._network.logits(self._images, bits))


class _Search:
    """Gathers the plans of a run, each once with all of its roles."""

    def __init__(self, context: RunContext, program: Program, facts: GraphFacts) -> None:
        self._context, self._facts = context, facts
        self._meter = PlanMeter(context, program, facts)
        self._journal = FileJournal(context.folder / JOURNAL, context.progress)
        self._activation_loss = self._meter.activation_loss_nats()
        self._found: dict[str, Evaluation] = {}
        self._roles: dict[str, list[str]] = {}
        quantization = context.run.quantization
        self._widths = [BitWidths(bits, quantization.activation_bits) for bits in sorted(quantization.weight_bits)]
        ties = (*quantization.ties, *shared_weights(program))
        self._problem = problem_from_facts(facts, context.cost_model, self._widths, ties)

    def run(self) -> Decision:
        """Uniform plans, the sweep, and one plan for each budget."""
        section = self._context.run.search
        for widths in reversed(self._widths if section.uniform else []):
            plan = Plan(self._name, tuple((node.name, widths) for node in self._facts.weighted))
            self._keep(self._measured(plan), f"uniform {widths.weight} bits")
        choices = tuple(self._choose(budget) for budget in section.budgets)
        if section.sweep is not None:
            self._sweep(section.sweep.metric, section.sweep.points)
        return Decision((Proposal(None, ("float32 baseline",)), *map(self._proposal, self._found)), choices)

    @property
    def _name(self) -> str:
        return self._context.run.name

    def _choose(self, budget: BudgetSection) -> BudgetChoice:
        context = self._context
        evaluations = context.run.search.evaluations
        words = budget_in_words(budget)
        strategy = AllocationStrategy(self._problem, self._limits(budget), self._name, evaluations)
        label = f"Measuring plans under {words}"
        drive(strategy, self._meter.measure, self._journal, self._meter.subject, context.progress, evaluations, label)
        proposal = self._keep(self._measured(strategy.proposal), f"additive optimum for {words}")
        chosen = self._keep(strategy.best, f"chosen for {words}")
        return BudgetChoice(words, chosen, proposal, strategy.allocation.bound, strategy.allocation.gap, strategy.told)

    def _measured(self, plan: Plan) -> Evaluation:
        return recall_or_measure(plan, self._meter.measure, self._journal, self._meter.subject)

    def _sweep(self, metric: str, points: int) -> None:
        limits = self._limits(None)
        budgets = budgets_between(self._problem, metric, points, limits)
        for allocation in sweep(self._problem, metric, budgets, limits):
            plan = plan_of_choice(allocation.choice, self._name)
            self._keep(self._measured(plan), f"sweep of {metric}")

    def _limits(self, budget: BudgetSection | None) -> dict[str, float]:
        """What a plan must keep: the budget and what the device itself can hold."""
        limits = {k: v for k, v in self._context.target.budget.model_dump().items() if v is not None}
        if budget is None:
            return limits
        wanted = {k: v for k, v in budget.model_dump().items() if v is not None}
        average = wanted.pop("average_bits", None)
        if average is not None:
            allowed = float(weight_bytes_limit(self._facts, average))
            wanted["weight_bytes"] = min(allowed, wanted.get("weight_bytes", allowed))
        return {k: min(v, limits.get(k, v)) for k, v in {**limits, **wanted}.items()}

    def _keep(self, evaluation: Evaluation, role: str) -> str:
        digest = evaluation.plan.digest
        self._found.setdefault(digest, evaluation)
        roles = self._roles.setdefault(digest, [])
        if role not in roles:
            roles.append(role)
        return digest

    def _proposal(self, digest: str) -> Proposal:
        evaluation = self._found[digest]
        sample = np.asarray(evaluation.sample_losses_nats)
        error = float(sample.std(ddof=1) / np.sqrt(len(sample)))
        by_name = self._facts.by_name
        predicted = self._activation_loss
        predicted += sum(by_name[name].loss_increase_nats[bits] for name, bits in evaluation.plan.bits)
        measured = Estimate(evaluation.loss_increase_nats, error)
        return Proposal(evaluation.plan, tuple(self._roles[digest]), evaluation.cost, predicted, measured)


def shared_weights(program: Program) -> tuple[tuple[str, ...], ...]:
    """Groups of nodes that read the same weight, and so must have the same widths.

    Args:
        program: The network.

    Returns:
        Groups of at least two node names.
    """
    readers: dict[str, list[str]] = {}
    for node in program.weighted_nodes:
        weight = node.inputs[1]
        assert weight is not None
        readers.setdefault(str(weight.name), []).append(name_of(node))
    return tuple(tuple(names) for names in readers.values() if len(names) > 1)


def budget_in_words(budget: BudgetSection) -> str:
    """A budget as people read it.

    Args:
        budget: From the run file.

    Returns:
        Such as `average_bits = 3`.
    """
    limits = budget.model_dump(exclude_none=True)
    return ", ".join(f"{key} = {value:g}" for key, value in limits.items())
