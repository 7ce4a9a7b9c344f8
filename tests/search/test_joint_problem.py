"""What a joint problem refuses, and how its totals add up."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.quantization.scheme import Widths
from codesign.search.joint_problem import JointEdge, JointOption, JointProblem, Load

W4, W8 = Widths(4, 8), Widths(8, 8)


def _option(widths: Widths = W8, place: str = "d", loss: float = 0.0, **metrics: float) -> JointOption:
    return JointOption(widths, place, loss, metrics or {"latency_s": 1.0, "peak_memory_bytes": 5.0})


PAIR = ((_option(), _option(W4, loss=1.0)), (_option(), _option(place="e")))
ZEROS = np.zeros((2, 2))


def test_totals_join_options_edges_constants_and_loads() -> None:
    table = np.asarray([[0.0, 0.25], [0.5, math.inf]])
    problem = JointProblem(
        ("a", "b"),
        PAIR,
        (JointEdge(0, 1, {"latency_s": table}), JointEdge(0, 1, {"latency_s": table})),
        {"latency_s": 2.0},
        loads=(
            Load(
                ("peak_memory_bytes", "peak_memory_bytes@e"), "b on e", {1: np.asarray([0.0, 6.0])}, {(0, 1): ZEROS + 1}
            ),
            Load(("period_s",), "d", {0: np.asarray([1.0, 2.0])}, constant=3.0),
        ),
    )
    assert problem.metrics == ("latency_s", "peak_memory_bytes", "peak_memory_bytes@e", "period_s")
    assert problem.totals_of((0, 1)) == {
        "latency_s": 4.5,
        "peak_memory_bytes": 7.0,
        "peak_memory_bytes@e": 7.0,
        "period_s": 4.0,
    }
    assert problem.totals_of((1, 1))["latency_s"] == math.inf
    assert (problem.loss_of((1, 0)), problem.picks_of({"a": (W4, "d"), "b": (W8, "e")})) == (1.0, (1, 1))
    with pytest.raises(InputError, match="node 'b': got w4a8 on 'd', it offers w8a8 on 'd', w8a8 on 'e'"):
        problem.picks_of({"a": (W4, "d"), "b": (W4, "d")})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JointProblem((), ()), "nodes: there are none"),
        (lambda: JointProblem(("a", "a"), PAIR), "node 'a' occurs twice"),
        (lambda: JointProblem(("a",), PAIR), "got 2 lists for 1 nodes"),
        (lambda: JointProblem(("a",), ((),)), "node 'a': no options"),
        (lambda: JointProblem(("a",), ((_option(), _option()),)), "two options have the same widths and place"),
        (lambda: JointProblem(("a",), ((_option(loss=math.nan),),)), "w8a8 on 'd': loss increase: got nan"),
        (lambda: JointProblem(("a",), ((_option(), _option(W4, x=1.0)),)), "is not on every option"),
        (lambda: JointProblem(("a",), ((_option(latency_s=-1.0),),)), "latency_s: got -1.0"),
        (lambda: JointProblem(("a", "b"), PAIR, ties=(("a", "c"),)), "node 'c' is tied but is not in the problem"),
        (lambda: JointProblem(("a", "b"), PAIR, (JointEdge(1, 0, {}),)), "edge 1 -> 0: allowed are two nodes"),
        (lambda: JointProblem(("a", "b"), PAIR, (JointEdge(0, 1, {"latency_s": ZEROS[:1]}),)), "got shape"),
        (lambda: JointProblem(("a", "b"), PAIR, (JointEdge(0, 1, {"x_s": ZEROS - 1}),)), "x_s: got -1.0"),
        (lambda: JointProblem(("a", "b"), PAIR, (JointEdge(0, 1, {"peak_memory_bytes": ZEROS}),)), "give loads"),
        (lambda: JointProblem(("a", "b"), PAIR, constant={"latency_s": math.inf}), "constant: latency_s: got inf"),
        (lambda: JointProblem(("a", "b"), PAIR, loads=(Load(("latency_s",), "l", {}),)), "give the load another name"),
        (lambda: JointProblem(("a", "b"), PAIR, loads=(Load(("m",), "l", {0: ZEROS[0, :1]}),)), "node 0: got shape"),
    ],
)
def test_problems_without_sense_are_refused(make: Callable[[], JointProblem], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
