"""A caller's connection of HTTP/2 that believes nothing: every frame must be one that RFC 9113 allows there, and asked for.

Frames are read by hyperframe, fields unpacked by hpack. Room is given back as answers are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import hpack
import hyperframe.exceptions
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from loadtests.soak.call import FRAME_BYTES, Call
from loadtests.soak.line import Line, Wrong

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD_BYTES = 9
_WINDOW = 65_535
_GIVEN_BACK = 32_768
"""Room is given back in pieces of this size: for each byte would be a flood."""
_CANCEL = 8
_STREAMS_AT_ONCE = 100
"""Until the gateway has said how many."""
Fields = Sequence[tuple[str, str]]


class Multiplexed(Line):
    """One connection, with all of its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.room = self.first_room = _WINDOW
        self.last_begun: int | None = None
        """By GOAWAY: the highest stream that the gateway finishes; None before one has come."""
        self.wrong = ""
        """What no gateway may do."""
        self.calls: dict[int, Call] = {}
        self.begun = 0
        """Streams so far."""
        self.most = _STREAMS_AT_ONCE
        """Streams at once, as the gateway wishes."""
        self.left = False
        """Whether nobody begins anything on it any more."""
        self._owed = 0
        self._packer, self._unpacker = hpack.Encoder(), hpack.Decoder()
        self._buffer = bytearray()
        self._block: tuple[int, bytearray, bool] | None = None

    def begin(self, fields: Fields, *, ended: bool = False) -> Call:
        """A new stream, with the head of its request."""
        if not self.begun:
            self.transport.write(_PREFACE + SettingsFrame(0, {SettingsFrame.ENABLE_PUSH: 0}).serialize())
        number = 2 * self.begun + 1
        self.begun += 1
        call = self.calls[number] = Call(self, number)
        flags = ["END_HEADERS", *(["END_STREAM"] if ended else [])]
        self.say(HeadersFrame(number, self._packer.encode(list(fields)), flags=flags))
        return call

    @property
    def open(self) -> bool:
        """Whether new streams make sense on it."""
        return not self.ended and self.last_begun is None and not self.wrong

    @property
    def full(self) -> bool:
        """Whether one more stream would be more than the gateway takes (RFC 9113, 5.1.2)."""
        return len(self.calls) >= self.most

    def say(self, frame: Frame) -> None:
        """One frame."""
        if not self.transport.is_closing():
            self.transport.write(frame.serialize())

    def give(self, call: Call | None, size: int) -> None:
        """Room for what has been read."""
        self._owed += size
        if self._owed >= _GIVEN_BACK:
            self.say(WindowUpdateFrame(0, window_increment=self._owed))
            self._owed = 0
        if call is not None and not call.over:
            call.owed += size
            if call.owed >= _GIVEN_BACK:
                self.say(WindowUpdateFrame(call.number, window_increment=call.owed))
                call.owed = 0

    def let_go(self, call: Call) -> None:
        """Forget a stream; one that is not over is taken back."""
        del self.calls[call.number]
        self.give(None, len(call.got))
        if not call.over and not self.ended:
            self.say(RstStreamFrame(call.number, error_code=_CANCEL))
        if not self.calls and (self.left or not self.open):
            self.close()

    def leave(self) -> None:
        """Close it once its streams are over."""
        self.left = True
        if not self.calls:
            self.close()

    # What comes -----------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """All look again: room and the end are of all."""
        for call in self.calls.values():
            call.news.set()

    def came(self, data: bytes) -> None:
        """Frames, in any pieces."""
        self._buffer += data
        try:
            while len(self._buffer) >= _HEAD_BYTES and not self.wrong:
                frame, length = Frame.parse_frame_header(memoryview(bytes(self._buffer[:_HEAD_BYTES])), strict=True)
                if length > FRAME_BYTES:
                    raise Wrong(f"a frame of {length} bytes")
                if len(self._buffer) < _HEAD_BYTES + length:
                    return
                frame.parse_body(memoryview(bytes(self._buffer[_HEAD_BYTES : _HEAD_BYTES + length])))
                del self._buffer[: _HEAD_BYTES + length]
                self._take(frame)
        except (hyperframe.exceptions.HyperframeError, hpack.HPACKError, ValueError, Wrong) as error:
            self.wrong = f"HTTP/2: {error!r}"
            self.abort()

    def _take(self, frame: Frame) -> None:
        if self._block is not None and not isinstance(frame, ContinuationFrame):
            raise Wrong(f"{frame} inside a block of fields")
        match frame:
            case HeadersFrame():
                self._stream(frame.stream_id)
                self._block = frame.stream_id, bytearray(frame.data), "END_STREAM" in frame.flags
                self._fields("END_HEADERS" in frame.flags)
            case ContinuationFrame() if self._block is not None and self._block[0] == frame.stream_id:
                self._block[1].extend(frame.data)
                self._fields("END_HEADERS" in frame.flags)
            case DataFrame():
                self._data(self._stream(frame.stream_id), frame)
            case RstStreamFrame():
                if (call := self._stream(frame.stream_id)) is not None and not call.ended:
                    call.reset = frame.error_code
            case WindowUpdateFrame(stream_id=0):
                self.room += frame.window_increment
            case WindowUpdateFrame():
                if (call := self._stream(frame.stream_id)) is not None:
                    call.room += frame.window_increment
            case SettingsFrame():
                self._settings(frame)
            case PingFrame():
                if "ACK" not in frame.flags:
                    self.say(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
            case GoAwayFrame():
                if frame.error_code:
                    raise Wrong(f"GOAWAY with {frame.error_code}: {frame.additional_data!r}")
                self.last_begun = frame.last_stream_id
            case _:
                raise Wrong(f"{frame} came, which nobody asked for")

    def _stream(self, number: int) -> Call | None:
        """None for one that was let go of. Raises `Wrong` for one that never was."""
        if number % 2 == 0 or number >= 2 * self.begun + 1:
            raise Wrong(f"a frame on stream {number}, which never was")
        return self.calls.get(number)

    def _fields(self, whole: bool) -> None:
        if self._block is None or not whole:
            return
        number, block, ended = self._block
        self._block = None
        fields: dict[str, str] = {}
        for raw, value in self._unpacker.decode(bytes(block), raw=True):
            name = bytes(raw).decode("latin-1")
            if name != name.lower() or (name in fields and name != "set-cookie"):
                raise Wrong(f"field {name!r} in upper case, or twice")
            fields[name] = bytes(value).decode("latin-1")
        if (call := self.calls.get(number)) is not None and not call.over:
            call.take_fields(fields, ended=ended)
            call.ended = ended

    def _data(self, call: Call | None, frame: DataFrame) -> None:
        size = frame.flow_controlled_length
        if call is None:
            self.give(None, size)
            return
        if call.over:
            raise Wrong(f"data behind the end of stream {call.number}")
        call.got += frame.data
        self.give(call, size - len(frame.data))  # padding is nobody's
        call.ended = "END_STREAM" in frame.flags

    def _settings(self, frame: SettingsFrame) -> None:
        if "ACK" in frame.flags:
            return
        first = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self.first_room)
        for call in self.calls.values():
            call.room += first - self.first_room
        self.first_room = first
        self.most = frame.settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self.most)
        table = SettingsFrame.HEADER_TABLE_SIZE
        self._packer.header_table_size = frame.settings.get(table, self._packer.header_table_size)
        self.say(SettingsFrame(0, flags=["ACK"]))
