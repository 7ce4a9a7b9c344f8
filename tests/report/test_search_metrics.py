import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.report.search_contents import JointSearch, RankAgreement
from codesign.report.search_metrics import choices_text, count_text, limits_text, metric_text, price_text
from codesign.report.search_point import ShadowPrice
from codesign.report.search_rows import agreement_text


@given(st.integers(0, 10**400))
def test_counts_of_any_size_keep_their_magnitude(count: int) -> None:
    text = count_text(count)
    if count < 10_000_000:
        assert int(text.replace(",", "")) == count
    else:
        mantissa, _, exponent = text.partition("e")
        least = int(mantissa.replace(".", "")) * 10 ** (int(exponent) - 1)
        assert least <= count < least + 10 ** (int(exponent) - 1)


def test_limits_and_prices_have_units() -> None:
    limits = {"latency_s": 2e-3, "weight_bytes": 2048.0, "third_party": 3.0}
    assert limits_text(limits) == "latency ≤ 2 ms, third_party ≤ 3, weights ≤ 2 KiB"
    assert limits_text({}) == "no limit"
    assert limits_text({"memory_bytes": 1024.0, "power_w": 2.5}) == "memory ≤ 1 KiB, power ≤ 2.5 W"
    assert metric_text("loss_nats", 0.25) == "0.25 nats"
    assert price_text(ShadowPrice("latency_s", 2e-3, "s", 50.0)) == "0.001"


def test_only_axes_with_a_choice_are_named(search: JointSearch) -> None:
    variant = search.targets[0].points[0].variant
    text = choices_text(search.space, variant)
    assert [part.partition("=")[0] for part in text.split()] == ["depth1", "width1", "squeeze", "pair_order"]
    single = dataclasses.replace(search.space, axes=search.space.axes[3:4])
    assert choices_text(single, variant) == "the only variant"


@pytest.mark.parametrize(
    ("agreement", "words"),
    [
        (RankAgreement(0.5, 4), "Kendall’s tau 0.50 over 4 points"),
        (RankAgreement(None, 2), "no Kendall’s tau: 2 point(s), at least three are needed"),
        (RankAgreement(None, 5), "no Kendall’s tau: all 5 points are equal on one side"),
    ],
)
def test_agreement_in_words(agreement: RankAgreement, words: str) -> None:
    assert agreement_text(agreement) == words
