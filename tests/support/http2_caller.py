"""A caller that speaks HTTP/2 frame by frame: it follows no rule unless a test wants it to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import hpack
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

from tests.support.gateway_rig import KEY, PATIENCE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = list[tuple[bytes, bytes]]


@dataclass
class Heard:
    """What came on one stream."""

    interim: list[int] = dataclasses.field(default_factory=list)
    status: int = 0
    fields: Fields = dataclasses.field(default_factory=list)
    body: bytearray = dataclasses.field(default_factory=bytearray)
    trailers: Fields | None = None
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def field(self, name: str) -> str | None:
        """The only value of a field; fails if there are several."""
        found = [value.decode() for key, value in self.fields if key == name.encode()]
        assert len(found) < 2, f"{name} more than once"
        return found[0] if found else None

    def trailer(self, name: str) -> str | None:
        """A field behind the body, or of an answer that is nothing but fields."""
        fields = self.fields if self.trailers is None else self.trailers
        return next((value.decode() for key, value in fields if key == name.encode()), None)


class Http2Caller:
    """One connection. `window`: whether room is given back for what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, window: bool) -> None:
        self._reader = reader
        self.writer = writer
        self._window = window
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._changed = asyncio.Event()
        self._next = 1
        self.streams: dict[int, Heard] = {}
        self.settings: dict[int, int] = {}
        self.goaways: list[tuple[int, int]] = []
        """(last stream, code) in order."""
        self.acknowledged = 0
        """Settings of ours."""
        self.pongs = 0
        self.room: dict[int, int] = {0: 65535}
        """What may be sent, per stream; 0 is the connection."""
        self.ended = False
        self.polite = True
        """Acknowledges what asks for it."""

    # Out

    def raw(self, data: bytes) -> None:
        """These bytes."""
        self.writer.write(data)

    def send(self, *frames: Frame) -> None:
        """These frames."""
        self.writer.write(b"".join(frame.serialize() for frame in frames))

    def block(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Fields, packed."""
        return self._encoder.encode(list(fields))

    def new(self) -> int:
        """The number of the next stream."""
        number, self._next = self._next, self._next + 2
        self.streams[number] = Heard()
        return number

    def begin(self, fields: Sequence[tuple[bytes, bytes]], *, ended: bool = False) -> int:
        """HEADERS of a new stream."""
        number = self.new()
        self.send(HeadersFrame(number, self.block(fields), flags=["END_HEADERS", *(["END_STREAM"] if ended else [])]))
        return number

    def data(self, stream: int, body: bytes, *, ended: bool = False) -> None:
        """DATA, whatever there is room for."""
        self.send(DataFrame(stream, body, flags=["END_STREAM"] if ended else []))

    async def upload(self, stream: int, body: bytes) -> None:
        """The whole body, as there is room for it."""
        at = 0
        while at < len(body):
            size = min(self._room(stream), len(body) - at, 16384)
            if size <= 0:
                await self._until(lambda: self._room(stream) > 0 or self.streams[stream].over, "room")
                if self.streams[stream].over:
                    return
                continue
            self.data(stream, body[at : at + size], ended=at + size == len(body))
            self.room[stream] = self.room.get(stream, self.settings.get(4, 65535)) - size
            self.room[0] -= size
            at += size
            await self.writer.drain()

    def _room(self, stream: int) -> int:
        return min(self.room[0], self.room.get(stream, self.settings.get(4, 65535)))

    def post(self, body: bytes = b"hello", *, extra: Sequence[tuple[bytes, bytes]] = ()) -> int:
        """A whole request."""
        number = self.begin([*request(), (b"content-length", b"%d" % len(body)), *extra])
        self.data(number, body, ended=True)
        return number

    def cancel(self, stream: int) -> None:
        """Take a request back."""
        self.send(RstStreamFrame(stream, error_code=8))

    def give(self, stream: int, size: int) -> None:
        """Make room."""
        self.send(WindowUpdateFrame(stream, window_increment=size))

    # In

    async def answer(self, stream: int) -> Heard:
        """All of it."""
        heard = self.streams[stream]
        await self._until(lambda: heard.over, f"the end of stream {stream}")
        return heard

    async def heard(self, stream: int, size: int) -> Heard:
        """At least so much of its body."""
        heard = self.streams[stream]
        await self._until(lambda: len(heard.body) >= size or heard.over, f"{size} bytes of stream {stream}")
        return heard

    async def head(self, stream: int) -> Heard:
        """Its head."""
        heard = self.streams[stream]
        await self._until(lambda: heard.status or heard.over, f"the head of stream {stream}")
        return heard

    async def told(self, count: int = 1) -> tuple[int, int]:
        """The last of so many GOAWAY frames."""
        await self._until(lambda: len(self.goaways) >= count, f"{count} GOAWAY")
        return self.goaways[count - 1]

    async def end(self) -> None:
        """Of the connection."""
        await self._until(lambda: self.ended, "the end of the connection")

    async def ping(self) -> None:
        """Until everything before has been seen."""
        pongs = self.pongs
        self.send(PingFrame(0, opaque_data=b"are-you?"))
        await self._until(lambda: self.pongs > pongs or self.ended, "an answer to PING")

    async def _until(self, condition: object, what: str) -> None:
        assert callable(condition)
        async with asyncio.timeout(PATIENCE):
            while not condition():
                assert not self.ended or condition(), f"never: {what}; the connection has ended, {self.goaways}"
                self._changed.clear()
                await self._changed.wait()

    async def read(self) -> None:
        """Take whatever comes, until the end."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
                self._changed.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended = True
            self._changed.set()

    def _take(self, frame: Frame) -> None:
        heard = self.streams.setdefault(frame.stream_id, Heard())
        if isinstance(frame, HeadersFrame):
            assert "END_HEADERS" in frame.flags, "no answer of a test is so large"
            self._fields(heard, frame)
        elif isinstance(frame, DataFrame):
            heard.body += frame.data
            if self._window and frame.data:
                self.give(0, len(frame.data))
                self.give(frame.stream_id, len(frame.data))
        elif isinstance(frame, RstStreamFrame):
            heard.reset = frame.error_code
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append((frame.last_stream_id, frame.error_code))
        elif isinstance(frame, WindowUpdateFrame):
            first = self.settings.get(4, 65535)
            self.room[frame.stream_id] = self.room.get(frame.stream_id, first) + frame.window_increment
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pongs += 1
            elif self.polite:
                self.send(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, SettingsFrame):
            if "ACK" in frame.flags:
                self.acknowledged += 1
            else:
                self.settings.update(frame.settings)
                if self.polite:
                    self.send(SettingsFrame(0, flags=["ACK"]))
        if isinstance(frame, HeadersFrame | DataFrame) and "END_STREAM" in frame.flags:
            assert not heard.over, "something behind the end"
            heard.ended = True

    def _fields(self, heard: Heard, frame: HeadersFrame) -> None:
        fields: Fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(frame.data, raw=True)]
        assert all(name == name.lower() for name, _ in fields)
        if heard.status:
            heard.trailers = fields
            return
        assert fields[0][0] == b":status"
        status = int(fields[0][1])
        if status < 200:
            heard.interim.append(status)
        else:
            heard.status, heard.fields = status, fields[1:]


