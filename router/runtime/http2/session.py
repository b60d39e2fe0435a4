"""One connection of HTTP/2, either end of it: frames in and out, windows, and how much nonsense it may cost (RFC 9113).

Field compression is `hpack`'s. The frames and the states of streams are handled here: a library that has all of it (h2)
ends every stream of a connection when one of them is malformed, and none of them can go on behind a GOAWAY, so that nothing
could be drained. Whoever breaks the protocol as a whole ends the connection; whoever breaks a stream ends that stream.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from router.runtime.http2 import frames
from router.runtime.http2.channel import STREAM_WINDOW, Channel, Field
from router.runtime.http2.flooding import (
    HOUSEKEEPING,
    HOUSEKEEPING_PER_SECOND,
    PER_FRAME_SENT,
    RESETS,
    RESETS_PER_SECOND,
    Allowance,
)
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
    Setting,
    u32,
)

CONNECTION_WINDOW = 1 << 20
"""Of all streams together. What came is given back at once: the streams' own windows bound what is held."""
_MOST_SETTINGS = 64
"""In one frame; there are six."""
_NO_FIELDS: list[Field] = []
_NO_DECODER = Decoder()
"""For connections that are over."""
_FIRST_STREAMS = 100
"""Streams at once, before the other end has said how many it takes."""


