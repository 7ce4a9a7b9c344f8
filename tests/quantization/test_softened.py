import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.errors import InputError
from codesign.quantization.divergence import Estimate
from codesign.quantization.softened import Movement, check_temperature, predicted_divergences


def _movement(plain: float, softened: float, changed: float = 0.0) -> Movement:
    return Movement(Estimate(plain, plain / 10), Estimate(softened, softened / 20), changed)


def test_softened_outputs_rank_where_answers_stay_and_sums_are_those_of_the_plain_divergence() -> None:
    movements = {
        ("a", 2): _movement(0.6, 3.0, changed=0.02),
        ("b", 2): _movement(0.3, 3.0, changed=0.03),
        ("c", 2): _movement(0.2, 1.0, changed=0.0),
        ("a", 4): _movement(0.01, 0.3),
        ("b", 4): _movement(0.02, 0.1, changed=0.5),
        ("c", 4): _movement(0.03, 0.2),
    }
    found = predicted_divergences(movements)
    assert [found[node, 2] for node in "abc"] == [movements[node, 2].plain for node in "abc"]
    assert [found[node, 4].mean for node in "abc"] == pytest.approx([0.03, 0.01, 0.02])  # times 0.06 / 0.6
    assert [found[node, 4].standard_error for node in "abc"] == pytest.approx([0.0015, 0.0005, 0.001])


def test_nothing_moves_and_nothing_measured() -> None:
    assert predicted_divergences({}) == {}
    assert predicted_divergences({("a", 2): _movement(0.0, 0.0)}) == {("a", 2): Estimate(0.0, 0.0)}
    still = predicted_divergences({("a", 2): _movement(0.0, 0.0, changed=1.0)})
    assert still == {("a", 2): Estimate(0.0, 0.0)}


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_at_temperature_one_measured_values_stay(values: list[tuple[float, float]]) -> None:
    movements = {
        (str(i), bits): _movement(v, v) for i, pair in enumerate(values) for bits, v in zip((2, 8), pair, strict=True)
    }
    for key, estimate in predicted_divergences(movements).items():
        assert estimate.mean == pytest.approx(movements[key].plain.mean)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_that_are_no_positive_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match=r"pass a: temperature is .*, allowed are numbers above 0"):
        check_temperature("a", wrong)