def request(
    path: bytes = b"/endpoints/demo/score",
    key: str | None = KEY,
    method: bytes = b"POST",
    authority: bytes = b"gateway",
) -> Fields:
    """The pseudo-fields of a request, and its key."""
    fields = [(b":method", method), (b":scheme", b"http"), (b":authority", authority), (b":path", path)]
    return fields if key is None else [*fields, (b"authorization", b"Bearer " + key.encode())]


@contextlib.asynccontextmanager
async def http2(
    port: int,
    *,
    settings: dict[int, int] | None = None,
    window: bool = True,
    quiet: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Http2Caller]:
    """A connection for as long as the block runs; `quiet`: nothing has been said on it."""
    name = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    caller = Http2Caller(reader, writer, window=window)
    reading = asyncio.create_task(caller.read())
    try:
        if not quiet:
            caller.raw(PREFACE)
            caller.send(SettingsFrame(0, settings or {}))
        yield caller
        assert not reading.done() or reading.exception() is None
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


__all__ = [
    "PREFACE",
    "ContinuationFrame",
    "DataFrame",
    "Fields",
    "HeadersFrame",
    "Heard",
    "Http2Caller",
    "PingFrame",
    "RstStreamFrame",
    "SettingsFrame",
    "WindowUpdateFrame",
    "http2",
    "request",
]  # fmt: skip
