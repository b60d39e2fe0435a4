"""The chunked coding: any slicing of good bytes gives the same payload; bad bytes are refused, never reread."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.chunked import LAST, BadChunk, Decoder, frame

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


def slices(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[low:high] for low, high in itertools.pairwise(points)]


def decode(parts: list[bytes]) -> tuple[bytes, bytes, bool]:
    decoder, payload, rest = Decoder(), b"", b""
    for part in parts:
        if decoder.done:
            rest += part
            continue
        pieces, left = decoder.feed(part)
        payload += b"".join(pieces)
        rest += left
    return payload, rest, decoder.done


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=10), st.binary(max_size=20))
def test_what_is_framed_comes_out_again_however_it_is_cut(pieces: list[bytes], cuts: list[int], after: bytes) -> None:
    wire = b"".join(frame([piece]) for piece in pieces) + LAST
    assert decode(slices(wire + after, cuts)) == (b"".join(pieces), after, True)


@given(PIECES, st.binary(max_size=20), st.integers(1, 3))
def test_what_is_decoded_in_portions_is_the_same(pieces: list[bytes], after: bytes, most: int) -> None:
    decoder, payload, left = Decoder(), [], b"".join(frame([piece]) for piece in pieces) + LAST + after
    while not decoder.done:
        found, left = decoder.feed(left, most)
        assert len(found) <= most
        payload += found
    assert (payload, left) == (pieces, after)


@given(PIECES)
def test_several_pieces_make_one_chunk(pieces: list[bytes]) -> None:
    assert decode([frame(pieces) + LAST]) == (b"".join(pieces), b"", True)


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=6))
def test_extensions_and_trailers_are_dropped(pieces: list[bytes], cuts: list[int]) -> None:
    chunks = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    wire = chunks + b"000\r\nX-Sum: 1\r\nY: \r\n\r\n"
    assert decode(slices(wire, cuts)) == (b"".join(pieces), b"", True)


def decode_passing_whole_chunks_on(parts: list[bytes]) -> tuple[bytes, bytes, bool]:
    """As a gateway does that need not frame them anew: what it passes on is decoded by somebody else."""
    decoder, sent, rest = Decoder(), b"", b""
    for part in parts:
        if decoder.done:
            rest += part
        elif decoder.whole(part):
            sent += part
        else:
            pieces, left = decoder.feed(part)
            sent += frame(pieces)
            rest += left
    payload, beyond, _ = decode([sent + LAST])
    assert not beyond
    return payload, rest, decoder.done


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8))
def test_a_chunk_that_comes_alone_needs_no_new_frame(pieces: list[bytes]) -> None:
    decoder = Decoder()
    assert [decoder.whole(frame([piece])) for piece in pieces] == [len(piece) for piece in pieces]
    parts = [*(frame([piece]) for piece in pieces), LAST]
    assert decode_passing_whole_chunks_on(parts) == (b"".join(pieces), b"", True)


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n", b"01\r\nx\r\n", b"A\r\n0123456789\r\n", b"1;a\r\nx\r\n", b"2\r\nx\r\n", b"1\r\nxy\r\n", b"1\r\nx\r", b"1\r\nx\r\n\r\n",
        b"1\r\nx\r\n1\r\ny\r\n", b"+1\r\nx\r\n", b" 1\r\nx\r\n", b"1\nx\r\n", b"\r\n", b"1\r\n", b"-4\r\n\r\n", b"-1\r\n", b"",
    ],
)  # fmt: skip
def test_anything_but_one_plain_chunk_is_no_whole_one(data: bytes) -> None:
    assert not Decoder().whole(data)


@given(
    st.lists(st.sampled_from([b"1", b"\r\n", b"3", b"x", b"\r", b"\n", b"0", b"1\r\nx\r\n", b"a;b"]), max_size=14),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_whole_chunks_change_nothing_about_what_is_let_through(words: list[bytes], cuts: list[int]) -> None:
    def outcome(reading: Callable[[list[bytes]], object]) -> object:
        try:
            return reading(slices(b"".join(words), cuts))
        except BadChunk:
            return None

    assert outcome(decode_passing_whole_chunks_on) == outcome(decode)


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n", b"x\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b" 1\r\n", b"1 \r\nx", b"1\nx\n", b"11111111111111111\r\n",
        b"1\r\nxy\r\n", b"1\r\nx\ry", b"1\r\nx\n\n", b"1;" + b"a" * 300 + b"\r\n", b"1;a\rb\r\nx", b"a" * 300,
        b"0\r\nbad trailer\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n", b"0\r\nX: \x00\r\n\r\n",
    ],
)  # fmt: skip
def test_anything_else_is_refused(wire: bytes) -> None:
    with pytest.raises(BadChunk):
        decode([wire])
    with pytest.raises(BadChunk):
        decode([bytes([byte]) for byte in wire])


@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=5))
def test_good_or_bad_does_not_depend_on_the_slicing(wire: bytes, cuts: list[int]) -> None:
    def outcome(parts: list[bytes]) -> object:
        try:
            return decode(parts)
        except BadChunk:
            return None

    assert outcome([wire]) == outcome(slices(wire, cuts))
