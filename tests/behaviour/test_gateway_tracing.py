"""Spans by OpenTelemetry: who belongs to whom, what they say, and what the model learns."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection

from router.contract.events import Flag
from router.runtime import otlp
from tests.support.collector import Collector, collector
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, answer, ask, caller, echo, gone, post, scripted
from tests.support.http2_caller import http2
from tests.support.websocket_ends import socket_caller, socket_replica

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT = 2, 3


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "GATHER_SECONDS", 0.01)


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def there() -> AsyncIterator[Collector]:
    async with collector() as found:
        yield found


@contextlib.asynccontextmanager
async def traced(folder: Path, upstream: ScriptedReplica, url: str, share: float) -> AsyncIterator[Rig]:
    async with gateway(folder, otlp=url, trace_share=share) as rig:
        documents = {"blue": deployment(concurrency=1, wait_ms=20_000)}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(upstream.port, replica_id="r1")]})
        yield rig


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica, there: Collector) -> AsyncIterator[Rig]:
    async with traced(tmp_path, upstream, there.url, share=0.0) as rig:
        yield rig


def parent(sampled: bool = True, **more: str) -> str:
    lines = {"traceparent": f"00-{TRACE}-{SPAN}-0{int(sampled)}", "tracestate": "vendor=1", **more}
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items())


async def test_a_request_is_a_server_span_and_its_try_a_client_span_below_the_callers(
    rig: Rig, upstream: ScriptedReplica, there: Collector
) -> None:
    path = "/endpoints/demo/score?secret=1"
    got = await ask(rig.port, post(b"hello", path=path, extra=parent() + "User-Agent: tides/1\r\n"))
    await until(lambda: len(there.spans) == 2, "both spans")
    (server,), (client,) = there.of(SERVER), there.of(CLIENT)
    assert (server.trace, server.parent, server.state, server.flags & 1) == (TRACE, SPAN, "vendor=1", 1)
    assert (client.trace, client.parent, client.state) == (TRACE, server.span, "vendor=1")
    assert server.start_ns <= client.start_ns < client.end_ns <= server.end_ns
    assert (server.name, client.name) == ("POST demo", "POST blue")
    assert (server.error, client.error) == (None, None)
    assert {name: value for name, value in server.attributes.items() if name != "client.address"} == {
        "http.request.method": "POST", "url.path": "/score", "url.scheme": "http", "network.protocol.version": "1.1",
        "http.request.body.size": 5, "http.response.body.size": 5, "http.response.status_code": 200,
        "user_agent.original": "tides/1", "tidegate.endpoint": "demo", "tidegate.deployment": "blue",
        "tidegate.request_id": got.headers["x-request-id"], "tidegate.outcome": "ok", "tidegate.auth_type": "Key",
    }  # fmt: skip
    assert client.attributes.pop("tidegate.connect_ms") > 0
    assert client.attributes == {
        "http.request.method": "POST", "url.full": f"http://127.0.0.1:{upstream.port}/score", "server.port": upstream.port,
        "server.address": "127.0.0.1", "network.protocol.version": "1.1", "http.response.status_code": 200,
        "tidegate.replica": "r1",
    }  # fmt: skip
    assert [name for name, _ in client.events] == ["tidegate.first_byte"]
    request = upstream.requests[0]
    assert request.header("traceparent") == f"00-{TRACE}-{client.span}-01"
    assert request.header("tracestate") == "vendor=1"
    resource = there.resources[0]
    assert (resource["service.name"], resource["service.instance.id"]) == ("tidegate-gateway", rig.log.writer)


async def test_the_callers_decision_is_followed_and_the_model_always_learns_of_the_trace(
    rig: Rig, upstream: ScriptedReplica, there: Collector
) -> None:
    for _ in range(3):  # also when the head is known
        await ask(rig.port, post(b"hello", extra=parent(sampled=False)))
        found = re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-00", upstream.requests[-1].header("traceparent") or "")
        assert found is not None
        assert found[1] != SPAN
    await ask(rig.port, post(b"hello"))
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-02", upstream.requests[-1].header("traceparent") or "")
    await ask(rig.port, post(b"hello", extra=parent()))
    await until(lambda: len(there.spans) == 2, "the spans of the one that is sampled")
    assert {one.trace for one in there.spans} == {TRACE}


async def test_a_context_that_makes_no_sense_is_replaced(
    tmp_path: Path, upstream: ScriptedReplica, there: Collector
) -> None:
    async with traced(tmp_path, upstream, there.url, share=1.0) as rig:
        doubled = parent() + f"traceparent: 00-{TRACE}-{SPAN}-01\r\n"
        for extra in (parent(traceparent="00-nonsense"), doubled, "tracestate: vendor=1\r\n"):
            await ask(rig.port, post(b"hello", extra=extra))
            request = upstream.requests[-1]
            assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", request.header("traceparent") or "")
            assert request.header("tracestate") is None
        await until(lambda: len(there.spans) == 6, "all spans")
        assert len({one.trace for one in there.spans} - {TRACE}) == 3
        assert {one.parent for one in there.of(SERVER)} == {""}


async def test_a_retry_is_a_second_client_span_and_an_event(
    tmp_path: Path, upstream: ScriptedReplica, there: Collector
) -> None:
    async def die(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.transport.abort()

    async with scripted(die) as dying, gateway(tmp_path, otlp=there.url, trace_share=1.0) as rig:
        sets = {"blue": [replica(dying.port, replica_id="bad")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        sets = {"blue": [replica(dying.port, replica_id="bad"), replica(upstream.port, replica_id="good")]}
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, sets)
        for _ in range(60):
            assert (await ask(rig.port, post(b"hello"))).status == 200
            if dying.requests:
                break
        await until(lambda: any(one.events for one in there.of(SERVER)), "a retried request")
        server = next(one for one in there.of(SERVER) if one.events)
        await until(lambda: sum(one.parent == server.span for one in there.spans) == 2, "both tries")
        first, second = (one for one in there.of(CLIENT) if one.parent == server.span)
        assert server.events == [("tidegate.retry", {"tidegate.replica": "bad", "error.type": "died"})]
        assert (first.attributes["tidegate.replica"], first.error) == ("bad", "died")
        assert (second.attributes["tidegate.replica"], second.error) == ("good", None)
        assert second.attributes["http.request.resend_count"] == 1
        assert first.end_ns <= second.start_ns
        assert {one.requests[-1].header("traceparent") for one in (dying, upstream)} == {
            f"00-{server.trace}-{one.span}-03" for one in (first, second)
        }


async def test_a_wait_a_refusal_a_models_error_and_a_caller_that_leaves_are_told(
    rig: Rig, upstream: ScriptedReplica, there: Collector
) -> None:
    release = asyncio.Event()

    async def held(request: Request, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await echo(request, writer)

    def queued() -> bool:
        return bool(rig.demand and rig.demand[-1].rows and rig.demand[-1].rows[0].queued)

    upstream.script = held
    first = asyncio.create_task(ask(rig.port, post(b"hello", extra=parent())))
    await until(lambda: upstream.requests, "the model is busy")
    async with caller(rig.port) as leaving:
        leaving.send(post(b"hello", extra=parent()))
        await until(queued, "one waits")
        leaving.abort()
    await until(
        lambda: any(one.attributes["tidegate.outcome"] == "client_aborted" for one in there.spans), "it has left"
    )
    await until(lambda: not queued(), "nobody waits")
    second = asyncio.create_task(ask(rig.port, post(b"hello", extra=parent())))
    await until(queued, "another one waits")
    assert (await ask(rig.port, post(b"hello", key="wrong", extra=parent()))).status == 401
    unknown = parent() + "azureml-model-deployment: none\r\n"
    assert (await ask(rig.port, post(b"hello", extra=unknown))).status == 404
    release.set()
    assert {one.status for one in await asyncio.gather(first, second)} == {200}
    upstream.script = answer(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
    assert (await ask(rig.port, post(b"hello", extra=parent()))).status == 424
    await until(lambda: len(there.of(SERVER)) == 5 and len(there.of(CLIENT)) == 3, "all spans")
    servers = {one.attributes["tidegate.outcome"]: one for one in there.of(SERVER)}
    waited = [one for one in there.of(SERVER) if one.events and one.attributes["tidegate.outcome"] == "ok"]
    assert [[name for name, _ in one.events] for one in waited] == [["tidegate.queued"]]
    assert waited[0].events[0][1]["tidegate.queue_ms"] > 0
    assert [name for name, _ in servers["client_aborted"].events] == ["tidegate.queued"]
    assert "http.response.status_code" not in servers["client_aborted"].attributes
    assert servers["refused"].attributes["error.type"] == "DeploymentNotFound"
    assert servers["refused"].error is None, "whose fault it is: the caller's"
    failed = there.of(CLIENT)[-1]
    assert (failed.attributes["http.response.status_code"], failed.error) == (500, "500")
    assert servers["model_error"].attributes["http.response.status_code"] == 424


async def test_a_collector_that_is_away_holds_up_nobody(tmp_path: Path, upstream: ScriptedReplica) -> None:
    async with traced(tmp_path, upstream, "http://127.0.0.1:9", share=1.0) as rig:
        for _ in range(20):
            assert (await ask(rig.port, post(b"hello"))).status == 200


async def test_probes_and_heads_for_nobody_have_no_spans(
    tmp_path: Path, upstream: ScriptedReplica, there: Collector
) -> None:
    async with traced(tmp_path, upstream, there.url, share=1.0) as rig:
        assert (await ask(rig.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).status == 200
        assert (await ask(rig.port, post(b"x", path="/endpoints/none/score"))).status == 404
        assert (await ask(rig.port, post(b"x"))).status == 200
        await until(lambda: len(there.spans) == 2, "the spans of the one request")


async def test_a_stream_of_http2_is_a_request_like_any_other(
    rig: Rig, upstream: ScriptedReplica, there: Collector
) -> None:
    async with http2(rig.port) as connection:
        extra = [(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())]
        for _ in range(2):
            assert (await connection.answer(connection.post(b"hello", extra=extra))).status == 200
    await until(lambda: len(there.spans) == 4, "the spans of both")
    assert {one.attributes["network.protocol.version"] for one in there.of(SERVER)} == {"2"}
    assert {one.trace for one in there.spans} == {TRACE}
    sent = {one.header("traceparent") for one in upstream.requests}
    assert sent == {f"00-{TRACE}-{one.span}-01" for one in there.of(CLIENT)}
    await until(lambda: len(rig.records) == 2, "their records")
    assert all(Flag.HTTP2 in one.flags for one in rig.records)


@pytest.mark.parametrize("first", ["slow", "dies", "wins"])
async def test_a_second_replica_has_a_span_of_its_own(tmp_path: Path, there: Collector, first: str) -> None:
    both = asyncio.Event()
    got: list[Request] = []

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        got.append(request)
        number = len(got)
        if number == 2:
            both.set()
        await both.wait()
        if first == "dies" and number == 2:
            await until(lambda: there.of(CLIENT), "the end of the first is known")
        if first != ("slow" if number == 1 else "wins"):
            if first == "dies" and number == 1:
                writer.transport.abort()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        else:
            await gone(request.reader)

    async with (
        scripted(script) as one,
        scripted(script) as other,
        gateway(tmp_path, otlp=there.url, trace_share=1.0) as rig,
    ):
        document = deployment(tidegate={"hedging": {"after_ms": 20, "budget_percent": 100}})
        await rig.publish("demo", {"blue": document}, {"blue": 100}, {"blue": [replica(one.port), replica(other.port)]})
        assert (await ask(rig.port, post(b"hello"))).status == 200
        await until(lambda: len(there.spans) == 3, "all spans")
    (server,), (sooner, later) = there.of(SERVER), there.of(CLIENT)
    assert (sooner.parent, later.parent) == (server.span, server.span)
    assert [one.header("traceparent") for one in got] == [f"00-{server.trace}-{one.span}-03" for one in (sooner, later)]
    ends = [(one.error, one.attributes.get("tidegate.hedge")) for one in (sooner, later)]
    failed = ("died", None) if first == "dies" else (None, "lost")
    assert ends == ([(None, None), failed] if first == "wins" else [failed, (None, None)])
    assert later.attributes["http.request.resend_count"] == 1
    assert server.error is None


async def test_a_websocket_is_one_span_from_its_handshake_to_its_end(tmp_path: Path, there: Collector) -> None:
    heard: list[str | None] = []

    async def echo_all(connection: ServerConnection) -> None:
        assert connection.request is not None
        heard.append(connection.request.headers.get("traceparent"))
        async for message in connection:
            await connection.send(message)

    async with socket_replica(echo_all) as model, gateway(tmp_path, otlp=there.url, trace_share=1.0) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(model.port)]})
        async with socket_caller(rig.port) as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"
            assert there.spans == []
        await until(lambda: len(there.spans) == 2, "both spans")
    (server,), (client,) = there.of(SERVER), there.of(CLIENT)
    assert (server.attributes["http.response.status_code"], client.attributes["http.response.status_code"]) == (
        101,
        101,
    )
    assert heard == [f"00-{server.trace}-{client.span}-03"]
