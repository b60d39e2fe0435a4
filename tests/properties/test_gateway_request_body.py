"""A replica gets a request's body as it came, however it came: before the replica was found, after, in any pieces."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.gateway.body import RequestBody
from router.policy.admission import HELD_BODY_BYTES
from router.policy.chunked import Decoder

HEAD = b"POST / HTTP/1.1\r\n\r\n"
SIZES = st.lists(st.sampled_from((1, 100, 20_000, 32_768, 32_769, 65_536)), max_size=5)


class Kept(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert data, "an empty write"
        self.written += data


def pieces_of(sizes: list[int], first: int) -> list[bytes]:
    return [bytes((first + number,)) * size for number, size in enumerate(sizes)]


def payload(written: bytes, *, chunked: bool) -> bytes:
    """What a replica reads behind the head."""
    assert written.startswith(HEAD)
    if not chunked:
        return written[len(HEAD) :]
    decoder = Decoder()
    pieces, rest = decoder.feed(written[len(HEAD) :])
    assert decoder.done
    assert not rest
    return b"".join(pieces)


@given(first=SIZES, waiting=SIZES, passed=SIZES, chunked=st.booleans())
def test_a_replica_gets_what_came(first: list[int], waiting: list[int], passed: list[int], chunked: bool) -> None:
    body, transport = RequestBody(chunked=chunked), Kept()
    came, later, rest = pieces_of(first, 0), pieces_of(waiting, 10), pieces_of(passed, 20)
    whole = b"".join((*came, *later, *rest))
    body.begin(came[:], sum(first), complete=not later and not rest)
    for piece in later:
        body.add([piece], len(piece))
    assert body.begun() == b"".join((*came, *later))
    body.complete = not rest
    body.send(transport, HEAD)
    for piece in rest:
        body.pass_on(transport, [piece], len(piece))
    if rest:
        body.complete = True
        body.end(transport)
    assert payload(transport.written, chunked=chunked) == whole
    assert body.received == len(whole)


@given(first=SIZES, passed=SIZES, chunked=st.booleans())
def test_what_is_at_hand_is_sent_anew_as_it_was_and_beyond_64_kib_nothing_is(
    first: list[int], passed: list[int], chunked: bool
) -> None:
    body, transport, again = RequestBody(chunked=chunked), Kept(), Kept()
    came, rest = pieces_of(first, 0), pieces_of(passed, 20)
    whole = b"".join((*came, *rest))
    body.begin(came[:], sum(first), complete=not rest)
    body.send(transport, HEAD)
    for piece in rest:
        body.pass_on(transport, [piece], len(piece))
    assert body.is_at_hand() == (not rest and len(whole) <= HELD_BODY_BYTES)
    body.complete = True
    assert body.is_at_hand() == body.is_replayable() == (len(whole) <= HELD_BODY_BYTES)
    if body.is_at_hand():
        body.repeat(again, HEAD)
        assert payload(again.written, chunked=chunked) == whole
