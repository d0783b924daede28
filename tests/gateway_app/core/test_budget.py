"""Second attempts against a count of all that happened, second by second."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_app.core.budget import MINIMUM, SECONDS, RetryBudget

EVENTS = st.sampled_from(["request"] * 6 + ["retry", "retry", "hedge", "suspect", "roll"])


@given(st.lists(EVENTS, max_size=1500), st.sampled_from([0.0, 0.1, 0.2, 1.0]))
@settings(max_examples=60, deadline=None)
def test_it_gives_what_the_last_ten_seconds_allow_and_no_more(events: list[str], ratio: float):
    budget = RetryBudget()
    seconds = [[0, 0]]
    for event in events:
        if event == "request":
            budget.requests += 1
            seconds[-1][0] += 1
        elif event == "roll":
            budget.roll()
            seconds = [*seconds, [0, 0]][-SECONDS:]
        elif event == "suspect":
            budget.spend()
            seconds[-1][1] += 1
        else:
            requests, spent = (sum(each) for each in zip(*seconds, strict=True))
            limit = max(MINIMUM, ratio * requests)
            allowed = bool(ratio) and (spent < limit / 2 if event == "hedge" else spent + 1 <= limit)
            assert budget.withdraw(ratio, spare=event == "hedge") == allowed
            seconds[-1][1] += allowed


def test_a_quiet_hour_has_some_and_time_gives_them_back():
    budget = RetryBudget()
    assert [budget.withdraw(0.2) for _ in range(MINIMUM + 1)] == [True] * MINIMUM + [False]
    for _ in range(SECONDS):
        assert not budget.withdraw(0.2)
        budget.roll()
    assert budget.withdraw(0.2)


def test_what_is_spent_in_any_case_counts():
    budget = RetryBudget()
    for _ in range(MINIMUM + 20):
        budget.spend()
    assert budget.account(0.2) == (MINIMUM, MINIMUM + 20)
    assert not budget.withdraw(0.2)
