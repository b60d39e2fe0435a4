"""Fields of HTTP/2 as heads: what neither end of a connection shows by itself."""

from __future__ import annotations

import pytest

from router.policy.fields import Request, answer_head, is_grpc, timeout_ns_of, timeout_of, trailers
from router.policy.headers import BadHead
from router.runtime.http2.flooding import Allowance


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (b"application/grpc", True),
        (b"Application/GRPC+proto; x=1", True),
        (b"application/grpc-web", False),
        (b"application/grpcish", False),
        (b"application/json", False),
    ],
)
def test_grpc_is_known_by_its_type(value: bytes, wanted: bool) -> None:
    assert is_grpc(value) is wanted


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b":status", b"20")],
        [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"X-A", b"1")],
        [(b":status", b"200"), (b"x-a", b"1\r\n")],
        [(b":status", b"200"), (b":path", b"/")],
    ],
)
def test_an_answer_that_is_none(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadHead):
        answer_head(fields, ended=False, head_only=False)


@pytest.mark.parametrize(
    ("fields", "ended", "head_only", "framing"),
    [
        ([(b":status", b"200")], False, False, b"transfer-encoding: chunked\r\n"),
        ([(b":status", b"200")], True, False, b"content-length: 0\r\n"),
        ([(b":status", b"200"), (b"content-length", b"5")], False, False, b"content-length: 5\r\n"),
        ([(b":status", b"200")], True, True, b""),
        ([(b":status", b"204")], True, False, b""),
        ([(b":status", b"103")], False, False, b""),
    ],
)
def test_an_answer_is_framed_as_its_stream_is(
    fields: list[tuple[bytes, bytes]], ended: bool, head_only: bool, framing: bytes
) -> None:
    head = answer_head(fields, ended=ended, head_only=head_only)
    assert head == b"HTTP/1.1 " + fields[0][1] + b" \r\n" + framing + b"\r\n"


def test_a_trailer_that_belongs_into_the_head_is_none() -> None:
    assert trailers([(b"grpc-status", b"0")]) == [(b"grpc-status", b"0")]
    for name in (b"content-length", b":status", b"transfer-encoding", b"Grpc-Status"):
        with pytest.raises(BadHead):
            trailers([(name, b"1")])


def test_a_head_request_is_known() -> None:
    fields = [(b":method", b"HEAD"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
    found = Request(fields, ended=True)
    assert (found.is_head, found.head) == (True, b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")


def test_an_allowance_is_spent_and_fills_up_with_time_and_with_what_is_earned() -> None:
    allowance = Allowance(2, 1.0, 0)
    assert [allowance.spend(0) for _ in range(3)] == [True, True, False]
    assert allowance.spend(2_000_000_000)
    assert not allowance.spend(2_000_000_000)
    allowance.earn(3)
    assert [allowance.spend(2_000_000_000) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("value", "ns"), [(b"1n", 1), (b"2u", 2000), (b"30m", 30_000_000), (b"1S", 10**9), (b"1M", 60 * 10**9)]
)
def test_a_timeout_of_grpc_is_read(value: bytes, ns: int) -> None:
    assert timeout_ns_of(value) == ns


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b"1 S"])
def test_a_timeout_that_is_none(value: bytes) -> None:
    with pytest.raises(BadHead):
        timeout_ns_of(value)


@pytest.mark.parametrize("left", [1, 999, 1000, 99_999_999_000, 100_000_000_000, 10**15, 10**18])
def test_what_is_left_of_a_timeout_is_never_written_longer(left: int) -> None:
    assert timeout_ns_of(timeout_of(left)) <= max(left, 1000)
