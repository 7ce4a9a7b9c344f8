"""Widths and places of all nodes as one problem: options of nodes, what pairs of options cost, and limits on totals.

    minimise    sum_v loss_v(b_v)
    subject to  sum_v m_v(b_v, p_v) + sum_(u,v) m_uv(b_u, p_u, b_v, p_v) <= limit     for each additive metric m
                max over loads of such sums <= limit                                  for each metric that is a maximum

A load is what one device holds in one step of the schedule, or how long one device of a pipeline is busy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError, closest
from codesign.quantization.scheme import Widths
from codesign.search.problem import PEAK_METRICS, refuse_senseless_limits, total

SMALL_TABLE = 20_000
"""Combinations of options up to which a load of few nodes is tabulated."""
Array = NDArray[np.float64]
Method = Literal["label-setting", "integer-programme"]


@dataclass(frozen=True)
class JointOption:
    """One way to run a node.

    Attributes:
        widths: Of its weight and of what it reads.
        place: The device, or how the node is shared out among equal ones.
        loss_increase_nats: Growth of the task loss if this node alone takes these widths.
        metrics: What it costs by itself, by metric; from 0 up.
    """

    widths: Widths
    place: str
    loss_increase_nats: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class JointEdge:
    """What two options cost together: a value that crosses between places, or that changes its width.

    Attributes:
        producer: Position of a node.
        consumer: Position of a later one.
        metrics: `[options of the producer, options of the consumer]` by metric, from 0 up; infinite where the two
            options exclude each other.
    """

    producer: int
    consumer: int
    metrics: Mapping[str, Array]


@dataclass(frozen=True)
class Load:
    """One of the sums whose largest is a metric.

    Attributes:
        metrics: The metrics in which it counts, such as `peak_memory_bytes` or `period_s`.
        name: Which sum, such as `conv3 on npu`.
        nodes: What each option of a node adds, by the node's position; from 0 up.
        edges: What pairs of options add, by the positions of two nodes, the earlier one first; from 0 up.
        constant: What is there whatever is chosen.
    """

    metrics: tuple[str, ...]
    name: str
    nodes: Mapping[int, Array]
    edges: Mapping[tuple[int, int], Array] = field(default_factory=dict)
    constant: float = 0.0


@dataclass(frozen=True)
class JointProblem:
    """Minimise the sum of `loss_increase_nats` under limits on totals.

    Attributes:
        names: Of the nodes, in the order in which they run.
        options: Of each node, at least one; all options have the same metrics.
        edges: Pairs of nodes with common costs; a pair may occur several times.
        constant: What the rest of the network costs, by metric; joins the totals.
        ties: Names of nodes that must take the same widths; their places may differ.
        loads: Sums whose largest is a metric of its own.
    """

    names: tuple[str, ...]
    options: tuple[tuple[JointOption, ...], ...]
    edges: tuple[JointEdge, ...] = ()
    constant: Mapping[str, float] = field(default_factory=dict)
    ties: tuple[tuple[str, ...], ...] = ()
    loads: tuple[Load, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("nodes: there are none; give at least one node with options")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"node {twice!r} occurs twice; give every node its own name")
        if len(self.options) != len(self.names):
            raise InputError(f"options: got {len(self.options)} lists for {len(self.names)} nodes; give one a node")
        self._check_options()
        for edge in self.edges:
            self._check_edge(edge)
        for load in self.loads:
            self._check_load(load)
        for name in (name for tie in self.ties for name in tie):
            if name not in self.position:
                raise InputError(f"node {name!r} is tied but is not in the problem{closest(name, self.names)}")
        for metric, value in self.constant.items():
            _check_costs(f"constant: {metric}", np.asarray(value), may_exclude=False)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Position of each node by its name."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics: those of the options, then those of edges and loads alone."""
        found = dict.fromkeys(self.options[0][0].metrics)
        for edge in self.edges:
            found |= dict.fromkeys(edge.metrics)
        return tuple(found | dict.fromkeys(metric for load in self.loads for metric in load.metrics))

    @cached_property
    def _load_metrics(self) -> frozenset[str]:
        return frozenset(metric for load in self.loads for metric in load.metrics)

    def nodes_of(self, load: Load) -> tuple[int, ...]:
        """Nodes that a load depends on.

        Args:
            load: One of the loads.

        Returns:
            Positions in ascending order.
        """
        return tuple(sorted({*load.nodes, *(v for pair in load.edges for v in pair)}))

    def is_small(self, load: Load) -> bool:
        """Whether a load depends on so few nodes that all its values are tabulated.

        Args:
            load: One of the loads.

        Returns:
            True if so.
        """
        return math.prod(len(self.options[v]) for v in self.nodes_of(load)) <= SMALL_TABLE

    def table_of(self, load: Load) -> tuple[tuple[int, ...], Array]:
        """All values of a load, as sums that may be wrong in the last digits.

        Args:
            load: One of the loads, a small one.

        Returns:
            Nodes, and `[options of each node]`.
        """
        if id(load) not in self._tables:
            nodes = self.nodes_of(load)
            sums = np.full([len(self.options[v]) for v in nodes], load.constant)
            terms = [*(((v,), values) for v, values in load.nodes.items()), *load.edges.items()]
            for where, table in terms:
                sums += table.reshape([len(self.options[v]) if v in where else 1 for v in nodes])
            self._tables[id(load)] = (nodes, sums)
        return self._tables[id(load)]

    @cached_property
    def _tables(self) -> dict[int, tuple[tuple[int, ...], Array]]:
        return {}

    def is_maximum(self, metric: str) -> bool:
        """Whether a metric is the largest of several sums.

        Args:
            metric: Its name.

        Returns:
            False for a metric that adds up.
        """
        return metric in PEAK_METRICS or metric in self._load_metrics

    def totals_of(self, picks: Sequence[int]) -> dict[str, float]:
        """What a choice costs; sums are correctly rounded.

        Args:
            picks: Position of the chosen option of each node.

        Returns:
            Totals by metric, with the constant part; infinite where two options exclude each other.
        """
        chosen = [offered[pick] for offered, pick in zip(self.options, picks, strict=True)]
        parts: dict[str, list[float]] = {metric: [self.constant.get(metric, 0.0)] for metric in self.metrics}
        for option in chosen:
            for metric, value in option.metrics.items():
                parts[metric].append(value)
        for edge in self.edges:
            for metric, table in edge.metrics.items():
                parts[metric].append(float(table[picks[edge.producer], picks[edge.consumer]]))
        for load in self.loads:
            amount = _load_of(load, picks)
            for metric in load.metrics:
                parts[metric].append(amount)
        return {
            metric: max(values) if self.is_maximum(metric) else total(metric, values)
            for metric, values in parts.items()
        }

    def loss_of(self, picks: Sequence[int]) -> float:
        """The sum of losses, correctly rounded.

        Args:
            picks: Position of the chosen option of each node.

        Returns:
            Nats.
        """
        return math.fsum(offered[pick].loss_increase_nats for offered, pick in zip(self.options, picks, strict=True))

    def respects_ties(self, picks: Sequence[int]) -> bool:
        """Whether tied nodes have the same widths.

        Args:
            picks: Position of the chosen option of each node.

        Returns:
            True if so.
        """
        widths = {name: offered[p].widths for name, offered, p in zip(self.names, self.options, picks, strict=True)}
        return all(len({widths[name] for name in tie}) == 1 for tie in self.ties)

    def picks_of(self, choice: Mapping[str, tuple[Widths, str]]) -> tuple[int, ...]:
        """Looks a choice up.

        Args:
            choice: Widths and place by node name.

        Returns:
            Position of the chosen option of each node.

        Raises:
            InputError: The choice misses a node or names an option that is not offered.
        """
        picks = []
        for name, offered in zip(self.names, self.options, strict=True):
            at = [i for i, option in enumerate(offered) if (option.widths, option.place) == choice.get(name)]
            if not at:
                got = "nothing" if name not in choice else "{} on {!r}".format(*choice[name])
                have = ", ".join(f"{option.widths} on {option.place!r}" for option in offered)
                raise InputError(f"node {name!r}: got {got}, it offers {have}; choose one of these")
            picks.append(at[0])
        return tuple(picks)

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Refuses limits that make no sense here.

        Args:
            limits: Largest allowed total by metric.
        """
        refuse_senseless_limits(limits, self.metrics)

    def _check_options(self) -> None:
        for name, offered in zip(self.names, self.options, strict=True):
            if not offered:
                raise InputError(f"node {name!r}: no options; give it at least one")
            if len({(option.widths, option.place) for option in offered}) < len(offered):
                raise InputError(f"node {name!r}: two options have the same widths and place; keep one of them")
            for option in offered:
                where = f"node {name!r}, {option.widths} on {option.place!r}"
                if not math.isfinite(option.loss_increase_nats):
                    raise InputError(f"{where}: loss increase: got {option.loss_increase_nats}, not a finite number")
                if option.metrics.keys() != self.options[0][0].metrics.keys():
                    odd = sorted(option.metrics.keys() ^ self.options[0][0].metrics.keys())
                    raise InputError(f"{where}: metric {odd[0]!r} is not on every option; give all the same metrics")
                for metric, value in option.metrics.items():
                    if not 0 <= value < math.inf:
                        _check_costs(f"{where}: {metric}", np.asarray(value), may_exclude=False)

    def _check_edge(self, edge: JointEdge) -> None:
        where = f"edge {edge.producer} -> {edge.consumer}"
        if not 0 <= edge.producer < edge.consumer < len(self.names):
            raise InputError(f"{where}: allowed are two nodes of 0 to {len(self.names) - 1}, the producer first")
        shape = (len(self.options[edge.producer]), len(self.options[edge.consumer]))
        for metric, table in edge.metrics.items():
            if metric in PEAK_METRICS:
                raise InputError(f"{where}: {metric} is a maximum and has no part on an edge; give loads instead")
            if table.shape != shape:
                raise InputError(f"{where}: {metric}: got shape {table.shape}, the options make {shape}")
            _check_costs(f"{where}: {metric}", table, may_exclude=True)

    def _check_load(self, load: Load) -> None:
        where = f"load {load.name!r} of {', '.join(load.metrics)}"
        if any(m not in PEAK_METRICS and m in self.options[0][0].metrics for m in load.metrics):
            raise InputError(f"{where}: options have a metric of this name that adds up; give the load another name")
        _check_costs(where, np.asarray(load.constant), may_exclude=False)
        for node, values in load.nodes.items():
            if values.shape != (len(self.options[node]),):
                raise InputError(
                    f"{where}: node {node}: got shape {values.shape} for {len(self.options[node])} options"
                )
            _check_costs(f"{where}: node {node}", values, may_exclude=False)
        for (u, v), table in load.edges.items():
            if not u < v or table.shape != (len(self.options[u]), len(self.options[v])):
                raise InputError(f"{where}: pair {u}, {v}: got shape {table.shape}, which is not that of their options")
            _check_costs(f"{where}: pair {u}, {v}", table, may_exclude=False)


@dataclass(frozen=True)
class JointAllocation:
    """A choice of one option a node.

    Attributes:
        choice: Node and its option, in the order in which they run.
        loss_increase_nats: Sum over nodes.
        metrics: Totals, with the constant part of the problem.
        bound: No choice that keeps the limits has a smaller loss, in nats.
        gap: (loss - bound) / |loss|; 0 for a proven optimum.
        status: `optimal`, or `time-limit` for the best that was found in time.
        method: How it was found.
        seconds: Time it took.
        picks: Position of the chosen option of each node.
    """

    choice: tuple[tuple[str, JointOption], ...]
    loss_increase_nats: float
    metrics: Mapping[str, float]
    bound: float
    gap: float
    status: Literal["optimal", "time-limit"]
    method: Method
    seconds: float
    picks: tuple[int, ...] = ()


def _load_of(load: Load, picks: Sequence[int]) -> float:
    own = [float(values[picks[node]]) for node, values in load.nodes.items()]
    return math.fsum([load.constant, *own, *(float(t[picks[u], picks[v]]) for (u, v), t in load.edges.items())])


def _check_costs(where: str, values: Array, may_exclude: bool) -> None:
    wrong = np.isnan(values) | (values < 0) | (np.isinf(values) & (not may_exclude))
    if wrong.any():
        got = float(values[wrong][0]) if values.ndim else float(values)
        raise InputError(f"{where}: got {got}, allowed are finite numbers from 0 up; correct it")
