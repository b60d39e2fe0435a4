"""What of an `x-request-deadline` is a moment, and what is said to everything else."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.deadlines import unix_ns_of, written_in

S = 1_000_000_000


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (b"0", 0),
        (b"1764158400", 1764158400 * S),
        (b"1764158400.25", 1764158400 * S + S // 4),
        (b"1764158400.000000001", 1764158400 * S + 1),
        (b"9999999999", 9999999999 * S),
        (b"2025-11-26T12:00:00Z", 1764158400 * S),
        (b"2025-11-26t12:00:00.25z", 1764158400 * S + S // 4),
        (b"2025-11-26T12:00:00.123456789Z", 1764158400 * S + 123456789),
        (b"2025-11-26T13:30:00+01:30", 1764158400 * S),
        (b"2025-11-26T04:00:00-08:00", 1764158400 * S),
    ],
)
def test_unix_seconds_and_rfc_3339_are_moments(value: bytes, moment: int) -> None:
    assert unix_ns_of(value) == moment
    assert written_in(b"\r\nother: 1\r\nx-request-deadline: " + value + b"\r\n\r\n") == moment


@pytest.mark.parametrize(
    "value",
    [
        b"", b"soon", b"5s", b"+5", b"-5", b"1e9", b"0x5", b"1_0", b"1764158400.", b".5", b"1.1234567890", b"1764158400000",
        b"2025-11-26", b"2025-11-26T12:00:00", b"2025-11-26 12:00:00Z", b"2025-02-30T12:00:00Z", b"2025-11-26T24:00:01Z",
        b"2025-11-26T12:00:60Z", b"2025-11-26T12:00:00+99:00", b"Wed, 26 Nov 2025 12:00:00 GMT", "٥".encode(), b"\xff" * 99,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_to_write(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"^x-request-deadline: .*Unix seconds.*RFC 3339") as refused:
        unix_ns_of(value)
    assert len(str(refused.value)) < 300


@given(st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2200, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001 -- as hypothesis wants it
def test_both_forms_name_the_same_moment(naive: dt.datetime, minutes: int) -> None:
    moment = naive.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    seconds = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    exact = (seconds.days * 86_400 + seconds.seconds) * S + seconds.microseconds * 1000
    assert unix_ns_of(moment.isoformat().encode()) == exact
    if exact > 0:
        assert unix_ns_of(b"%d.%09d" % divmod(exact, S)) == exact


def test_other_fields_that_look_like_it_are_none() -> None:
    assert written_in(b"\r\nx-other: x-request-deadline: 5\r\n\r\n") == 0
