"""What every search strategy must keep, as functions that a test calls with one case.

    @pytest.mark.parametrize("check", STRATEGY_CHECKS: tuple[Check, ...] = (
    check_asks_the_same_until_told,
    check_comes_to_an_end,
    check_asks_no_plan_twice,
    check_keeps_the_limits,
    check_is_deterministic,
    check_refuses_what_was_not_asked,
    check_resumes_after_every_measurement,
)


def _asked(case: StrategyCase) -> list[Plan]:
    found = drive(case.make(), case.measure, MemoryJournal(), "conformance")
    return [evaluation.plan for evaluation in found]
