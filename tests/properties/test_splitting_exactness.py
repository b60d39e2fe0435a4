"""The split is less than one request from exact at every prefix, and stays close however often weights change."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from router.policy.splitting import WHOLE, charge, choose


@st.composite
def weights(draw: st.DrawFn, most: int = 8) -> list[int]:
    count = draw(st.integers(1, most))
    cuts = sorted(draw(st.lists(st.integers(1, WHOLE - 1), min_size=count - 1, max_size=count - 1, unique=True)))
    return [high - low for low, high in zip([0, *cuts], [*cuts, WHOLE], strict=True)]


def serve(balances: list[int], shares: list[int], requests: int) -> list[int]:
    """Who got each request; zero shares are left out of the choice, as the gateway does."""
    live = [index for index, share in enumerate(shares) if share > 0]
    chosen = []
    for _ in range(requests):
        mine = [balances[index] for index in live]
        picked = choose(mine, [shares[index] for index in live])
        charge(mine, [shares[index] for index in live], picked)
        for index, value in zip(live, mine, strict=True):
            balances[index] = value
        chosen.append(live[picked])
    return chosen


@given(weights(), st.integers(1, 400))
@example([90, 10], 400)
@example([97, 1, 1, 1], 400)
@example([1, 1, 98], 300)
@example([14, 14, 14, 14, 14, 15, 15], 300)
def test_every_prefix_is_less_than_one_request_from_exact(shares: list[int], requests: int) -> None:
    balances = [0] * len(shares)
    counts = [0] * len(shares)
    for number, index in enumerate(serve(balances, shares, requests), 1):
        counts[index] += 1
        for share, count in zip(shares, counts, strict=True):
            assert abs(count - number * share / WHOLE) < 1
    assert [
        number * share - count * WHOLE
        for share, count, number in zip(shares, counts, [requests] * len(shares), strict=True)
    ] == balances


@given(weights())
def test_a_hundred_requests_are_exact(shares: list[int]) -> None:
    chosen = serve([0] * len(shares), shares, WHOLE)
    assert [chosen.count(index) for index in range(len(shares))] == shares


@given(st.lists(st.tuples(st.integers(0, WHOLE), st.integers(0, 30)), max_size=120))
def test_of_two_no_change_of_weights_ever_costs_more_than_a_request(changes: list[tuple[int, int]]) -> None:
    balances, asked, got = [0, 0], [0, 0], [0, 0]
    for share, requests in changes:
        shares = [share, WHOLE - share]
        for index in serve(balances, shares, requests):
            got[index] += WHOLE
        asked = [total + part * requests for total, part in zip(asked, shares, strict=True)]
        assert max(abs(one - other) for one, other in zip(asked, got, strict=True)) < WHOLE


@given(st.lists(st.tuples(weights(4), st.integers(0, 30)), max_size=60))
def test_of_several_many_changes_stay_within_a_few_requests(changes: list[tuple[list[int], int]]) -> None:
    balances = [0] * 4
    for shares, requests in changes:
        serve(balances, shares + [0] * (4 - len(shares)), requests)
        assert sum(balances) == 0
        assert max(map(abs, balances)) < 3 * WHOLE


@given(weights(), st.lists(st.integers(-WHOLE, WHOLE), min_size=8, max_size=8))
def test_somebody_is_always_chosen_whatever_the_balances(shares: list[int], balances: list[int]) -> None:
    assert 0 <= choose(balances[: len(shares)], shares) < len(shares)


@given(weights(), st.integers(2, 4), st.randoms(use_true_random=False), st.integers(1, 200))
def test_workers_that_add_up_their_balances_split_as_one(shares: list[int], workers: int, order, requests: int) -> None:  # type: ignore[no-untyped-def]
    rows = [[0] * len(shares) for _ in range(workers)]
    counts = [0] * len(shares)
    for number in range(1, requests + 1):
        row = order.choice(rows)
        picked = choose([sum(column) for column in zip(*rows, strict=True)], shares)
        charge(row, shares, picked)
        counts[picked] += 1
        assert all(abs(count - number * share / WHOLE) < 1 for count, share in zip(counts, shares, strict=True))
