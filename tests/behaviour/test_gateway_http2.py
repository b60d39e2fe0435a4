"""Callers that speak HTTP/2: what they ask and get is what it would be over HTTP/1.1, many at once on one connection."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.gateway_rig import KEY, PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import (
    Request,
    ScriptedReplica,
    answer,
    caller,
    gone,
    post,
    scripted,
    trickle,
)
from tests.support.http2_caller import PREFACE, HeadersFrame, Http2Caller, PingFrame, http2, request


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        sets = {"blue": [replica(upstream.port, replica_id="blue")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        yield rig


@pytest_asyncio.fixture
async def peer(rig: Rig) -> AsyncIterator[Http2Caller]:
    async with http2(rig.port) as connection:
        yield connection


async def test_a_request_reaches_the_replica_as_http_1_and_its_answer_the_caller(
    peer: Http2Caller, upstream: ScriptedReplica
) -> None:
    got = await peer.answer(peer.post(b"hello", extra=[(b"x-one", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]))
    assert (got.status, bytes(got.body), got.field("content-length")) == (200, b"hello", "5")
    assert got.field("azureml-model-deployment") == "blue"
    assert got.field("connection") is got.field("transfer-encoding") is None
    sent = upstream.requests[0]
    assert (sent.method, sent.target, sent.body) == ("POST", "/score", b"hello")
    assert (sent.header("host"), sent.header("x-one"), sent.header("cookie")) == ("gateway", "1", "a=1; b=2")
    assert sent.header("x-request-id") == got.field("x-request-id")
    assert sent.header("authorization") is None
    assert sent.header("via") == "2 tidegate"
    assert sent.header("content-length") == "5"


async def test_a_body_without_a_length_is_chunked_to_the_replica(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    stream = peer.begin([*request(), (b"te", b"trailers")])
    peer.data(stream, b"one")
    await peer.ping()
    peer.data(stream, b"two", ended=True)
    got = await peer.answer(stream)
    assert (got.status, bytes(got.body)) == (200, b"onetwo")
    assert upstream.requests[0].header("transfer-encoding") == "chunked"
    assert upstream.requests[0].header("te") is None


async def test_a_request_without_a_body_says_so(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    assert (await peer.answer(peer.begin(request(), ended=True))).status == 200
    assert upstream.requests[0].header("content-length") == "0"
    assert (await peer.answer(peer.begin(request(method=b"GET"), ended=True))).status == 200
    assert upstream.requests[1].header("content-length") is upstream.requests[1].header("transfer-encoding") is None


@pytest.mark.parametrize(
    ("method", "raw", "status", "length"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 200, "7"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, "7"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "0"),
    ],
)
async def test_an_answer_without_a_body_is_nothing_but_fields(
    peer: Http2Caller, upstream: ScriptedReplica, method: bytes, raw: bytes, status: int, length: str | None
) -> None:
    upstream.script = answer(raw)
    got = await peer.answer(peer.begin(request(method=method), ended=True))
    assert (got.status, bytes(got.body), got.field("content-length")) == (status, b"", length)


async def test_an_answer_whose_end_is_the_connections_ends_the_stream(
    peer: Http2Caller, upstream: ScriptedReplica
) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        writer.close()

    upstream.script = script
    got = await peer.answer(peer.begin(request(method=b"GET"), ended=True))
    assert (got.status, bytes(got.body), got.ended) == (200, b"all of it", True)


async def test_a_stream_of_events_arrives_piece_by_piece(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    more = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await more.wait()
        writer.write(b"6\r\nsecond\r\n0\r\n\r\n")

    upstream.script = script
    stream = peer.post()
    assert (await peer.heard(stream, 5)).body == b"first"
    more.set()
    got = await peer.answer(stream)
    assert (bytes(got.body), got.ended) == (b"firstsecond", True)


async def test_requests_of_one_connection_run_beside_one_another(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    both = asyncio.Barrier(20)

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        body = await request.read_body()
        await both.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.script = script
    streams = [peer.post(b"%d" % number) for number in range(20)]
    assert [(await peer.answer(stream)).body for stream in streams] == [b"%d" % number for number in range(20)]


async def test_the_split_is_exact_over_the_streams_of_a_connection(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with gateway(tmp_path) as rig:
        documents = {"blue": deployment(), "green": deployment()}
        sets = {name: [replica(upstream.port, replica_id=name)] for name in documents}
        await rig.publish("demo", documents, {"blue": 90, "green": 10}, sets)
        async with http2(rig.port) as peer:
            answers = [await peer.answer(peer.post()) for _ in range(100)]
    assert Counter(one.field("azureml-model-deployment") for one in answers) == {"blue": 90, "green": 10}


async def test_a_large_body_goes_both_ways_within_the_windows(peer: Http2Caller) -> None:
    body = bytes(range(256)) * 8000
    stream = peer.begin([*request(), (b"content-length", b"%d" % len(body))])
    await peer.upload(stream, body)
    got = await peer.answer(stream)
    assert (got.status, got.body == body) == (200, True)


async def test_who_does_not_read_one_answer_still_gets_the_others(rig: Rig, upstream: ScriptedReplica) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        if request.body == b"endless":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await trickle(writer, b"4000\r\n" + b"x" * 16384 + b"\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with http2(rig.port, window=False) as peer:
        slow = peer.post(b"endless")
        assert len((await peer.heard(slow, 65535)).body) == 65535
        peer.give(0, 1 << 20)
        for _ in range(20):
            assert (await peer.answer(peer.post(b"quick"))).body == b"ok"
        assert len(peer.streams[slow].body) == 65535
        peer.give(slow, 100_000)
        assert len((await peer.heard(slow, 165_535)).body) == 165_535


async def test_an_upload_that_its_replica_does_not_read_stops_and_no_other(rig: Rig, upstream: ScriptedReplica) -> None:
    read = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.header("x-slow"):
            await read.wait()
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body) + request.body)

    upstream.script = script
    body = b"x" * (16 << 20)
    async with http2(rig.port) as peer:
        slow = peer.begin([*request(), (b"content-length", b"%d" % len(body)), (b"x-slow", b"1")])
        uploading = asyncio.create_task(peer.upload(slow, body))
        await until(lambda: peer.room.get(slow) == 0, "the end of what is taken of the upload")
        for _ in range(10):
            assert (await peer.answer(peer.post(b"quick"))).body == b"quick"
        assert not uploading.done()
        read.set()
        await uploading
        assert len((await peer.answer(slow)).body) == len(body)


async def test_an_answer_before_the_whole_request_ends_both(peer: Http2Caller) -> None:
    stream = peer.begin([*request(key="wrong"), (b"content-length", b"1000000")])
    peer.data(stream, b"x" * 1000)
    got = await peer.answer(stream)
    await until(lambda: got.reset is not None, "that the caller is told to stop")
    assert (got.status, got.ended, got.reset) == (401, True, 0)
    assert b'"Unauthorized"' in got.body
    assert (await peer.answer(peer.post())).status == 200


async def test_interim_answers_come_before_the_answer(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    upstream.script = answer(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    stream = peer.begin([*request(), (b"expect", b"100-continue"), (b"content-length", b"1")])
    await until(lambda: peer.streams[stream].interim, "100 Continue")
    peer.data(stream, b"x", ended=True)
    got = await peer.answer(stream)
    assert (got.interim, got.status, bytes(got.body)) == ([100, 103], 200, b"ok")


async def test_trailers_of_a_request_end_here(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    stream = peer.begin(request())
    peer.data(stream, b"body")
    peer.send(_trailers(peer, stream))
    assert (await peer.answer(stream)).body == b"body"
    assert upstream.requests[0].header("x-late") is None


def _trailers(peer: Http2Caller, stream: int) -> HeadersFrame:
    return HeadersFrame(stream, peer.block([(b"x-late", b"1")]), flags=["END_HEADERS", "END_STREAM"])


async def test_a_request_that_is_taken_back_is_cancelled_at_the_replica(
    rig: Rig, peer: Http2Caller, upstream: ScriptedReplica
) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if await request.read_body() == b"long":
            await gone(request.reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    stream = peer.post(b"long")
    await until(lambda: upstream.requests, "the request")
    peer.cancel(stream)
    async with asyncio.timeout(PATIENCE):
        await upstream.aborted.wait()
    assert (await peer.answer(peer.post(b"short"))).status == 200
    record = await until(lambda: [one for one in rig.records if one.status == 0], "the record")
    assert record[0].deployment == "blue"


async def test_an_answer_that_breaks_off_resets_its_stream_alone(peer: Http2Caller, upstream: ScriptedReplica) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if await request.read_body() == b"break":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            writer.close()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    got = await peer.answer(peer.post(b"break"))
    assert (got.ended, got.reset) == (False, 2)
    assert (await peer.answer(peer.post(b"well"))).status == 200


async def test_refusals_are_those_of_http_1(peer: Http2Caller) -> None:
    got = await peer.answer(peer.begin(request(path=b"/endpoints/other/score"), ended=True))
    assert (got.status, b'"EndpointNotFound"' in bytes(got.body)) == (404, True)
    got = await peer.answer(peer.begin([(b":method", b"CONNECT"), (b":authority", b"a:1")], ended=True))
    assert (got.status, b'"UpgradeNotSupported"' in bytes(got.body)) == (501, True)
    got = await peer.answer(peer.begin(request(path=b"/healthz", method=b"GET"), ended=True))
    assert (got.status, bytes(got.body)) == (200, b"ok\n")


async def test_more_streams_than_allowed_are_refused_to_be_sent_again(
    tmp_path: Path, upstream: ScriptedReplica
) -> None:
    go = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    async with gateway(tmp_path, http2_streams=3) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        async with http2(rig.port) as peer:
            streams = [peer.post() for _ in range(4)]
            assert (await peer.answer(streams[3])).reset == 7
            assert peer.settings[3] == 3
            go.set()
            assert [(await peer.answer(one)).status for one in streams[:3]] == [200, 200, 200]


async def test_the_preface_may_come_in_pieces(rig: Rig) -> None:
    async with http2(rig.port, quiet=True) as peer:
        peer.polite = False
        for at in range(len(PREFACE)):
            peer.raw(PREFACE[at : at + 1])
            await asyncio.sleep(0)
        peer.raw(b"\0\0\0\4\0\0\0\0\0")
        assert (await peer.answer(peer.post())).status == 200


async def test_a_connection_that_has_spoken_http_1_stays_with_it(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        connection.send(post(b"hello"))
        assert (await connection.answer()).status == 200
        connection.send(PREFACE)
        assert (await connection.answer()).status == 400
        assert await connection.ended()


async def test_the_stop_of_a_worker_loses_no_request(rig: Rig, upstream: ScriptedReplica) -> None:
    go = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with http2(rig.port) as peer:
        first = peer.post()
        await until(lambda: upstream.requests, "the request")
        peer.polite = False
        rig.stop.set()
        assert await peer.told() == (2**31 - 1, 0)
        late = peer.post()  # under way when the caller was told
        await until(lambda: len(upstream.requests) == 2, "the late request")
        peer.send(PingFrame(0, opaque_data=b"tidegate", flags=["ACK"]))
        assert await peer.told(2) == (late, 0)
        assert (await peer.answer(peer.post())).reset == 7
        go.set()
        assert [(await peer.answer(one)).body for one in (first, late)] == [b"ok", b"ok"]
        await peer.end()


async def test_who_never_answers_the_last_word_is_not_waited_for(rig: Rig) -> None:
    async with http2(rig.port) as peer:
        assert (await peer.answer(peer.post())).status == 200
        peer.polite = False
        rig.stop.set()
        await peer.end()
        assert [code for _, code in peer.goaways] == [0, 0, 0]


async def test_curl_is_understood(rig: Rig) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--http2-prior-knowledge", "-d", "hello", "-w", " %{http_version} %{http_code}",
        "-H", f"authorization: Bearer {KEY}", f"http://127.0.0.1:{rig.port}/endpoints/demo/score",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    got, _ = await process.communicate()
    assert got == b"hello 2 200"
