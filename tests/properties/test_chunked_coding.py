"""The chunked coding: any slicing of good bytes gives the same payload; bad bytes are refused, never reread."""

from __future__ import annotations

import itertools

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


@given(PIECES)
def test_several_pieces_make_one_chunk(pieces: list[bytes]) -> None:
    assert decode([frame(pieces) + LAST]) == (b"".join(pieces), b"", True)


@given(PIECES, st.lists(st.integers(0, 10_000), max_size=6))
def test_extensions_and_trailers_are_dropped(pieces: list[bytes], cuts: list[int]) -> None:
    chunks = b"".join(b"%X;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    wire = chunks + b"000\r\nX-Sum: 1\r\nY: \r\n\r\n"
    assert decode(slices(wire, cuts)) == (b"".join(pieces), b"", True)


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
