"""Shadows to candidates that speak HTTP/2: the same comparison, and how a call of gRPC ended belongs to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.contract.events import ShadowComparison
from tests.support.gateway_rig import deployment, replica, until
from tests.support.gateway_rig import gateway as worker_of
from tests.support.grpc_model import failure, grpc_caller, grpc_model
from tests.support.http2_replica import Asked, Connection, Http2Replica, Script, http2_replica
from tests.support.mirror_gateway import FakeGateway, gateway
from tests.support.mirror_service import Mirror, mirror

HTTP2 = {"protocol": "http2"}
HEAD = b"POST /a.B/C HTTP/1.1\r\nhost: shop\r\ncontent-type: application/grpc\r\nauthorization: Bearer x\r\ntransfer-encoding: chunked\r\n\r\n"
LIVE = b"HTTP/1.1 200 \r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
MESSAGE = b"\0\0\0\0\5hello"


@pytest_asyncio.fixture
async def green() -> AsyncIterator[Http2Replica]:
    async with http2_replica() as server:
        yield server


@pytest_asyncio.fixture
async def running(tmp_path: Path, green: Http2Replica) -> AsyncIterator[Mirror]:
    async with mirror(tmp_path, timeout_seconds=5) as service:
        service.specs({"green": 4}, tidegate=HTTP2)
        service.serve(green=green.port)
        await service.applied()
        yield service


@pytest_asyncio.fixture
async def worker(running: Mirror) -> AsyncIterator[FakeGateway]:
    async with gateway(running.socket) as connection:
        yield connection


async def compared(running: Mirror, worker: FakeGateway, status: bytes = b"0", count: int = 1) -> ShadowComparison:
    """The newest event, after one exchange whose live side answered the message with this `grpc-status`."""
    number = worker.open(HEAD, body=MESSAGE)
    worker.respond(number, MESSAGE, head=LIVE, trailers=b"grpc-status: %b\r\n" % status)
    await worker.wait_done(number)
    return (await running.wait_shadows(count))[count - 1]


def grpc(body: bytes = MESSAGE, status: bytes = b"0") -> Script:
    async def script(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        connection.head(asked, [(b":status", b"200"), (b"content-type", b"application/grpc")])
        connection.data(asked, body)
        connection.head(asked, [(b"grpc-status", status)], ended=True)

    return script


async def test_a_candidate_gets_the_same_call_without_credentials(
    running: Mirror, worker: FakeGateway, green: Http2Replica
) -> None:
    green.script = grpc()
    event = await compared(running, worker)
    assert (event.equal, event.difference, event.dropped) == (True, "", "")
    assert event.shadow is not None
    assert (event.shadow.status, event.shadow.bytes, event.shadow.error) == (200, len(MESSAGE), "")
    (asked,) = green.asked
    assert (asked.field(b":path"), asked.field(b"te"), asked.body) == (b"/a.B/C", b"trailers", MESSAGE)
    assert asked.field(b"authorization") is None
    assert asked.field(b"x-tidegate-shadow")
    await compared(running, worker, count=2)
    assert len(green.connections) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (MESSAGE, b"13", "grpc-status: live 0, candidate 13"),
        (MESSAGE[:-1] + b"!", b"0", "body: first difference at byte 9"),
    ],
)
async def test_a_difference_is_named(
    running: Mirror, worker: FakeGateway, green: Http2Replica, body: bytes, status: bytes, words: str
) -> None:
    green.script = grpc(body, status)
    event = await compared(running, worker)
    assert (event.equal, event.difference) == (False, words)


async def test_an_answer_of_nothing_but_fields_ends_a_call_too(
    running: Mirror, worker: FakeGateway, green: Http2Replica
) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5")]
        connection.head(asked, fields, ended=True)

    green.script = script
    event = await compared(running, worker)
    assert event.difference == "grpc-status: live 0, candidate 5"


async def test_a_failing_candidate_is_an_answer_with_an_error(
    running: Mirror, worker: FakeGateway, green: Http2Replica
) -> None:
    async def resets(connection: Connection, asked: Asked) -> None:
        await asked.ended.wait()
        connection.reset(asked, 2)

    async def short(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [(b":status", b"200"), (b"content-length", b"9")])
        connection.data(asked, b"12", ended=True)

    async def nonsense(connection: Connection, asked: Asked) -> None:
        connection.head(asked, [(b":status", b"200"), (b"connection", b"close")], ended=True)

    async def leaves(connection: Connection, asked: Asked) -> None:
        connection.transport.abort()

    wanted = {
        resets: "candidate: the stream was reset: INTERNAL_ERROR",
        short: "candidate: closed in the middle of the response",
        nonsense: "candidate: not HTTP/2: a field that HTTP/2 does not have",
        leaves: "candidate: the connection was lost",
    }
    for number, (script, words) in enumerate(wanted.items(), 1):
        green.script = script
        assert (await compared(running, worker, count=number)).difference == words


async def test_what_the_candidate_had_not_begun_is_sent_once_more(
    running: Mirror, worker: FakeGateway, green: Http2Replica
) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        if len(green.asked) == 1:
            connection.reset(asked, 7)
        else:
            await grpc()(connection, asked)

    green.script = script
    assert (await compared(running, worker)).equal
    assert len(green.asked) == 2


async def test_a_candidate_that_never_reads_or_answers_costs_its_time(tmp_path: Path, green: Http2Replica) -> None:
    async def script(connection: Connection, asked: Asked) -> None:
        await asyncio.Event().wait()

    green.script = script
    async with mirror(tmp_path, timeout_seconds=0.3) as service:
        service.specs({"green": 4}, tidegate=HTTP2)
        service.serve(green=green.port)
        await service.applied()
        async with gateway(service.socket) as worker:
            event = await compared(service, worker)
            assert event.difference == "candidate: no complete answer within 0.3 s"
    await until(lambda: green.asked[0].reset == 8, "that the candidate is told")


async def test_calls_through_the_gateway_are_mirrored(tmp_path: Path) -> None:
    async with grpc_model() as blue, grpc_model() as green, worker_of(tmp_path) as rig, mirror(tmp_path) as service:
        documents = {"blue": deployment(tidegate=HTTP2), "green": deployment(tidegate=HTTP2)}
        sets = {"blue": [replica(blue.port)], "green": [replica(green.port)]}
        extras = {"mirror": [{"deployment": "green", "fraction": 1.0}]}
        await rig.publish("demo", documents, {"blue": 100}, sets, tidegate=extras)
        await until(lambda: any(one.endpoint == "demo" for one in service.reports), "the mirror knows")
        async with grpc_caller(rig.port) as peer:
            while not service.shadows or service.shadows[-1].dropped:
                assert await peer.unary(b"hello") == b"hello"
                await asyncio.sleep(0.05)
            assert service.shadows[-1].equal
            seen = len(service.shadows)
            await failure(peer.unary(b"refuse"))
            await service.wait_shadows(seen + 1)
            assert service.shadows[-1].equal, service.shadows[-1].difference
        assert green.metadata[-1]["x-tidegate-shadow"]