class Session:
    """One connection; a protocol by its methods alone, so that it can be compiled."""

    __slots__ = (
        "_block", "_block_bytes", "_block_ended", "_block_stream", "_buffer", "_decoder", "_house", "_list_bytes", "_need",
        "_owed", "_resets", "_room", "_same_block", "_same_fields", "congested", "frames_sent", "highest", "over", "peer_streams", "peer_window", "settled",
        "streams", "taken", "transport", "waiting", "window",
    )  # fmt: skip

    def __init__(self, list_bytes: int) -> None:
        """`list_bytes`: how large a field section may be before it is refused."""
        now = time.monotonic_ns()
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.streams: dict[int, Channel] = {}
        self.waiting: dict[int, Channel] = {}
        """Streams that have something to send and no room for it, in turn."""
        self.congested = False
        """The other end reads slower than we write."""
        self.window = FIRST_WINDOW
        self.peer_window = FIRST_WINDOW
        """Of each new stream."""
        self.peer_streams = _FIRST_STREAMS
        self.highest = 0
        """Stream that the other end has begun (or, to a replica, that we have)."""
        self.taken = 0
        """Highest stream of the other end for which anything was done."""
        self.settled = False
        """Its SETTINGS have come."""
        self.over = False
        self.frames_sent = 0
        """Since the last look at what it may cost."""
        self._buffer = bytearray()
        self._need = 0
        self._room = CONNECTION_WINDOW
        self._owed = 0
        self._block: list[bytes] | None = None
        self._block_bytes = 0
        self._block_stream = 0
        self._block_ended = False
        self._list_bytes = list_bytes
        self._decoder = Decoder(2 * list_bytes)
        self._same_block = b""
        self._same_fields = _NO_FIELDS
        """Of the last block, where the next would mean the same if it were the same."""
        self._house = Allowance(HOUSEKEEPING, HOUSEKEEPING_PER_SECOND, now)
        self._resets = Allowance(RESETS, RESETS_PER_SECOND, now)

    def begin(self, transport: asyncio.BaseTransport, first: bytes, values: dict[Setting, int]) -> None:
        """Say `first` and what we take."""
        self.transport = cast("asyncio.Transport", transport)
        values = {
            **values,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: self._list_bytes,
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
            if len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._cut(data)
        except Broken as error:
            self.end(error.code, str(error))

    def _cut(self, data: bytes) -> None:
        at, end = 0, len(data)
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
            self._frame(kind, flags, stream & MAX_WINDOW, data[at + HEADER_BYTES : stop])
            if self.over:
                return
            at = stop
        self._need = HEADER_BYTES
        self._buffer += data[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
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
        self._room -= size
        _needs(self._room >= 0, Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._owed += size
        if self._owed >= CONNECTION_WINDOW // 2:
            self._room += self._owed
            self.write(frames.window_update(0, self._owed))
            self._owed = 0
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
        _needs(stream != 0, Code.PROTOCOL_ERROR, "HEADERS of no stream")
        block = frames.unpadded(frames.HEADERS, flags, payload)
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._fields(stream, block, ended=ended)
            return
        self._block, self._block_bytes = [block], len(block)
        self._block_stream, self._block_ended = stream, ended
        self.block_begun()

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        self._housekeeping()
        if self._block is None or stream != self._block_stream:
            raise Broken(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block.append(payload)
        self._block_bytes += len(payload)
        # Fields of this block cannot be left out: the table that all later ones need would be another.
        _needs(self._block_bytes <= self._list_bytes, Code.ENHANCE_YOUR_CALM, "a header block without an end")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), None
            self.block_complete()
            self._fields(stream, block, ended=self._block_ended)

    def _fields(self, stream: int, block: bytes, *, ended: bool) -> None:
        found = self._same_fields if block == self._same_block else self._unpacked(block)
        channel = self.streams.get(stream)
        if channel is not None:
            channel.took_fields(found, ended=ended)
        else:
            self.begun(stream, found, ended=ended)

    def _unpacked(self, block: bytes) -> list[Field]:
        """A block that changes nothing in the table is remembered as long as no other does: callers repeat themselves."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (len(entries), entries[0] if entries else None, table.maxsize)
        try:
            found = cast("list[Field]", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as excess:
            raise Broken(Code.ENHANCE_YOUR_CALM, "a field section far too large") from excess
        except HPACKError as error:
            raise Broken(Code.COMPRESSION_ERROR, "fields that cannot be unpacked") from error
        newest = entries[0] if entries else None
        same = before[0] == len(entries) and before[1] is newest and before[2] == table.maxsize
        self._same_block, self._same_fields = (block, found) if same else (b"", _NO_FIELDS)
        return found

    def _window_update(self, stream: int, payload: bytes) -> None:
        self._housekeeping()
        _needs(len(payload) == 4, Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of an odd length")
        size = u32(payload)
        if not stream:
            self.window += size
            _needs(size > 0, Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            _needs(self.window <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
            self.pump()
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
            _needs(value <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
            change, self.peer_window = value - self.peer_window, value
            for channel in list(self.streams.values()):
                _needs(channel.window + change <= MAX_WINDOW, Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
                channel.widen(change)
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
        self._house.earn(PER_FRAME_SENT * self.frames_sent)
        self.frames_sent = 0
        if not self._house.spend(time.monotonic_ns()):
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def strike(self) -> None:
        """A stream was ended early by the other end, or by its fault. Raises `Broken` when that was too often."""
        if not self._resets.spend(time.monotonic_ns()):
            raise Broken(Code.ENHANCE_YOUR_CALM, "too many requests that are taken back or malformed")

    def good(self) -> None:
        """A stream was answered."""
        self._resets.earn()

    # Out ------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Whole frames."""
        if not self.over:
            self.transport.write(data)

    def write_frames(self, written: list[bytes]) -> None:
        """Several."""
        if written and not self.over:
            self.transport.write(written[0] if len(written) == 1 else b"".join(written))

    def pump(self) -> None:
        """Let everybody who waits send, in turn, a frame each."""
        moving = True
        while moving and self.window > 0 and not self.congested:
            moving = False
            for channel in list(self.waiting.values()):
                moving |= channel.pump()

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.congested = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.congested = False
        self.pump()

    def drop(self, channel: Channel) -> None:
        """A stream is over."""
        if self.streams.get(channel.id) is channel:
            del self.streams[channel.id]
            self.waiting.pop(channel.id, None)
            if not self.streams:
                self.quiet()

    # The end --------------------------------------------------------------------------------------------------------

    def end(self, code: Code, why: str) -> None:
        """Say why, and let nothing more come of it."""
        if self.over:
            return
        self.transport.write(frames.goaway(self.taken, code, why))
        self.over = True
        self.hang_up(code)
        self.lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; a timer may know of it for a while yet, so it keeps nothing large."""
        self.over = True
        self.lost(exc)
        self._decoder, self._buffer, self._block = _NO_DECODER, bytearray(), None
        self._same_block, self._same_fields = b"", _NO_FIELDS

    def eof_received(self) -> bool:
        """The other end sends nothing more: the connection is over (RFC 9113 has no half of one)."""
        return False

    def lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- for whoever asks why
        """Every stream is over, in the middle."""
        channels = list(self.streams.values())
        for channel in channels:
            channel.leave()
        for channel in channels:
            channel.broken(None, processed=True)

    # What the owner makes of it -------------------------------------------------------------------------------------

    def begun(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        """The other end begins a stream (or speaks of one that is over)."""
        raise NotImplementedError

    def told_to_go(self, last: int) -> None:
        """GOAWAY: streams above `last` came to nothing."""

    def got_settings(self) -> None:
        """Its settings have come, or changed."""

    def hang_up(self, code: Code) -> None:  # noqa: ARG002 -- for those that do not hang up at once
        """End the connection behind what has been written."""
        self.transport.close()

    def pinged(self) -> None:
        """It has answered our PING."""

    def block_begun(self) -> None:
        """A header block has begun whose end has not come."""

    def block_complete(self) -> None:
        """It has."""

    def quiet(self) -> None:
        """No stream is left."""


def _needs(condition: bool, code: Code, otherwise: str) -> None:
    if not condition:
        raise Broken(code, otherwise)
