"""What the soak's callers of HTTP/2 notice: a server that breaks the protocol, gives up, or goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import hpack
import pytest
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from loadtests.soak.call import Call, NotBegun
from loadtests.soak.http2 import Multiplexed
from loadtests.soak.line import Broken, Wrong

FIELDS = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
HEAD = hpack.Encoder().encode([(":status", "200"), ("content-length", "5")])


@contextlib.asynccontextmanager
async def answered_with(*frames: Frame, end: bool = False) -> AsyncIterator[Multiplexed]:
    """A line to a server that says these frames to whatever comes first."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"".join(frame.serialize() for frame in (SettingsFrame(0), *frames)))
        if end:
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        over.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        line = await Multiplexed.to("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            async with asyncio.timeout(20):
                yield line
        finally:
            line.abort()
            await over.wait()


async def body(call: Call) -> bytes:
    return await call.body(await call.head())


async def head(call: Call) -> object:
    return await call.head()


async def test_an_answer_comes_with_its_trailers() -> None:
    frames = (
        HeadersFrame(1, HEAD, flags=["END_HEADERS"]),
        DataFrame(1, b"he", flags=["PADDED"], pad_length=7),
        DataFrame(1, b"llo"),
        HeadersFrame(1, hpack.Encoder().encode([("grpc-status", "0")]), flags=["END_HEADERS", "END_STREAM"]),
    )
    async with answered_with(*frames) as line:
        call = line.begin(FIELDS, ended=True)
        assert await body(call) == b"hello"
        assert call.trailers == {"grpc-status": "0"}


@pytest.mark.parametrize(
    ("frames", "end", "asks", "error"),
    [
        ((HeadersFrame(1, HEAD, flags=["END_HEADERS"]), RstStreamFrame(1, error_code=2)), False, body, Broken),
        ((HeadersFrame(1, HEAD, flags=["END_HEADERS"]),), True, body, Broken),
        ((RstStreamFrame(1, error_code=7),), False, head, Broken),
        ((GoAwayFrame(0, last_stream_id=0),), True, head, NotBegun),
        ((GoAwayFrame(0, last_stream_id=1),), True, head, Broken),
        ((GoAwayFrame(0, last_stream_id=2**31 - 1), RstStreamFrame(1, error_code=7)), False, head, NotBegun),
        ((GoAwayFrame(0, last_stream_id=1, error_code=11),), True, head, Wrong),
        ((HeadersFrame(3, HEAD, flags=["END_HEADERS"]),), False, head, Wrong),
        ((HeadersFrame(1, HEAD), DataFrame(1, b"hello")), False, head, Wrong),
        (
            (HeadersFrame(1, HEAD, flags=["END_HEADERS"]), DataFrame(1, b"hell", flags=["END_STREAM"])),
            False,
            body,
            Wrong,
        ),
    ],
)
async def test_what_is_no_whole_answer_is_told_apart(
    frames: tuple[Frame, ...], end: bool, asks: Callable[[Call], Awaitable[object]], error: type[Exception]
) -> None:
    async with answered_with(*frames, end=end) as line:
        call = line.begin(FIELDS, ended=True)
        with pytest.raises(error):
            await asks(call)


async def test_a_line_that_is_left_ends_with_its_last_stream() -> None:
    async with answered_with(HeadersFrame(1, HEAD, flags=["END_HEADERS"])) as line:
        call = line.begin(FIELDS, ended=True)
        await call.head()
        line.leave()
        assert not line.transport.is_closing()
        call.close()
        assert line.transport.is_closing()


async def test_what_comes_behind_an_answer_is_noticed_although_nobody_waits_for_it() -> None:
    whole = (HeadersFrame(1, HEAD, flags=["END_HEADERS"]), DataFrame(1, b"hello", flags=["END_STREAM"]))
    async with answered_with(*whole, DataFrame(1, b"more")) as line:
        assert await body(line.begin(FIELDS, ended=True)) == b"hello"
        while not line.ended:
            await asyncio.sleep(0.01)
        assert "behind the end of stream 1" in line.wrong


async def test_how_long_a_line_has_been_idle_is_the_kernels_word() -> None:
    async with answered_with(HeadersFrame(1, HEAD, flags=["END_HEADERS"])) as line:
        await line.begin(FIELDS, ended=True).head()
        before = line.idle_seconds
        await asyncio.sleep(0.3)
        line.used = 0.0
        assert 0.25 <= line.idle_seconds - before < 30


async def test_no_more_streams_at_once_than_the_gateway_takes() -> None:
    async with answered_with(SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 2})) as line:
        assert line.most == 100
        calls = [line.begin(FIELDS), line.begin(FIELDS)]
        while line.most != 2:
            await asyncio.sleep(0.005)
        full = [line.full]
        for call in calls:
            call.close()
            full.append(line.full)
        assert full == [True, False, False]
