"""Frames of WebSocket: any cut of any bytes gives the same, ours go between theirs, wsproto agrees on what is none."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.policy.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    Scanner,
    closing,
    frame,
)  # fmt: skip
from tests.support.websocket_frames import check_frames, scan

MASK = b"\x01\x02\x03\x04"


def data_frame(opcode: int, payload: bytes, *, fin: bool = True, masked: bool = False, bits: int = 0) -> bytes:
    first, second = opcode | bits | (0x80 if fin else 0), 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, second | size))
    elif size < 65536:
        head = bytes((first, second | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, second | 127)) + size.to_bytes(8, "big")
    if masked:
        return head + MASK + bytes(byte ^ MASK[at & 3] for at, byte in enumerate(payload))
    return head + payload


OPCODES = st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11])
FRAMES = st.builds(
    data_frame,
    OPCODES,
    st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 65536])),
    fin=st.booleans(),
    masked=st.booleans(),
    bits=st.sampled_from([0, 0, 0, 0x40, 0x10]),
)
GOOD = st.builds(data_frame, st.sampled_from([TEXT, BINARY, PING, PONG]), st.binary(max_size=20), masked=st.just(True))


@given(st.integers(0, 63), st.lists(FRAMES, max_size=6), st.binary(max_size=4))
@example(0, [b"\x82\x7e\x00\x7d"], b"")
@example(0, [b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff"], b"")
@example(0, [b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"], b"")
def test_any_cut_of_anything_gives_the_same_and_wsproto_agrees(how: int, frames: list[bytes], rest: bytes) -> None:
    check_frames(bytes([how]) + b"".join(frames) + rest)


@given(st.integers(0, 7), st.lists(GOOD, max_size=12))
def test_whole_frames_of_a_caller_pass_as_they_came(size: int, frames: list[bytes]) -> None:
    wire = b"".join(frames)
    check_frames(bytes([8 | size]) + wire)
    assert scan(wire, size + 1, masks=True).passed == wire


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (data_frame(TEXT, b"a", bits=0x40), PROTOCOL_ERROR),
        (data_frame(TEXT, b"a", masked=True), PROTOCOL_ERROR),
        (data_frame(CONTINUATION, b"a"), PROTOCOL_ERROR),
        (data_frame(TEXT, b"a", fin=False) + data_frame(TEXT, b"b"), PROTOCOL_ERROR),
        (data_frame(PING, b"a" * 126), PROTOCOL_ERROR),
        (data_frame(PING, b"a", fin=False), PROTOCOL_ERROR),
        (data_frame(PING, b"a", bits=0x40), PROTOCOL_ERROR),
        (data_frame(3, b"a"), PROTOCOL_ERROR),
        (data_frame(12, b"a"), PROTOCOL_ERROR),
        (data_frame(CLOSE, b"a"), PROTOCOL_ERROR),
        (data_frame(CLOSE, b"\0\0"), PROTOCOL_ERROR),
        (data_frame(BINARY, b"a" * 1001), TOO_BIG),
        (data_frame(BINARY, b"a" * 900, fin=False) + data_frame(CONTINUATION, b"a" * 101), TOO_BIG),
    ],
)
def test_what_is_before_a_bad_frame_passes_and_nothing_behind(wire: bytes, code: int) -> None:
    good = data_frame(TEXT, b"good") + data_frame(PING, b"")
    found = scan(good + wire + good, 1 << 20, masks=False, limit=1000)
    assert found.violation is not None
    assert found.violation[0] == code
    assert found.passed.startswith(good)
    assert len(found.passed) < len(good + wire)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_compressed_messages_pass_where_that_was_agreed(size: int) -> None:
    first = data_frame(TEXT, b"a" * 200, fin=False, bits=0x40)
    assert scan(first + data_frame(CONTINUATION, b"b"), size, masks=False, bits=(0x40, 0)).violation is None
    late = scan(first + data_frame(CONTINUATION, b"b", bits=0x40), size, masks=False, bits=(0x40, 0))
    assert late.passed == first
    assert late.violation is not None


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_the_answer_to_our_own_ping_is_taken_out_once(masked: bool, size: int) -> None:
    mask = MASK if masked else b""
    ours, other, text = (
        frame(PONG, b"8 bytes.", mask),
        frame(PONG, b"8 bytes!", mask),
        data_frame(TEXT, b"t", masked=masked),
    )
    scanner = Scanner(masks=masked, max_message_bytes=100)
    scanner.expect(b"8 bytes.")
    wire = text + other + ours + text + ours + text
    passed = b"".join(b"".join(scanner.feed(wire[at : at + size])) for at in range(0, len(wire), size))
    assert passed == text + other + text + ours + text


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_our_last_frame_goes_behind_the_frame_under_way_and_theirs_is_still_understood(size: int) -> None:
    long, last = data_frame(TEXT, b"a" * 30), closing(1001, "over")
    scanner = Scanner(masks=False, max_message_bytes=100)
    begun = b"".join(scanner.feed(long[:10]))
    assert scanner.insert(last, last=True) == b""
    wire = long[10:] + data_frame(TEXT, b"unheard") + closing(1000, "so be it")
    passed = b"".join(b"".join(scanner.feed(wire[at : at + size])) for at in range(0, len(wire), size))
    assert begun + passed == long + last
    assert scanner.muted
    assert scanner.close_code == 1000
    assert scanner.insert(last) == b""
