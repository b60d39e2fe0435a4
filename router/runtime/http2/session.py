"""What comes on one connection of HTTP/2, either end of it: frames, each told to whom it concerns (RFC 9113).

Header blocks are put together in `blocks`, windows kept in `flow`, streams are `channel`s; `flooding` says how much nonsense may
come. All of it is handled here: a library that has it (h2) ends every stream of a connection when one of them is malformed,
and none of them can go on behind a GOAWAY, so that nothing could be drained. Whoever breaks the protocol as a whole ends the
connection; whoever breaks a stream ends that stream.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from router.runtime.http2 import frames
from router.runtime.http2.blocks import Blocks
from router.runtime.http2.channel import STREAM_WINDOW
from router.runtime.http2.connection import Connection
from router.runtime.http2.flow import CONNECTION_WINDOW
from router.runtime.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEAD,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    Broken,
    Code,
    Field,
    Setting,
    u32,
)

_MOST_SETTINGS = 64
"""In one frame; there are six."""
_TURN = 256
"""Work of one turn of the event loop, a frame of a body is 1: a read may have 25,000 frames, and all others wait meanwhile."""
_FIELDS = 4
"""A frame of fields is so much, and 1 for each 64 bytes: to expand 60 KB of them takes 10 ms."""
_FIRST_STREAMS = 100
"""Streams at once, before the other end has said how many it takes."""


class Session(Connection):
    """One connection; a protocol by its methods alone, so that it can be compiled."""

    __slots__ = ("_buffer", "_need", "_resting", "blocks", "highest", "peer_streams", "settled")

    def __init__(self, list_bytes: int) -> None:
        """`list_bytes`: how large a field section may be before it is refused."""
        super().__init__()
        self.blocks = Blocks(list_bytes)
        self.peer_streams = _FIRST_STREAMS
        self.highest = 0
        """Stream that the other end has begun (or, to a replica, that we have)."""
        self.settled = False
        """Its SETTINGS have come."""
        self._buffer = bytearray()
        self._need = 0
        self._resting = False
        """What has come is for a later turn of the loop."""

    def begin(self, transport: asyncio.BaseTransport, first: bytes, values: dict[Setting, int]) -> None:
        """Say `first` and what we take."""
        self.transport = cast("asyncio.Transport", transport)
        values = {
            **values,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: self.blocks.list_bytes,
        }
        opened = frames.window_update(0, CONNECTION_WINDOW - FIRST_WINDOW)
        self.transport.write(first + frames.settings(values) + opened)

    # In -------------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        if self.over:
            return
        if self._buffer:
            self._buffer += data
            if self._resting or len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._cut(data)
        except Broken as error:
            self.end(error.code, str(error))

    def _cut(self, data: bytes) -> None:
        at, end, left = 0, len(data), _TURN
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, stream = HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > MAX_FRAME_BYTES:
                raise Broken(Code.FRAME_SIZE_ERROR, "a frame above 16384 bytes")
            stop = at + HEADER_BYTES + length
            if stop > end:
                self._need = stop - at
                self._buffer += data[at:]
                return
            if left <= 0:
                self._later(data[at:])
                return
            left -= 1 if kind == frames.DATA else _FIELDS + (length >> 6)
            self._frame(kind, flags, stream & MAX_WINDOW, data[at + HEADER_BYTES : stop])
            if self.over:
                return
            at = stop
        self._need = HEADER_BYTES
        self._buffer += data[at:]

    def _later(self, rest: bytes) -> None:
        """So much is work for further turns of the loop; nothing more is read before."""
        self._buffer += rest
        self._resting = True
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._resting:
            return
        self._resting = False
        rest = bytes(self._buffer)
        self._buffer.clear()
        self.data_received(rest)
        if not self._resting and not self.transport.is_closing():
            self.transport.resume_reading()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self.blocks.open and kind != frames.CONTINUATION:
            raise Broken(Code.PROTOCOL_ERROR, "another frame inside a header block")
        if not self.settled and kind != frames.SETTINGS:
            raise Broken(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.DATA:
            self._data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self._headers(flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == frames.CONTINUATION:
            self._continuation(flags, stream, payload)
        elif kind == frames.RST_STREAM:
            self._rst_stream(stream, payload)
        else:
            self._housekeeping()
            self._rare(kind, flags, stream, payload)

    def _rare(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.PRIORITY:
            _needs(stream != 0, Code.PROTOCOL_ERROR, "PRIORITY of no stream")
            _needs(len(payload) == 5, Code.FRAME_SIZE_ERROR, "PRIORITY of an odd length")
        elif kind == frames.PUSH_PROMISE:
            raise Broken(Code.PROTOCOL_ERROR, "nobody may push here")
        elif kind in (frames.SETTINGS, frames.PING, frames.GOAWAY):
            _needs(stream == 0, Code.PROTOCOL_ERROR, "a frame of the connection on a stream")
            if kind == frames.SETTINGS:
                self._settings(flags, payload)
            elif kind == frames.PING:
                _needs(len(payload) == 8, Code.FRAME_SIZE_ERROR, "PING of an odd length")
                if flags & ACK:
                    self.pinged()
                else:
                    self.write(frames.frame(frames.PING, ACK, 0, payload))
            else:
                _needs(len(payload) >= 8, Code.FRAME_SIZE_ERROR, "GOAWAY too short")
                self.told_to_go(u32(payload))

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        owed = self.flow.took(size)
        if owed:
            self.write(frames.window_update(0, owed))
        body = frames.unpadded(frames.DATA, flags, payload)
        channel = self.streams.get(stream)
        if channel is None:
            self._late(stream)
            return
        ended = bool(flags & END_STREAM)
        if not body and not ended:
            self._housekeeping()
        channel.took(size, body, ended=ended)

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if not stream:
            raise Broken(Code.PROTOCOL_ERROR, "HEADERS of no stream")
        block = frames.unpadded(frames.HEADERS, flags, payload)
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._fields(stream, block, ended=ended)
        else:
            self.blocks.begin(stream, block, ended=ended)
            self.block_begun()

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        self._housekeeping()
        self.blocks.more(stream, payload)
        if flags & END_HEADERS:
            block = self.blocks.end()
            self.block_complete()
            self._fields(stream, block, ended=self.blocks.ended)

    def _fields(self, stream: int, block: bytes, *, ended: bool) -> None:
        found = self.blocks.fields(block)
        channel = self.streams.get(stream)
        if channel is not None:
            channel.took_fields(found, ended=ended)
        else:
            self.begun(stream, found, ended=ended)

    def _window_update(self, stream: int, payload: bytes) -> None:
        self._housekeeping()
        _needs(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of an odd length")
        size = u32(payload)
        if not stream:
            self.flow.widen(size)
            return
        channel = self.streams.get(stream)
        if channel is None:
            self._known(stream)
        elif not size:
            channel.fail(Code.PROTOCOL_ERROR)
        else:
            channel.widen(size)

    def _rst_stream(self, stream: int, payload: bytes) -> None:
        _needs(len(payload) == 4, Code.FRAME_SIZE_ERROR, "RST_STREAM of an odd length")
        channel = self.streams.get(stream)
        if channel is None:
            self._late(stream)
            return
        code = u32(payload)
        if not channel.sent_end:
            self.strike()
        channel.leave()
        known = Code(code) if code <= Code.HTTP_1_1_REQUIRED else Code.INTERNAL_ERROR
        channel.broken(known, processed=known is not Code.REFUSED_STREAM)

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            _needs(not payload, Code.FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say something")
            _needs(self.settled, Code.PROTOCOL_ERROR, "the first frame acknowledges")
            return
        values = frames.read_settings(payload)
        _needs(len(values) <= _MOST_SETTINGS, Code.ENHANCE_YOUR_CALM, "too many settings")
        for name, value in values:
            self._setting(name, value)
        self.settled = True
        self.write(frames.frame(frames.SETTINGS, ACK, 0))
        self.got_settings()

    def _setting(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            self.flow.restart(value, list(self.streams.values()))
        elif name == Setting.MAX_FRAME_SIZE:
            _needs(MAX_FRAME_BYTES <= value < 1 << 24, Code.PROTOCOL_ERROR, "an impossible MAX_FRAME_SIZE")
        elif name == Setting.ENABLE_PUSH:
            _needs(value <= 1, Code.PROTOCOL_ERROR, "an impossible ENABLE_PUSH")
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value

    def _known(self, stream: int) -> None:
        """Of a stream that is over: nothing. One that never was breaks the protocol."""
        _needs(0 < stream <= self.highest, Code.PROTOCOL_ERROR, "a frame of a stream that has not begun")

    def _late(self, stream: int) -> None:
        """What was under way when we ended the stream."""
        self._known(stream)
        self._housekeeping()

    def _housekeeping(self) -> None:
        self.patience.housekeeping(time.monotonic_ns())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a timer may know of it for a while yet, so it keeps nothing large."""
        super().connection_lost(exc)
        self._buffer = bytearray()
        self._resting = False
        self.blocks.close()

    def eof_received(self) -> bool:
        """The other end sends nothing more; what it has sent counts."""
        while self._resting:
            self._go_on()
        return super().eof_received()

    # What the owner makes of it -------------------------------------------------------------------------------------

    def begun(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        """The other end begins a stream (or speaks of one that is over)."""
        raise NotImplementedError

    def told_to_go(self, last: int) -> None:
        """GOAWAY: streams above `last` came to nothing."""

    def got_settings(self) -> None:
        """Its settings have come, or changed."""

    def pinged(self) -> None:
        """It has answered our PING."""

    def block_begun(self) -> None:
        """A header block has begun whose end has not come."""

    def block_complete(self) -> None:
        """It has."""


def _needs(condition: bool, code: Code, otherwise: str) -> None:
    if not condition:
        raise Broken(code, otherwise)
