"""The multiple-choice problem: one option for every layer, so that a sum of losses is least under limits."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from codesign.errors import InputError, closest
from codesign.quantization.scheme import BitWidths

Bits = BitWidths | int
"""What an option is called: a pair of widths, or a bare width in a table given directly."""
Choice = tuple[tuple[str, Bits], ...]
"""Layer name and the bits of its chosen option, in the order of the layers."""

PEAK_METRICS = frozenset({"peak_memory_bytes"})
"""Metrics whose total is the maximum over layers; every other metric adds up."""


@dataclass(frozen=True)
class LayerOption:
    """One way to run a layer.

    Attributes:
        bits: Names the option among those of its layer.
        loss_increase: Growth of the task loss if this layer alone takes it, in nats (or in a given table's own unit).
        metrics: What it costs, by metric; not negative.
    """

    bits: Bits
    loss_increase: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class LayerOptions:
    """A layer and its options.

    Attributes:
        name: Layer name.
        options: At least one; their bits differ.
    """

    name: str
    options: tuple[LayerOption, ...]

    @cached_property
    def by_bits(self) -> Mapping[Bits, LayerOption]:
        """Options by their bits."""
        return {option.bits: option for option in self.options}


@dataclass(frozen=True)
class Group:
    """Layers that take the same bits; most have one layer.

    Attributes:
        layers: Positions of its layers in the problem.
        bits: What all of them offer, in ascending order.
    """

    layers: tuple[int, ...]
    bits: tuple[Bits, ...]


@dataclass(frozen=True)
class AllocationProblem:
    """Minimise the sum over layers of `loss_increase` under limits on the totals of metrics.

    Attributes:
        layers: Layers with their options; all options have the same metrics.
        ties: Names of layers that must take the same bits.
        fixed: Layers whose bits are given.
        constant: What the rest of the network costs, by metric; joins the totals.
    """

    layers: tuple[LayerOptions, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    fixed: Mapping[str, Bits] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InputError("layers: there are none; give at least one layer with options")
        _check_layers(self.layers, self.metrics)
        names = {layer.name for layer in self.layers}
        for name in (*(n for tie in self.ties for n in tie), *self.fixed):
            if name not in names:
                raise InputError(f"layer {name!r} is tied or fixed but is not in the problem{closest(name, names)}")
        for metric, value in self.constant.items():
            _check_cost(f"constant: {metric}", value)
        _ = self.groups  # refuses ties without common bits

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order of the first option."""
        return tuple(self.layers[0].options[0].metrics) if self.layers[0].options else ()

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Layers joined by ties, in the order of their first layers."""
        position = {layer.name: i for i, layer in enumerate(self.layers)}
        leader = list(range(len(self.layers)))
        for tie in self.ties:
            merged = {leader[position[name]] for name in tie}
            leader = [min(merged) if old in merged else old for old in leader]
        heads = sorted(set(leader))
        return tuple(self._group(tuple(i for i, lead in enumerate(leader) if lead == head)) for head in heads)

    def _group(self, members: tuple[int, ...]) -> Group:
        offers = [self._allowed(self.layers[i]) for i in members]
        common = set(offers[0]).intersection(*offers)
        if not common:
            shown = "; ".join(
                f"{self.layers[i].name!r} allows {', '.join(map(str, offer)) or 'nothing'}"
                for i, offer in zip(members, offers, strict=True)
            )
            raise InputError(f"no common bits: {shown}; give tied and fixed layers an option with the same bits")
        return Group(members, tuple(sorted(common, key=order_of_bits)))

    def _allowed(self, layer: LayerOptions) -> tuple[Bits, ...]:
        return tuple(bits for bits in layer.by_bits if self.fixed.get(layer.name, bits) == bits)

    def choice_of(self, picks: Sequence[Bits]) -> Choice:
        """Spells out one pick a group as one a layer.

        Args:
            picks: Bits for each of `groups`.

        Returns:
            The choice.
        """
        bits_of = {i: bits for group, bits in zip(self.groups, picks, strict=True) for i in group.layers}
        return tuple((layer.name, bits_of[i]) for i, layer in enumerate(self.layers))

    def options_of(self, choice: Choice) -> tuple[LayerOption, ...]:
        """Looks a choice up.

        Args:
            choice: One option a layer.

        Returns:
            The chosen options, in the order of the layers.

        Raises:
            InputError: The choice misses a layer or names an option that is not offered.
        """
        bits_of = dict(choice)
        found = []
        for layer in self.layers:
            option = layer.by_bits.get(bits_of[layer.name]) if layer.name in bits_of else None
            if option is None:
                raise InputError(
                    f"layer {layer.name!r}: got {bits_of.get(layer.name)}, it offers "
                    f"{', '.join(map(str, layer.by_bits))}; choose one of these"
                )
            found.append(option)
        return tuple(found)

    def loss_of(self, choice: Choice) -> float:
        """The sum of losses, correctly rounded.

        Args:
            choice: One option a layer.

        Returns:
            The additive model's loss increase.
        """
        return math.fsum(option.loss_increase for option in self.options_of(choice))

    def totals_of(self, choice: Choice) -> dict[str, float]:
        """What a choice costs; sums are correctly rounded.

        Args:
            choice: One option a layer.

        Returns:
            Totals by metric, with the constant part.
        """
        options = self.options_of(choice)
        return {
            metric: total(metric, [self.constant.get(metric, 0.0), *(option.metrics[metric] for option in options)])
            for metric in self.metrics
        }

    def fits(self, choice: Choice, limits: Mapping[str, float]) -> bool:
        """Whether a choice keeps limits, without tolerance.

        Args:
            choice: One option a layer.
            limits: Largest allowed total by metric.

        Returns:
            True if every limited total is at most its limit.
        """
        totals = self.totals_of(choice)
        return all(totals[metric] <= limit for metric, limit in limits.items())

    def respects_ties(self, choice: Choice) -> bool:
        """Whether tied layers have the same bits and fixed layers the given ones.

        Args:
            choice: One option a layer.

        Returns:
            True if so.
        """
        bits = [b for _, b in choice]
        return all(
            len({bits[i] for i in group.layers}) == 1 and bits[group.layers[0]] in group.bits for group in self.groups
        )

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Refuses limits that make no sense here.

        Args:
            limits: Largest allowed total by metric.
        """
        refuse_senseless_limits(limits, self.metrics)


def refuse_senseless_limits(limits: Mapping[str, float], metrics: Sequence[str]) -> None:
    """Refuses limits that make no sense for a problem.

    Args:
        limits: Largest allowed total by metric.
        metrics: Those of the problem.

    Raises:
        InputError: A metric is unknown, or a limit is NaN or negative.
    """
    for metric, limit in limits.items():
        if metric not in metrics:
            raise InputError(f"limit on {metric!r}: no such metric{closest(metric, metrics)}")
        if math.isnan(limit) or limit < 0:
            raise InputError(f"limit on {metric!r}: got {limit}, allowed are numbers from 0 up; correct it")


def total(metric: str, values: Sequence[float]) -> float:
    """Joins the parts of a metric: the maximum for peaks, else the correctly rounded sum.

    Args:
        metric: Its name.
        values: Its parts.

    Returns:
        The total.
    """
    return max(values) if metric in PEAK_METRICS else math.fsum(values)


def order_of_bits(bits: Bits) -> tuple[int, int]:
    """Sort key of bits: by the weight's width, then the activation's.

    Args:
        bits: Widths.

    Returns:
        The key.
    """
    return (bits.weight, bits.activation) if isinstance(bits, BitWidths) else (bits, 0)


def uniform_choices(problem: AllocationProblem) -> tuple[Choice, ...]:
    """Choices with the same bits on every layer whose bits are free; fixed layers (and those tied to them) keep theirs.

    Args:
        problem: The layers.

    Returns:
        One choice for each of the bits that all free groups offer, in ascending order.
    """
    free = [group for group in problem.groups if len(group.bits) > 1]
    if not free:
        return (problem.choice_of([group.bits[0] for group in problem.groups]),)
    common = set.intersection(*(set(group.bits) for group in free))
    return tuple(
        problem.choice_of([bits if len(group.bits) > 1 else group.bits[0] for group in problem.groups])
        for bits in sorted(common, key=order_of_bits)
    )


def _check_layers(layers: Sequence[LayerOptions], metrics: Sequence[str]) -> None:
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            raise InputError(f"layer {layer.name!r} occurs twice; give every layer its own name")
        seen.add(layer.name)
        if not layer.options:
            raise InputError(f"layer {layer.name!r}: no options; give it at least one")
        if len(layer.by_bits) != len(layer.options):
            raise InputError(f"layer {layer.name!r}: two options have the same bits; keep one of them")
        for option in layer.options:
            where = f"layer {layer.name!r}, {option.bits} bits"
            if not math.isfinite(option.loss_increase):
                raise InputError(f"{where}: loss_increase: got {option.loss_increase}, not a finite number; correct it")
            if set(option.metrics) != set(metrics):
                odd = sorted(set(option.metrics) ^ set(metrics))
                raise InputError(
                    f"{where}: metric {odd[0]!r} is not on every option; give all options the same metrics"
                )
            for metric, value in option.metrics.items():
                _check_cost(f"{where}: {metric}", value)


def _check_cost(where: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: got {value}, allowed are finite numbers from 0 up; correct it")
