"""A bucket shared by several is the same as one bucket that one holds, and lets in what its rate and burst say."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from router.policy.rating import Bucket

RATES = st.one_of(st.integers(1, 5000).map(float), st.sampled_from([0.001, 0.5, 2.5, 1_000_000.0]))
ASKED = st.lists(st.tuples(st.integers(0, 3_000_000_000), st.integers(0, 3)), min_size=1, max_size=60)
"""(nanoseconds since the one before, which of the sharers)"""


class Shared:
    """Sharers that see each other's numbers and write their own."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.taken = [0] * 4
        self.origins = [0] * 4

    def look(self, who: int, now: int) -> tuple[int, int]:
        """(all that was taken, the origin), written where it has moved."""
        taken, known = sum(self.taken), max(self.origins)
        origin = self.bucket.origin(now, taken, known)
        self.origins[who] = max(self.origins[who], origin)
        return taken, origin

    def take(self, who: int, now: int) -> bool:
        taken, origin = self.look(who, now)
        if self.bucket.tokens(now, taken, origin) < 1:
            return False
        self.taken[who] += 1
        return True


class Plain:
    """The textbook's bucket, in exact fractions."""

    def __init__(self, bucket: Bucket) -> None:
        self.rate = Fraction(bucket.millirate, 10**12)
        self.burst = bucket.burst
        self.level = Fraction(bucket.burst)
        self.now = 0

    def take(self, now: int) -> Fraction:
        """What there is; one less from then on, if it is one."""
        self.level = min(Fraction(self.burst), self.level + (now - self.now) * self.rate)
        self.now = now
        found = self.level
        if found >= 1:
            self.level -= 1
        return found


@given(RATES, st.integers(1, 20), st.integers(10**9, 10**17), ASKED)
def test_sharers_let_in_what_one_would(rate: float, burst: int, start: int, asked: list[tuple[int, int]]) -> None:
    bucket = Bucket(rate, burst)
    shared, plain, now = Shared(bucket), Plain(bucket), start
    grain = 2 * Fraction(bucket.millirate, 10**12)  # of a nanosecond, in which times are kept
    for after, who in asked:
        now += after
        level = plain.take(now)
        passed = shared.take(who, now)
        if abs(level - 1) > len(asked) * grain:
            assert passed == (level >= 1)
        elif passed != (level >= 1):
            plain.level += -1 if passed else 1


@given(RATES, st.integers(1, 20), ASKED)
def test_a_bucket_that_had_time_is_full(rate: float, burst: int, asked: list[tuple[int, int]]) -> None:
    bucket = Bucket(rate, burst)
    shared, now = Shared(bucket), 10**15
    for after, who in asked:
        now += after
        shared.take(who, now)
        taken, origin = shared.look(who, now)
        later = now + bucket.full(now, taken, origin)
        assert bucket.tokens(later, taken, bucket.origin(later, taken, origin)) == burst
        assert [shared.take(who, later) for _ in range(burst + 1)] == [True] * burst + [False]
        now = later


@given(RATES, st.integers(1, 20), ASKED)
def test_no_time_brings_more_than_burst_and_rate(rate: float, burst: int, asked: list[tuple[int, int]]) -> None:
    bucket = Bucket(rate, burst)
    shared, now, passed = Shared(bucket), 10**15, []
    for after, who in asked:
        now += after
        if shared.take(who, now):
            passed.append(now)
    for index, since in enumerate(passed):
        for count, until in enumerate(passed[index:], 1):
            assert count <= burst + (until - since + 2) * bucket.millirate / 10**12 + 1e-6


@given(RATES, st.integers(1, 20), ASKED)
def test_who_waits_as_long_as_told_gets_a_token(rate: float, burst: int, asked: list[tuple[int, int]]) -> None:
    bucket = Bucket(rate, burst)
    shared, now = Shared(bucket), 10**15
    for after, who in asked:
        now += after
        if not shared.take(who, now):
            taken, origin = shared.look(who, now)
            now += bucket.next_token(now, taken, origin)
            assert shared.take(who, now)


@given(st.integers(2, 4), st.integers(1, 20))
def test_who_look_at_once_are_at_most_one_each_over(sharers: int, burst: int) -> None:
    bucket = Bucket(1.0, burst)
    shared, now = Shared(bucket), 10**15
    for _ in range(burst - 1):
        assert shared.take(0, now)
    looks = [shared.look(who, now) for who in range(sharers)]
    for who, (taken, origin) in enumerate(looks):
        shared.taken[who] += bucket.tokens(now, taken, origin) >= 1
    assert sum(shared.taken) == burst - 1 + sharers
    later = now + (sharers - 1) * 10**9
    assert not shared.take(0, later), "what was too much is paid back first"
    assert shared.take(0, later + 10**9 + 1)
