"""The gateway's small decisions, as tables."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.contract.events import bucket_of
from router.gateway.demand import bucket_of_ns
from router.policy import admission, ejection, retrying
from router.policy.admission import Admission
from router.policy.balancing import least_loaded, two_of
from router.policy.headers import BadHead, RequestHead, ResponseHead, bearer, content_length
from router.policy.retrying import Failure, Next


def test_azures_limit() -> None:
    assert admission.limit(concurrency=3, instances=2) == 12


@pytest.mark.parametrize(
    ("ready", "joining", "present", "held", "expected"),
    [
        (True, False, 0, 0, Admission.ENTER),
        (True, False, 3, 0, Admission.ENTER),
        (True, False, 4, 0, Admission.REFUSE),
        (True, True, 4, 1, Admission.HOLD),
        (True, True, 0, 1, Admission.HOLD),
        (True, True, 4, 0, Admission.HOLD),
        (True, False, 0, 9, Admission.ENTER),
        (False, False, 99, 0, Admission.HOLD),
        (False, False, 0, 10, Admission.REFUSE),
        (True, True, 0, 10, Admission.REFUSE),
    ],
)
def test_who_may_enter(ready: bool, joining: bool, present: int, held: int, expected: Admission) -> None:
    assert admission.decide(ready, joining, present, 4, held, 10) is expected


@pytest.mark.parametrize(("activation", "joining"), [(0, 10), (3, 10), (10, 10), (45, 45)])
def test_arrivals_join_for_as_long_again_as_the_activation_took(activation: int, joining: int) -> None:
    ready = 1000 * 10**9
    assert admission.joining_ends(ready - activation * 10**9, ready) == ready + joining * 10**9


def test_ejection_starts_short_doubles_and_is_bounded() -> None:
    times = [ejection.back_off_seconds(failures) for failures in range(1, 60)]
    assert times[0] == ejection.FIRST_SECONDS
    assert times[1] == 2 * times[0]
    assert times == sorted(times)
    assert times[-1] == ejection.LONGEST_SECONDS


def test_errors_put_out_for_longer_and_longer_up_to_a_bound() -> None:
    times = [ejection.erring_seconds(spells) for spells in range(1, 60)]
    assert (times[0], times[1]) == (ejection.ERRING_SECONDS, 2 * ejection.ERRING_SECONDS)
    assert times == sorted(times)
    assert times[-1] == ejection.LONGEST_ERRING_SECONDS


@pytest.mark.parametrize(
    ("in_a_row", "others_good", "on_trial", "expected"),
    [(5, 5, False, True), (4, 99, False, False), (99, 4, False, False), (1, 1, True, True), (9, 0, True, False)],
)
def test_who_errs_is_to_blame_only_where_others_do_well(
    in_a_row: int, others_good: int, on_trial: bool, expected: bool
) -> None:
    assert ejection.errs(in_a_row, others_good, on_trial=on_trial) is expected


def test_the_rest_can_spare_a_third_one_of_two_and_never_the_last() -> None:
    most = {ready: sum(ejection.can_spare(out, ready) for out in range(ready)) for ready in (1, 2, 3, 5, 6, 9, 100)}
    assert most == {1: 0, 2: 1, 3: 1, 5: 1, 6: 2, 9: 3, 100: 33}


def test_repetitions_have_a_reserve_and_a_fifth_of_the_good_answers() -> None:
    budget = retrying.Budget()
    assert sum(budget.spend(0, 10) for _ in range(1000)) == retrying.Budget.RESERVE
    assert sum(budget.spend(50, 10) for _ in range(1000)) == 10
    assert sum(budget.spend(10**6, 10) for _ in range(1000)) == retrying.Budget.RESERVE
    assert sum(budget.spend(10**7, 640) for _ in range(1000)) == 640
    other = retrying.Budget()
    assert sum(other.spend(0, 640) for _ in range(1000)) == 640


def test_what_cannot_be_sent_again_is_given_up() -> None:
    for failure, repeated, refreshed in itertools.product(Failure, (True, False), (True, False)):
        assert retrying.after(failure, replayable=False, repeated=repeated, refreshed=refreshed) is Next.GIVE_UP


@pytest.mark.parametrize(
    ("failure", "repeated", "refreshed", "expected"),
    [
        (Failure.REFUSED, True, True, Next.ELSEWHERE),
        (Failure.STALE, False, False, Next.SAME_AGAIN),
        (Failure.STALE, True, False, Next.SAME_AGAIN),
        (Failure.STALE, False, True, Next.ELSEWHERE),
        (Failure.DIED, False, False, Next.ELSEWHERE),
        (Failure.DIED, True, False, Next.GIVE_UP),
        (Failure.NONSENSE, False, False, Next.GIVE_UP),
    ],
)
def test_what_can_be_sent_again_is_sent_once(failure: Failure, repeated: bool, refreshed: bool, expected: Next) -> None:
    assert retrying.after(failure, replayable=True, repeated=repeated, refreshed=refreshed) is expected


@given(st.integers(2, 50), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_two_choices_are_two(count: int, first: float, second: float) -> None:
    one, other = two_of(count, first, second)
    assert one != other
    assert {one, other} <= set(range(count))


def test_every_pair_can_be_drawn() -> None:
    steps = [number / 20 for number in range(20)]
    assert len({two_of(4, first, second) for first in steps for second in steps}) == 12


@given(st.lists(st.integers(0, 9)), st.integers(1, 9))
def test_the_least_loaded_has_room(loads: list[int], concurrency: int) -> None:
    found = least_loaded(loads, concurrency)
    if found is None:
        assert all(load >= concurrency for load in loads)
    else:
        assert loads[found] == min(loads) < concurrency


@given(st.floats(0, 1000))
def test_nanosecond_buckets_are_the_contracts(seconds: float) -> None:
    ours, theirs = bucket_of_ns(int(seconds * 1e9)), bucket_of(int(seconds * 1e9) / 1e9)
    assert abs(ours - theirs) <= 1
    middle = 0.0005 * 1.25 ** (theirs - 0.5)
    assert bucket_of_ns(int(middle * 1e9)) == bucket_of(middle)


@pytest.mark.parametrize("value", [b"", b"+1", b"-1", b" 1", b"1 ", b"1_0", b"0x1", "٣".encode(), b"1" * 19, b"1,1"])
def test_a_length_is_digits(value: bytes) -> None:
    with pytest.raises(BadHead):
        content_length(value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer  abc ", b"abc"),
        (b"Basic abc", None),
        (b"abc", None),
        (b"", None),
        (None, None),
    ],
)
def test_the_key_of_an_authorization(value: bytes | None, key: bytes | None) -> None:
    assert bearer(value) == key


@given(st.lists(st.tuples(st.from_regex(rb"[A-Za-z][A-Za-z_-]{0,12}", fullmatch=True), st.just(b"v")), max_size=12))
def test_no_credential_and_no_mark_of_ours_gets_through(fields: list[tuple[bytes, bytes]]) -> None:
    head = RequestHead()
    special = (
        b"X-TideGate-Shadow",
        b"x_tidegate_shadow",
        b"X-Request-ID",
        b"proxy-Authorization",
        b"TE",
        b"X-Request_Id",
    )
    for name, value in [(b"Host", b"h"), (b"AuthorizaTion", b"Bearer k"), *fields, *((name, b"v") for name in special)]:
        lower = name.lower().replace(b"_", b"-")
        if lower in (b"content-length", b"transfer-encoding", b"host") and name != b"Host":
            continue
        if lower == b"authorization" and value == b"v":
            continue
        head.on_header(name, value)
    head.close("1.1")
    names = {name.lower().replace(b"_", b"-") for name in head.lines[::4]}
    assert not any(name.startswith(b"x-tidegate-") for name in names)
    assert not names & {b"authorization", b"x-request-id", b"proxy-authorization", b"te", b"connection", b"upgrade"}


def test_connection_names_more_fields_to_drop_but_not_ours() -> None:
    head = RequestHead()
    for name, value in ((b"Host", b"h"), (b"X-A", b"1"), (b"X-B", b"2"), (b"Connection", b"X-a, host,close")):
        head.on_header(name, value)
    head.close("1.1")
    first, _, _ = head.for_replica(b"GET", b"/")
    assert (
        first
        == b"GET / HTTP/1.1\r\nhost: h\r\nX-B: 2\r\nvia: 1.1 tidegate\r\nx-forwarded-proto: http\r\nx-request-id: "
    )


@pytest.mark.parametrize(
    ("version", "connection", "closes"),
    [("1.1", None, False), ("1.1", b"close", True), ("1.0", None, True), ("1.0", b"Keep-Alive", False)],
)
def test_whether_a_replicas_connection_can_be_kept(version: str, connection: bytes | None, closes: bool) -> None:
    head = ResponseHead()
    if connection is not None:
        head.on_header(b"connection", connection)
    head.close(version, 200)
    assert head.closes is closes
