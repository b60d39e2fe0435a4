"""Callers of HTTP/2 that mean harm: each costs little, ends its own connection at most, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import hpack
import pytest
import pytest_asyncio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.gateway_rig import Rig, deployment, gateway, replica
from tests.support.gateway_upstream import Request, ScriptedReplica, ask, scripted
from tests.support.http2_caller import PREFACE, Http2Caller, http2
from tests.support.http2_caller import request as asked

CALM, PROTOCOL, FLOW, SIZE, COMPRESSION = 11, 1, 3, 6, 9
_MOST = 3000
"""Of anything; more would be let pass."""


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with gateway(tmp_path, **getattr(request, "param", {})) as rig:
        sets = {"blue": [replica(upstream.port, replica_id="blue")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        yield rig
        assert (await ask(rig.port)).status == 200


@pytest_asyncio.fixture
async def peer(rig: Rig) -> AsyncIterator[Http2Caller]:
    async with http2(rig.port) as connection:
        yield connection


async def ended_with(peer: Http2Caller) -> int:
    """The code of the last GOAWAY."""
    await peer.end()
    return peer.goaways[-1][1]


async def flood(peer: Http2Caller, one: Callable[[], object]) -> int:
    """Again and again until the gateway has enough."""
    for number in range(_MOST):
        one()
        if number % 50 == 0 and not peer.ended:
            await peer.ping()
        if peer.ended:
            break
    return await ended_with(peer)


async def test_requests_that_are_taken_back_at_once(peer: Http2Caller) -> None:  # CVE-2023-44487
    assert await flood(peer, lambda: peer.cancel(peer.begin(asked(), ended=True))) == CALM


async def test_requests_that_make_the_gateway_take_them_back(peer: Http2Caller) -> None:  # CVE-2025-8671
    assert await flood(peer, lambda: peer.give(peer.begin(asked()), 2**31 - 1)) == CALM


async def test_requests_that_are_malformed_without_end(peer: Http2Caller) -> None:
    assert await flood(peer, lambda: peer.begin([*asked(), (b"connection", b"close")], ended=True)) == CALM


async def test_more_streams_than_are_allowed_without_end(peer: Http2Caller) -> None:
    assert await flood(peer, lambda: peer.begin(asked())) == CALM


async def test_who_takes_back_some_and_waits_for_most_may_stay(peer: Http2Caller) -> None:
    for _ in range(400):
        await peer.answer(peer.post())
        peer.cancel(peer.begin(asked()))
    await peer.ping()
    assert not peer.goaways


async def test_a_header_block_without_an_end(peer: Http2Caller) -> None:  # CVE-2024-27316
    peer.send(HeadersFrame(1, peer.block(asked())))
    block = peer.block([(b"x-a", b"y" * 4000)])
    for _ in range(40):
        peer.send(ContinuationFrame(1, block))
    assert await ended_with(peer) == CALM


async def test_a_header_block_of_nothing_without_an_end(peer: Http2Caller) -> None:
    peer.send(HeadersFrame(1, peer.block(asked())))
    for _ in range(_MOST):
        peer.send(ContinuationFrame(1))
    assert await ended_with(peer) == CALM


@pytest.mark.parametrize("rig", [{"header_seconds": 0.1}], indirect=True)
async def test_a_header_block_that_stops_in_the_middle(rig: Rig) -> None:
    async with http2(rig.port) as peer:
        await peer.ping()
        peer.send(HeadersFrame(1, peer.block(asked())))
        assert await ended_with(peer) == CALM


@pytest.mark.parametrize("rig", [{"header_seconds": 0.1}], indirect=True)
async def test_a_connection_that_says_nothing_behind_the_preface(rig: Rig) -> None:
    async with http2(rig.port, quiet=True) as peer:
        peer.polite = False
        peer.raw(PREFACE)
        assert await ended_with(peer) == 4


@pytest.mark.parametrize("rig", [{"idle_seconds": 0.1}], indirect=True)
async def test_a_connection_without_requests_that_pings(rig: Rig) -> None:
    async with http2(rig.port) as peer:
        await peer.answer(peer.post())
        while not peer.ended:
            await peer.ping()
            await asyncio.sleep(0.01)
        assert peer.goaways[-1][1] == 0


def _unknown() -> Frame:
    return ExtensionFrame(type=0xEE, stream_id=0, flag_byte=0, body=b"")


@pytest.mark.parametrize(
    "frame",
    [
        lambda: SettingsFrame(0, {4: 65535}),
        lambda: PingFrame(0, opaque_data=b"12345678"),
        lambda: PriorityFrame(3, depends_on=1),
        lambda: WindowUpdateFrame(1, window_increment=1),
        lambda: RstStreamFrame(1, error_code=8),
        lambda: DataFrame(1, b""),
        _unknown,
    ],
    ids=["SETTINGS", "PING", "PRIORITY", "WINDOW_UPDATE", "RST_STREAM", "empty DATA", "unknown"],
)
async def test_frames_that_ask_for_nothing(peer: Http2Caller, frame: Callable[[], Frame]) -> None:
    await peer.answer(peer.post())
    assert await flood(peer, lambda: peer.send(frame())) == CALM


async def test_data_of_nothing_on_a_request(peer: Http2Caller) -> None:
    stream = peer.begin(asked())
    assert await flood(peer, lambda: peer.data(stream, b"")) == CALM


async def test_room_for_a_byte_at_a_time(rig: Rig) -> None:  # CVE-2019-9511
    async with http2(rig.port, settings={4: 0}, window=False) as peer:
        stream = peer.begin([*asked(), (b"content-length", b"50000")])
        await peer.upload(stream, b"x" * 50_000)
        assert await flood(peer, lambda: peer.give(stream, 1)) == CALM


async def test_a_field_that_is_small_packed_and_huge_unpacked(peer: Http2Caller) -> None:
    bomb = hpack.Encoder().encode([*asked(), (b"x-bomb", b"y" * 4000)])
    peer.send(HeadersFrame(1, bomb + b"\xbe" * 10_000, flags=["END_HEADERS", "END_STREAM"]))
    assert await ended_with(peer) == CALM


async def test_fields_above_the_bound_are_refused_alone(peer: Http2Caller) -> None:
    fields = [*asked(), *((b"x-%d" % number, b"y" * 3000) for number in range(22))]
    block = peer.block(fields)
    stream = peer.new()
    peer.send(HeadersFrame(stream, block[:16384], flags=["END_STREAM"]))
    for at in range(16384, len(block), 16384):
        last = at + 16384 >= len(block)
        peer.send(ContinuationFrame(stream, block[at : at + 16384], flags=["END_HEADERS"] if last else []))
    got = await peer.answer(stream)
    assert (got.status, b"RequestHeaderFieldsTooLarge" in got.body) == (431, True)
    assert (await peer.answer(peer.post())).status == 200


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (lambda _: HeadersFrame(2, b"", flags=["END_HEADERS"]), PROTOCOL),
        (lambda _: DataFrame(7, b"x"), PROTOCOL),
        (lambda _: RstStreamFrame(7), PROTOCOL),
        (lambda _: WindowUpdateFrame(7, window_increment=1), PROTOCOL),
        (lambda _: ContinuationFrame(1, b"", flags=["END_HEADERS"]), PROTOCOL),
        (lambda _: SettingsFrame(0, {2: 7}), PROTOCOL),
        (lambda _: SettingsFrame(0, {5: 7}), PROTOCOL),
        (lambda _: SettingsFrame(0, {4: 2**31}), FLOW),
        (lambda _: SettingsFrame(0, dict.fromkeys(range(100, 200), 1)), CALM),
        (lambda _: WindowUpdateFrame(0, window_increment=2**31 - 1), FLOW),
        (lambda _: HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]), COMPRESSION),
        (lambda _: HeadersFrame(1, b"\x40\x05ab", flags=["END_HEADERS"]), COMPRESSION),
        (lambda _: DataFrame(1, b"x" * 16385), SIZE),
    ],
)  # fmt: skip
async def test_what_breaks_the_protocol_ends_the_connection(
    peer: Http2Caller, frame: Callable[[object], Frame], code: int
) -> None:
    peer.send(frame(None))
    assert await ended_with(peer) == code


RAW = {
    "HEADERS of no stream": (b"\0\0\0\1\4\0\0\0\0", PROTOCOL),
    "DATA of no stream": (b"\0\0\1\0\0\0\0\0\0x", PROTOCOL),
    "PING of a stream": (b"\0\0\x08\6\0\0\0\0\1" + b"12345678", PROTOCOL),
    "SETTINGS of a stream": (b"\0\0\0\4\0\0\0\0\1", PROTOCOL),
    "PING of 7 bytes": (b"\0\0\7\6\0\0\0\0\0" + b"1234567", SIZE),
    "RST_STREAM of 3 bytes": (b"\0\0\3\3\0\0\0\0\1" + b"123", SIZE),
    "SETTINGS of 5 bytes": (b"\0\0\5\4\0\0\0\0\0" + b"12345", SIZE),
    "an acknowledgement with settings": (b"\0\0\6\4\1\0\0\0\0" + b"\0\4\0\0\0\1", SIZE),
    "WINDOW_UPDATE of nothing": (b"\0\0\4\x08\0\0\0\0\0" + b"\0\0\0\0", PROTOCOL),
    "more padding than frame": (b"\0\0\2\0\x08\0\0\0\1" + b"\7x", PROTOCOL),
    "a push": (b"\0\0\4\5\4\0\0\0\1" + b"\0\0\0\2", PROTOCOL),
    "another frame in a header block": (b"\0\0\0\1\0\0\0\0\1" + b"\0\0\x08\6\0\0\0\0\0" + b"12345678", PROTOCOL),
}


@pytest.mark.parametrize(("raw", "code"), RAW.values(), ids=RAW.keys())
async def test_frames_of_a_wrong_size_or_place(peer: Http2Caller, raw: bytes, code: int) -> None:
    await peer.ping()
    peer.raw(raw)
    assert await ended_with(peer) == code


async def test_another_frame_than_settings_first(rig: Rig) -> None:
    async with http2(rig.port, quiet=True) as peer:
        peer.polite = False
        peer.raw(PREFACE)
        peer.send(PingFrame(0, opaque_data=b"12345678"))
        assert await ended_with(peer) == PROTOCOL


async def test_more_data_than_there_is_room_for_resets_its_stream(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.header("x-deaf"):
            await asyncio.Event().wait()
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    stream = peer.begin([*asked(), (b"x-deaf", b"1")])
    while not peer.streams[stream].over:
        peer.data(stream, b"x" * 16384)
        await peer.ping()
    assert (await peer.answer(stream)).reset == FLOW
    assert (await peer.answer(peer.post())).status == 200


@pytest.mark.parametrize("rig", [{"body_seconds": 0.2}], indirect=True)
async def test_a_body_that_comes_too_slowly(peer: Http2Caller) -> None:
    stream = peer.begin(asked())
    while not peer.streams[stream].over:
        peer.data(stream, b"x")
        await asyncio.sleep(0.05)
    assert (peer.streams[stream].status, b"RequestBodyTimeout" in peer.streams[stream].body) == (408, True)


@pytest.mark.parametrize("rig", [{"max_body_bytes": 1000}], indirect=True)
async def test_a_body_that_is_too_large(peer: Http2Caller) -> None:
    got = await peer.answer(peer.begin([*asked(), (b"content-length", b"1001")]))
    assert (got.status, b"RequestBodyTooLarge" in got.body) == (413, True)
    stream = peer.begin(asked())
    peer.data(stream, b"x" * 1001)
    assert (await peer.answer(stream)).status == 413


async def test_too_many_fields(peer: Http2Caller) -> None:
    got = await peer.answer(peer.begin([*asked(), *((b"x", b"") for _ in range(100))], ended=True))
    assert (got.status, b"TooManyHeaderFields" in got.body) == (431, True)


@pytest.mark.parametrize("rig", [{"send_seconds": 0.3}], indirect=True)
async def test_a_caller_that_takes_nothing_of_its_answer(rig: Rig) -> None:
    async with http2(rig.port, window=False) as peer:
        stream = peer.begin([*asked(), (b"content-length", b"100000")])
        await peer.upload(stream, b"x" * 100_000)
        got = await peer.answer(stream)
        assert (len(got.body), got.reset) == (65535, 8)
