"""HTTP/2 as raw bytes, for the fuzzer and its seeds: what a caller may send behind preface and SETTINGS, and what must hold.

what reaches a replica      is what h2 reads too, as long as it reads at all: method and target, among its requests
where it is cut             changes nothing of what reaches a replica
what the gateway says       is frames that hyperframe reads, and nothing behind the end of a stream
"""

from __future__ import annotations

from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from router.runtime.http2 import packing
from tests.support.gateway_memory import Conversation, MemoryGateway

BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
_SIZES = (1, 2, 3, 7, 16, 61, 250, 1000)
_GET = packing.block([(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/x")])
_POST = packing.block([(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/y")])
_LENGTH = packing.field(b"content-length", b"5")
_COOKIES = packing.block([(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers"), (b"x-a", b"1")])
_GRPC = packing.block([(b"content-type", b"application/grpc"), (b"grpc-timeout", b"1S")])
_ALL, _LAST = ["END_HEADERS", "END_STREAM"], ["END_STREAM"]


def _join(*frames: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def seeds() -> list[bytes]:
    """Conversations that reach every kind of frame."""
    head = HeadersFrame(1, _POST, flags=["END_HEADERS"])
    return [bytes([number & 7]) + raw for number, raw in enumerate((
        _join(HeadersFrame(1, _GET, flags=_ALL)),
        _join(HeadersFrame(1, _GET + _COOKIES, flags=_ALL), HeadersFrame(3, _GET, flags=_ALL)),
        _join(HeadersFrame(1, _POST + _LENGTH, flags=["END_HEADERS"]), DataFrame(1, b"hello", flags=_LAST)),
        _join(head, DataFrame(1, b"hel"), DataFrame(1, b"lo", flags=_LAST)),
        _join(head, DataFrame(1, b"hel"), HeadersFrame(1, packing.field(b"x-late", b"1"), flags=_ALL)),
        _join(HeadersFrame(1, _GET[:9], flags=_LAST), ContinuationFrame(1, _GET[9:], flags=["END_HEADERS"])),
        _join(HeadersFrame(1, _GET, flags=[*_ALL, "PADDED", "PRIORITY"], pad_length=3, depends_on=0)),
        _join(head, DataFrame(1, b"hello", flags=["PADDED"], pad_length=9), RstStreamFrame(1, error_code=8)),
        _join(PingFrame(0, opaque_data=b"12345678"), PriorityFrame(5), SettingsFrame(0, {3: 1, 4: 9, 5: 20000})),
        _join(SettingsFrame(0, {4: 0}), HeadersFrame(1, _GET, flags=_ALL), WindowUpdateFrame(1, window_increment=50)),
        _join(WindowUpdateFrame(0, window_increment=9), GoAwayFrame(0, last_stream_id=0), HeadersFrame(1, _GET, flags=_ALL)),
        _join(HeadersFrame(1, _POST + _GRPC, flags=["END_HEADERS"]), DataFrame(1, b"\0\0\0\0\1x", flags=_LAST)),
        _join(HeadersFrame(1, b"\x82\x86\x84\x41\x01a", flags=_ALL), HeadersFrame(3, b"\x82\x86\x84\xbe", flags=_ALL)),
    ))]  # fmt: skip


async def http2(memory: MemoryGateway, data: bytes) -> None:
    """A caller's frames: the first byte says how they are cut."""
    if not data:
        return
    raw = BEGIN + data[1:]
    size = _SIZES[data[0] & 7]
    memory.forget()
    whole = await memory.converse_http2([raw])
    memory.forget()
    cut = await memory.converse_http2([raw[at : at + size] for at in range(0, len(raw), size)])
    assert _asked(whole) == _asked(cut), "cutting changes what is asked"
    for heard in (whole, cut):
        _check_frames(heard.answers)
    known, whole_way = _by_h2(raw)
    if whole_way:
        for one in _asked(whole):
            assert one in known, f"h2 does not know of {one!r}"


def _asked(conversation: Conversation) -> list[tuple[bytes, bytes]]:
    """(method, target) of what reached the replica."""
    lines = [raw.partition(b"\r\n")[0].split(b" ") for raw in conversation.requests]
    return [(method, target) for method, target, _ in lines]


def _by_h2(raw: bytes) -> tuple[Sequence[tuple[bytes, bytes]], bool]:
    """The requests that h2 reads, and whether it came to the end of the bytes."""
    config = h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    try:
        events = connection.receive_data(raw)
    except (h2.exceptions.H2Error, ValueError):
        return [], False
    heads = [dict(event.headers) for event in events if isinstance(event, h2.events.RequestReceived)]
    return [(bytes(head.get(b":method", b"")), bytes(head.get(b":path", b""))) for head in heads], True


def _check_frames(raw: bytes) -> None:
    ended: set[int] = set()
    while raw:
        frame, length = Frame.parse_frame_header(memoryview(raw[:9]))
        assert len(raw) >= 9 + length, "half a frame"
        frame.parse_body(memoryview(raw[9 : 9 + length]))
        raw = raw[9 + length :]
        if isinstance(frame, HeadersFrame | DataFrame):
            assert frame.stream_id not in ended, "something behind the end of a stream"
            if "END_STREAM" in frame.flags:
                ended.add(frame.stream_id)
