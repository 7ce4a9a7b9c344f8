"""Problems: groups of tied layers, totals, and what is refused."""

import math

import pytest

from codesign.errors import InputError
from codesign.search.problem import AllocationProblem, LayerOption, LayerOptions, uniform_choices


def _layer(name: str, *bits: int, loss: float = 1.0, latency_s: float = 1.0) -> LayerOptions:
    return LayerOptions(
        name,
        tuple(LayerOption(b, loss / b, {"latency_s": latency_s * b, "peak_memory_bytes": 10.0 * b}) for b in bits),
    )


def test_ties_join_groups_and_keep_common_bits() -> None:
    layers = (_layer("a", 2, 4, 8), _layer("b", 8), _layer("c", 4, 8, 2), _layer("d", 4, 8))
    problem = AllocationProblem(layers, ties=(("a", "c"), ("c", "d")))
    assert [(group.layers, group.bits) for group in problem.groups] == [((0, 2, 3), (4, 8)), ((1,), (8,))]
    assert problem.choice_of([4, 8]) == (("a", 4), ("b", 8), ("c", 4), ("d", 4))
    assert problem.respects_ties(problem.choice_of([4, 8]))
    assert not problem.respects_ties((("a", 2), ("b", 8), ("c", 2), ("d", 2)))
    assert not problem.respects_ties((("a", 4), ("b", 8), ("c", 8), ("d", 4)))


def test_totals_add_up_and_peaks_are_maxima() -> None:
    problem = AllocationProblem(
        (_layer("a", 4, 8), _layer("b", 4, 8, latency_s=0.1)), constant={"latency_s": 0.5, "peak_memory_bytes": 60.0}
    )
    totals = problem.totals_of((("a", 4), ("b", 8)))
    assert totals == {"latency_s": math.fsum([0.5, 4.0, 0.8]), "peak_memory_bytes": 80.0}
    assert problem.totals_of((("a", 4), ("b", 4)))["peak_memory_bytes"] == 60.0
    assert problem.loss_of((("a", 4), ("b", 8))) == 0.375
    assert problem.fits((("a", 4), ("b", 8)), {"latency_s": totals["latency_s"]})
    assert not problem.fits((("a", 4), ("b", 8)), {"latency_s": math.nextafter(totals["latency_s"], 0)})


def test_uniform_choices_leave_fixed_layers_alone() -> None:
    layers = (_layer("first", 2, 4, 8), _layer("b", 2, 4, 8), _layer("c", 4, 8))
    problem = AllocationProblem(layers, fixed={"first": 8})
    assert uniform_choices(problem) == (
        (("first", 8), ("b", 4), ("c", 4)),
        (("first", 8), ("b", 8), ("c", 8)),
    )
    assert uniform_choices(AllocationProblem((_layer("a", 4),))) == ((("a", 4),),)


@pytest.mark.parametrize(
    ("layers", "ties", "fixed", "message"),
    [
        ((), (), {}, "there are none"),
        ((_layer("a", 4), _layer("a", 8)), (), {}, "layer 'a' occurs twice"),
        ((LayerOptions("a", ()),), (), {}, "no options"),
        ((_layer("a", 4, 4),), (), {}, "two options have the same bits"),
        ((_layer("a", 4), _layer("conv2", 8)), (("a", "conv1"),), {}, "did you mean 'conv2'"),
        ((_layer("a", 4), _layer("b", 8)), (("a", "b"),), {}, "no common bits: 'a' allows 4; 'b' allows 8"),
        ((_layer("a", 4, 8),), (), {"a": 2}, "no common bits: 'a' allows nothing"),
        ((_layer("a", 4, 8), _layer("b", 4, 8)), (("a", "b"),), {"a": 4, "b": 8}, "no common bits"),
        ((_layer("a", 4, loss=math.nan),), (), {}, "loss_increase: got nan"),
        ((_layer("a", 4, latency_s=math.inf),), (), {}, "latency_s: got inf"),
        ((_layer("a", 4, latency_s=-1.0),), (), {}, "latency_s: got -4.0"),
        ((_layer("a", 4), LayerOptions("b", (LayerOption(4, 1.0, {"bops": 1.0}),))), (), {}, "'bops' is not on every"),
    ],
)
def test_problems_without_sense_are_refused(
    layers: tuple[LayerOptions, ...], ties: tuple[tuple[str, ...], ...], fixed: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        AllocationProblem(layers, ties, fixed)


def test_a_constant_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="constant: latency_s: got nan"):
        AllocationProblem((_layer("a", 4),), constant={"latency_s": math.nan})


@pytest.mark.parametrize("choice", [(("a", 4),), (("a", 4), ("b", 3))])
def test_choices_outside_the_problem_are_refused(choice: tuple[tuple[str, int], ...]) -> None:
    problem = AllocationProblem((_layer("a", 4, 8), _layer("b", 4, 8)))
    with pytest.raises(InputError, match=r"layer 'b'.*it offers 4, 8"):
        problem.totals_of(choice)
