"""Callers that stick: the ratio is the weights', a change moves as many as it must, and there and back is as before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from router.policy.cohorts import PARTS, Cohorts, deal, part_of

NAMES = ("amber", "blue", "green", "red")


@st.composite
def weights(draw: st.DrawFn) -> dict[str, int]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, PARTS), min_size=len(names) - 1, max_size=len(names) - 1)))
    return {name: high - low for name, low, high in zip(names, [0, *cuts], [*cuts, PARTS], strict=True)}


def owners(cohorts: Cohorts) -> dict[int, str]:
    found = {part: name for name, parts in cohorts.items() for part in parts}
    assert sorted(found) == list(range(PARTS))
    assert sum(map(len, cohorts.values())) == PARTS
    return found


@given(st.lists(weights(), min_size=1, max_size=8))
def test_every_deal_is_exact_and_moves_as_many_as_the_weights_differ_by(history: list[dict[str, int]]) -> None:
    before: dict[str, int] = {}
    cohorts: Cohorts = {}
    for shares in history:
        dealt = deal(shares, cohorts)
        assert {name: len(parts) for name, parts in dealt.items()} == {name: w for name, w in shares.items() if w}
        now = owners(dealt)
        if before:
            was = owners(cohorts)
            needed = sum(max(0, before[name] - shares.get(name, 0)) for name in before)
            assert sum(was[part] != now[part] for part in range(PARTS)) == needed
        before, cohorts = shares, dealt


@given(st.lists(st.integers(1, PARTS), min_size=1, max_size=6, unique=True))
def test_a_ramp_up_and_down_again_ends_where_it_began(steps: list[int]) -> None:
    """Of two that share: the newcomer takes and gives back, step by step."""
    start = deal({"old": PARTS}, {})
    cohorts, ramp = start, sorted(steps)
    ways = []
    for step in [*ramp, *reversed(ramp)]:
        cohorts = deal({"old": PARTS - step, "new": step}, cohorts)
        ways.append(owners(cohorts))
    assert ways == ways[::-1]
    assert deal({"old": PARTS, "new": 0}, cohorts) == start
    assert deal({}, cohorts) == deal({"old": 0, "new": 0}, cohorts) == {}


def test_a_caller_is_in_the_same_hundredth_for_ever_and_every_hundredth_has_its_share() -> None:
    assert [part_of("shop", name) for name in (b"ann", b"bob", b"", b"\xff" * 300)] == [47, 14, 16, 76]
    counts = Counter(part_of("shop", b"user-%d" % number) for number in range(100_000))
    assert set(counts) == set(range(PARTS))
    # Of 100,000 callers a hundredth has 1,000, give or take five times the square root.
    assert max(abs(count - 1000) for count in counts.values()) < 160
    together = sum(part_of("shop", b"%d" % one) == part_of("fraud", b"%d" % one) for one in range(10_000))
    assert 40 < together < 180
