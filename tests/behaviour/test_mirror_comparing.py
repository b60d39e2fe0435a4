"""What comes out when a candidate answers: equal, different, failed — one event each, whatever the candidate does."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from mirror.marker import load_key, verify_marker
from router.contract.tee import END_FIELDS, Kind
from tests.support.mirror_candidate import Received, Script, answer, candidate, close, hang, reset
from tests.support.mirror_gateway import JSON_HEAD, gateway
from tests.support.mirror_service import mirror


async def test_the_candidate_gets_the_same_request_without_credentials_and_with_a_marker(tmp_path: Path) -> None:
    head = (
        b"POST /score?a=1 HTTP/1.1\r\nHost: shop.localhost\r\nContent-Type: application/json\r\n"
        b"AuthoriZation: Bearer secret\r\nCookie: session=secret\r\nX-API-Key: secret\r\n"
        b"X-Tidegate-Shadow: forged\r\nx-tidegate-anything: forged\r\nX-Request-Id: abc\r\nConnection: keep-alive\r\n"
        b"X-Mine: kept as is\r\nContent-Length: 7\r\n\r\n"
    )
    async with candidate(answer(b'{"y": 1}')) as green, mirror(tmp_path, {"green": 4}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(head, body=b'{"x":1}', request_id="req.1")
            worker.respond(number, b'{"y":1.0}')
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
        (seen,) = green.received
        key = load_key(running.settings.data.shadow_key)
    assert seen.first_line == b"POST /score?a=1 HTTP/1.1"
    assert seen.body == b'{"x":1}'
    assert b"secret" not in seen.head
    assert b"forged" not in seen.head
    assert b"X-Mine: kept as is\r\n" in seen.head
    assert b"X-Request-Id: abc\r\n" in seen.head
    assert verify_marker(key, seen.headers["x-tidegate-shadow"], "green")
    assert not verify_marker(key, seen.headers["x-tidegate-shadow"], "blue")
    assert (event.equal, event.difference, event.dropped) == (True, "", "")
    assert (event.endpoint, event.request_id, event.live_deployment, event.candidate) == (
        "shop", "req.1", "blue", "green",
    )  # fmt: skip
    assert event.request_bytes == 7
    assert event.live is not None
    assert event.shadow is not None
    assert (event.live.status, event.live.latency_ms, event.live.first_byte_ms, event.live.bytes) == (200, 2.5, 1.5, 9)
    assert (event.shadow.status, event.shadow.bytes, event.shadow.error) == (200, 8, "")
    assert 0 < event.shadow.first_byte_ms <= event.shadow.latency_ms


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (answer(b'{"label": "dog", "p": [1, 2]}'), 'body: $.label is "cat" live, "dog" in the candidate\'s'),
        (answer(b'{"label": "cat"}'), "body: $.p is only in the live answer"),
        (answer(b'{"p": [1, 2.5], "label": "cat"}'), "body: $.p[1] is 2 live, 2.5 in the candidate's"),
        (answer(b"{}", status=503), "status: live 200, candidate 503"),
    ],
)
async def test_a_difference_is_named(tmp_path: Path, theirs: Script, words: str) -> None:
    async with candidate(theirs) as green, mirror(tmp_path, {"green": 4}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b'{"label":"cat","p":[1,2]}'))
        (event,) = await running.wait_shadows(1)
    assert (event.equal, event.difference) == (False, words)


async def _nonsense(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n")


async def _half(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    writer.close()


async def _endless_head(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (reset, "connection lost"),
        (close, "closed before the response"),
        (_nonsense, "not HTTP/1.1"),
        (_half, "closed in the middle of the response"),
        (_endless_head, "response head above"),
        (hang, "no complete answer within 0.5 s"),
    ],
)
async def test_a_failing_candidate_is_an_answer_with_an_error(tmp_path: Path, script: Script, words: str) -> None:
    async with (
        candidate(script) as green,
        mirror(tmp_path, {"green": 4}, timeout_seconds=0.5 if script is hang else 60) as running,
    ):
        running.serve(green=green.port)
        await running.applied()
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
        (event,) = await running.wait_shadows(1)
    assert (event.equal, event.dropped) == (False, "")
    assert event.shadow is not None
    assert words in event.shadow.error
    assert words in event.difference


async def test_a_refused_connection_is_an_answer_with_an_error(tmp_path: Path) -> None:
    async with candidate(hang) as green:
        port = green.port
    async with mirror(tmp_path, {"green": 4}) as running:
        running.serve(green=port)
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
        (event,) = await running.wait_shadows(1)
    assert event.shadow is not None
    assert event.shadow.status == 0
    assert event.shadow.error.startswith("connect: ")


async def test_a_candidate_that_never_reads_holds_nothing_up(tmp_path: Path) -> None:
    async with (
        candidate(hang, read_body=False) as green,
        candidate(answer(b"{}")) as red,
        mirror(tmp_path, {"green": 1, "red": 1}) as running,
    ):
        running.serve(green=green.port, red=red.port)
        await running.applied()
        async with gateway(running.socket) as worker:
            stuck = worker.exchange(b"x" * 20_000_000, b"{}")
            await green.wait_for(1)
            worker.candidates = ("red",)
            await worker.wait_done(worker.exchange(b"x" * 20_000_000, b"{}"))
            assert worker.done == [1]
            worker.send(Kind.DROP, stuck, b"enough")
            await worker.wait_done(stuck)
        events = await running.wait_shadows(2)
    assert [(event.candidate, event.equal, event.dropped) for event in events] == [
        ("red", True, ""),
        ("green", None, "enough"),
    ]


async def test_a_streamed_body_of_50_mb_arrives_byte_for_byte(tmp_path: Path) -> None:
    piece = hashlib.sha256(b"seed").digest() * 32768
    sha = hashlib.sha256(piece * 50).hexdigest()
    head = b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with candidate(answer(b"{}")) as green, mirror(tmp_path, {"green": 1}, memory_bytes=4 << 20) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(head, end=False)
            for _ in range(50):
                worker.body(number, piece)
                await worker.writer.drain()
            worker.send(Kind.REQUEST_END, number)
            worker.respond(number, b"{}")
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
        left = [path.name for path in running.settings.data.run.iterdir() if path != running.settings.data.vitals]
    (seen,) = green.received
    assert (seen.length, seen.digest) == (50 << 20, sha)
    assert seen.headers["transfer-encoding"] == "chunked"
    assert (event.equal, event.request_bytes) == (True, 50 << 20)
    assert left == ["mirror.sock"]


async def test_long_answers_are_compared_by_digest(tmp_path: Path) -> None:
    long = b"abc" * 1_000_000
    async with candidate(answer(long)) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", long), worker.exchange(b"{}", long[:-1] + b"X"))
        events = {event.request_id: event for event in await running.wait_shadows(2)}
    assert events["request-0"].equal is True
    assert events["request-1"].difference == "body: 3000000 bytes on both sides, but another SHA-256"


async def test_a_stream_is_compared_event_by_event(tmp_path: Path) -> None:
    async def stream(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n")
        for token in ("a", "b", "c"):
            writer.write(f"data: {json.dumps({'n': 1, 'token': token})}\n\n".encode())
            await writer.drain()
        writer.close()

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    live = b'data: {"token":"a","n":1.0}\r\n\r\ndata: {"token":"X","n":1}\r\n\r\n'
    async with candidate(stream) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(body=b"{}")
            worker.respond(number, live, head=head)
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
    assert event.difference == 'event 2: $.token is "X" live, "b" in the candidate\'s'


async def test_packed_answers_are_compared_unpacked(tmp_path: Path) -> None:
    head = JSON_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n"
    theirs = answer(gzip.compress(b'{"b":2,"a":1}', mtime=2), extra="content-encoding: gzip\r\n")
    async with candidate(theirs) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            number = worker.open(body=b"{}")
            worker.respond(number, gzip.compress(b'{"a": 1, "b": 2}', mtime=1), head=head)
            await worker.wait_done(number)
        (event,) = await running.wait_shadows(1)
    assert event.equal is True


async def test_head_and_interim_answers(tmp_path: Path) -> None:
    async def script(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\ncontent-type: text/plain\r\nlink: x\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n")
        if not request.head.startswith(b"HEAD"):
            writer.write(b"{}")

    async with candidate(script) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            first = worker.open(b"HEAD /score HTTP/1.1\r\nhost: x\r\n\r\n")
            worker.respond(first)
            await worker.wait_done(first, worker.exchange(b"1", b"{}"))
        events = await running.wait_shadows(2)
    assert [event.equal for event in events] == [True, True]


async def test_connections_are_kept_and_a_closed_one_is_replaced(tmp_path: Path) -> None:
    async def once(_: Received, writer: asyncio.StreamWriter) -> None:
        await answer(b"{}")(_, writer)
        if _.connection == 1 and len(green.received) == 3:
            await writer.drain()
            writer.close()

    async with candidate(once) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            for _ in range(6):
                await worker.wait_done(worker.exchange(b"{}", b"{}"))
        events = await running.wait_shadows(6)
    assert [event.equal for event in events] == [True] * 6
    assert [request.connection for request in green.received] == [1, 1, 1, 2, 2, 2]


async def test_a_candidate_that_speaks_out_of_turn_loses_its_connection_and_nothing_else(tmp_path: Path) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def remembered(request: Received, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await answer(b"{}")(request, writer)

    async with candidate(remembered) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
            writers[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
            with contextlib.suppress(ConnectionError):
                await writers[0].wait_closed()
            await worker.wait_done(worker.exchange(b"{}", b"{}"))
        events = await running.wait_shadows(2)
    assert [event.equal for event in events] == [True, True]
    assert [request.connection for request in green.received] == [1, 2]


async def test_where_the_live_side_failed_statuses_are_compared(tmp_path: Path) -> None:
    async with candidate(answer(b"{}", status=504)) as green, mirror(tmp_path, {"green": 1}) as running:
        running.serve(green=green.port)
        async with gateway(running.socket) as worker:
            first, second = worker.open(body=b"{}"), worker.open(body=b"{}")
            worker.send(Kind.END, first, END_FIELDS.pack(504, 9000, 30))
            await worker.wait_done(first)
            worker.send(Kind.END, second, END_FIELDS.pack(0, 9000, 0))
            await worker.wait_done(second)
        failed, gone = await running.wait_shadows(2)
    assert (failed.equal, failed.dropped) == (True, "")
    assert failed.live is not None
    assert failed.live.error
    assert (gone.equal, gone.dropped) == (None, "live_failed")
