"""WebSocket through the gateway, between a common library's two ends: what passes, and who is told what at the end."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from router.contract.events import Flag, Outcome, ReplicaState
from router.policy.websocket import BINARY, PING, PONG, TEXT, closing, frame
from tests.support.gateway_rig import KEY, PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import answer, ask, caller, post, scripted
from tests.support.tls_authority import Authority
from tests.support.websocket_ends import (
    ACCEPT,
    NONCE,
    handshake,
    raw_socket,
    socket_caller,
    socket_replica,
)

MASK = b"abcd"


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        yield rig


async def publish(rig: Rig, *ports: int, limits: dict[str, Any] | None = None, **settings: Any) -> None:
    """The endpoint `demo` with one deployment on these ports."""
    extras = {"websocket": limits} if limits is not None else {}
    sets = {"blue": [replica(port) for port in ports]}
    await rig.publish("demo", {"blue": deployment(**settings)}, {"blue": 100}, sets, tidegate=extras)


async def only_record(rig: Rig) -> Any:
    await until(lambda: rig.records, "a record")
    assert len(rig.records) == 1
    assert rig.records[0].flags & Flag.WEBSOCKET
    return rig.records[0]


async def closed(connection: Any) -> tuple[int, str]:
    """(code, reason) with which it was closed from the other side."""
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            await asyncio.wait_for(connection.recv(), PATIENCE)
    received = raised.value.rcvd
    assert received is not None, "no close frame"
    return received.code, received.reason


async def raw_frames(connection: Any) -> bytes:
    """Whatever comes until the end of the connection, which is no reset."""
    return bytes(await asyncio.wait_for(connection.reader.read(), PATIENCE))


# What passes -----------------------------------------------------------------------------------------------------------


async def test_messages_pass_both_ways_and_are_recorded_once(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port, compression=None) as connection:
            for message in ("hello", b"\x00" * 70_000, "", "ünïcode"):
                await connection.send(message)
                assert await connection.recv() == message
            await connection.send(["in ", "three ", "parts"])
            assert await connection.recv() == "in three parts"
            assert await asyncio.wait_for(await connection.ping(), PATIENCE) >= 0
        assert connection.close_code == 1000
    record = await only_record(rig)
    assert (record.status, record.model_status, record.outcome) == (101, 101, Outcome.OK)
    assert min(record.request_bytes, record.response_bytes) > 70_000
    assert 0 < record.first_byte_us <= record.total_us
    request = upstream.connections[0].request
    assert request is not None
    assert request.path == "/chat?room=1"
    assert "Authorization" not in request.headers
    assert request.headers["Via"] == "1.1 tidegate"


async def test_compressed_messages_pass_as_they_are(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            assert connection.response is not None
            assert "permessage-deflate" in connection.response.headers["Sec-WebSocket-Extensions"]
            for message in ("a" * 1_000_000, ["b" * 500, "c" * 500]):
                await connection.send(message)
                assert await connection.recv() == "".join(message)
    record = await only_record(rig)
    assert record.request_bytes < 10_000


async def test_what_the_caller_does_not_take_is_not_taken_from_the_replica(rig: Rig) -> None:
    release = asyncio.Event()
    total = 64 << 20

    async def pour(connection: ServerConnection) -> None:
        for _ in range(64):
            await connection.send(bytes(1 << 20))
        release.set()
        await connection.recv()

    async with socket_replica(pour, compression=None) as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port, compression=None, max_queue=1) as connection:
            await asyncio.sleep(0.3)
            assert not release.is_set(), "the gateway took it all"
            got = 0
            while got < total:
                got += len(await connection.recv())
            await asyncio.wait_for(release.wait(), PATIENCE)


async def test_many_at_once_split_exactly_and_count_as_in_flight(rig: Rig) -> None:
    async with socket_replica() as blue, socket_replica() as green:
        sets = {"blue": [replica(blue.port)], "green": [replica(green.port)]}
        shares = {"blue": 70, "green": 30}
        await rig.publish("demo", {name: deployment() for name in shares}, shares, sets)
        callers = [socket_caller(rig.port) for _ in range(20)]
        connections = [await one.__aenter__() for one in callers]
        chosen = Counter(one.response.headers["azureml-model-deployment"] for one in connections if one.response)
        assert chosen == {"blue": 14, "green": 6}
        await until(
            lambda: {row.deployment: row.in_flight for row in rig.demand[-1].rows} == chosen, "demand that counts them"
        )
        for one in callers:
            await one.__aexit__(None, None, None)
        await until(lambda: len(rig.records) == 20, "all records")
        await until(lambda: not any(row.in_flight for row in rig.demand[-1].rows), "demand without them")


async def test_a_place_at_a_replica_is_taken_until_the_end(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, concurrency=1, wait_ms=0)
        async with socket_caller(rig.port):
            with pytest.raises(InvalidStatus) as raised:
                async with socket_caller(rig.port):
                    pass
            assert raised.value.response.status_code == 429
        async with socket_caller(rig.port) as connection:
            await connection.send("next")
            assert await connection.recv() == "next"


async def test_a_named_deployment_is_not_split(rig: Rig) -> None:
    async with socket_replica() as upstream:
        sets = {"blue": [], "green": [replica(upstream.port)]}
        await rig.publish("demo", {name: deployment() for name in sets}, {"blue": 100}, sets)
        headers = {"Authorization": f"Bearer {KEY}", "azureml-model-deployment": "green"}
        async with socket_caller(rig.port, additional_headers=headers) as connection:
            await connection.send("x")
            assert await connection.recv() == "x"
    assert (await only_record(rig)).flags & Flag.NAMED_DEPLOYMENT


async def test_it_passes_under_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    pair = authority.issue("gateway", ["127.0.0.1"])
    async with gateway(tmp_path, tls_cert=str(pair.chain), tls_key=str(pair.key)) as rig, socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port, ssl=authority.trusted()) as connection:
            for message in ("hello", "a" * 1_000_000, b"\0" * 100_000):
                await connection.send(message)
                assert await connection.recv() == message
            upstream.connections[0].transport.abort()
            assert await closed(connection) == (1011, "the replica is gone")


async def test_a_deployment_that_speaks_http2_has_none(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, tidegate={"protocol": "http2"})
        got = await ask(rig.port, handshake())
    assert (got.status, json.loads(got.body)["error"]["code"]) == (501, "UpgradeNotSupported")


async def test_it_is_not_begun_at_two_replicas(rig: Rig) -> None:
    asked = []

    async def late(connection: ServerConnection, _: Any) -> None:
        asked.append(connection)
        await asyncio.sleep(0.3)

    async with socket_replica(process_request=late) as one, socket_replica(process_request=late) as other:
        await publish(rig, one.port, other.port, tidegate={"hedging": {"after_ms": 20, "budget_percent": 100}})
        async with socket_caller(rig.port) as connection:
            await connection.send("x")
            assert await connection.recv() == "x"
    assert len(asked) == 1


async def test_it_is_not_mirrored(rig: Rig) -> None:
    async with socket_replica() as upstream, scripted() as plain:
        sets = {"blue": [replica(upstream.port)], "green": [replica(plain.port)]}
        mirror = [{"deployment": "green", "fraction": 1}]
        documents = {name: deployment() for name in sets}
        await rig.publish("demo", documents, {"blue": 100}, sets, tidegate={"mirror": mirror})
        async with socket_caller(rig.port):
            pass
        assert not (await only_record(rig)).flags & Flag.MIRRORED
        await ask(rig.port, post(b"x"))
        await until(lambda: rig.shadows, "the shadow of what is mirrored")
        assert sum(shadow.count for shadow in rig.shadows) == 1


async def test_a_caller_gets_the_cookie_that_keeps_it_with_the_handshake(rig: Rig) -> None:
    async with socket_replica() as upstream:
        sets = {name: [replica(upstream.port, replica_id=name)] for name in ("blue", "green")}
        documents = {name: deployment() for name in sets}
        extras = {"stickiness": {"by": "cookie", "name": "tide"}}
        await rig.publish("demo", documents, {"blue": 50, "green": 50}, sets, tidegate=extras)
        chosen = []
        headers = {"Authorization": f"Bearer {KEY}"}
        for _ in range(4):
            async with socket_caller(rig.port, additional_headers=headers) as connection:
                assert connection.response is not None
                chosen.append(connection.response.headers["azureml-model-deployment"])
                if "Set-Cookie" in connection.response.headers:
                    headers["Cookie"] = connection.response.headers["Set-Cookie"].partition(";")[0]
        assert len(set(chosen)) == 1


async def test_what_comes_with_the_handshake_on_either_side_is_not_lost(rig: Rig) -> None:
    hello = frame(TEXT, b"hello")
    switch = f"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    got = bytearray()

    async def script(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(switch.encode() + hello)
        got.extend(await request.reader.readexactly(11))
        writer.write(closing(1000, "done"))
        got.extend(await request.reader.read())
        writer.close()

    async with scripted(script) as upstream:
        await publish(rig, upstream.port)
        async with caller(rig.port) as connection:
            early = frame(TEXT, b"early", MASK)
            connection.send(handshake() + early)
            assert (await connection.head()).status == 101
            expected = hello + closing(1000, "done")
            assert await connection.reader.readexactly(len(expected)) == expected
            connection.send(closing(1000, "done", MASK))
            assert await raw_frames(connection) == b""
    assert got == early + closing(1000, "done", MASK)


# How it begins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (handshake(key=None), 401, "Unauthorized"),
        (handshake(key="wrong"), 401, "Unauthorized"),
        (handshake(version="8"), 426, "WebSocketVersionNotSupported"),
        (handshake(nonce="dGhlIHNhbXBsZQ=="), 400, "BadRequest"),
        (handshake(extra=f"Sec-WebSocket-Key: {NONCE}\r\n"), 400, "BadRequest"),
        (handshake(first="POST /endpoints/demo/chat HTTP/1.1"), 400, "BadRequest"),
        (handshake(extra="Content-Length: 5\r\n") + b"hello", 400, "BadRequest"),
        (post(extra="Connection: Upgrade\r\nUpgrade: irc/6.9\r\n"), 501, "UpgradeNotSupported"),
        (handshake(key=None, extra="Sec-WebSocket-Protocol: chat, tidegate.bearer.d3Jvbmc\r\n"), 401, "Unauthorized"),
        (handshake(key=None, extra="Sec-WebSocket-Protocol: tidegate.bearer.eA\r\n"), 400, "BadRequest"),
        (handshake(key=None, extra="Sec-WebSocket-Protocol: c, tidegate.bearer.%\r\n"), 400, "BadRequest"),
    ],
)
async def test_a_handshake_that_is_none_or_not_authorised_is_refused(
    rig: Rig, request_bytes: bytes, status: int, code: str
) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        got = await ask(rig.port, request_bytes)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (status, code)
    assert (got.headers.get("sec-websocket-version") == "13") == (status == 426)
    assert not upstream.connections


async def test_a_browser_offers_the_key_as_a_subprotocol_which_ends_here(rig: Rig) -> None:
    async with socket_replica(subprotocols=["chat"]) as upstream:
        await publish(rig, upstream.port)
        secret = "tidegate.bearer." + base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
        async with socket_caller(rig.port, key=None, subprotocols=["other", secret, "chat"]) as connection:
            assert connection.subprotocol == "chat"
            await connection.send("x")
            assert await connection.recv() == "x"
        request = upstream.connections[0].request
        assert request is not None
        assert request.headers["Sec-WebSocket-Protocol"] == "other, chat"
        assert KEY not in str(request.headers)
        assert secret not in str(request.headers)


@pytest.mark.parametrize(
    "fields",
    [
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: wrong\r\n",
        "Upgrade: websocket\r\nConnection: upgrade\r\n",
        f"Upgrade: h2c\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n",
        f"Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n",
        f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: x\r\n",
        f"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: x\r\n",
    ],
)
async def test_an_answer_that_does_not_agree_is_none(rig: Rig, fields: str) -> None:
    async with scripted(answer(f"HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n".encode())) as upstream:
        await publish(rig, upstream.port)
        async with caller(rig.port) as connection:
            for _ in range(2):
                connection.send(handshake())
                got = await connection.answer()
                assert (got.status, json.loads(got.body)["error"]["code"]) == (502, "InvalidReplicaResponse")


async def test_a_replica_that_does_not_want_to_answers_like_any(rig: Rig) -> None:
    async with scripted(answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")) as upstream:
        extras = {"model_errors": "pass"}
        await publish(rig, upstream.port, tidegate=extras)
        async with caller(rig.port) as connection:
            for _ in range(2):
                connection.send(handshake())
                got = await connection.answer()
                assert (got.status, got.body) == (403, b"no")
    await until(lambda: len(rig.records) == 2, "two records")
    assert not any(one.flags & Flag.WEBSOCKET for one in rig.records)


async def test_the_wait_for_the_handshake_has_the_models_time(rig: Rig) -> None:
    async def silent(request: Any, _: asyncio.StreamWriter) -> None:
        await request.reader.read()
        raise ConnectionResetError

    async with scripted(silent) as upstream:
        await publish(rig, upstream.port, timeout_ms=100)
        assert (await ask(rig.port, handshake())).status == 408
        await until(lambda: upstream.aborted.is_set(), "the replica's connection is cut")


async def test_an_open_one_outlives_the_models_time(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, timeout_ms=50)
        async with socket_caller(rig.port) as connection:
            await asyncio.sleep(0.2)
            await connection.send("still there")
            assert await connection.recv() == "still there"


async def test_it_goes_to_another_replica_when_one_is_gone(rig: Rig) -> None:
    async with socket_replica() as first, socket_replica() as second:
        await publish(rig, first.port, second.port)
        async with socket_caller(rig.port) as one, socket_caller(rig.port) as other:
            assert (len(first.connections), len(second.connections)) == (1, 1)
            first.server.close(close_connections=False)
            first.connections[0].transport.abort()
            ends = [asyncio.create_task(closed(connection)) for connection in (one, other)]
            done, alive = await asyncio.wait(ends, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            assert [end.result() for end in done] == [(1011, "the replica is gone")]
            for end in alive:
                end.cancel()
            await asyncio.gather(*alive, return_exceptions=True)
        async with socket_caller(rig.port) as again:
            await again.send("x")
            assert await again.recv() == "x"
        assert len(second.connections) == 2


# How it ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "outcome"), [(1000, Outcome.OK), (4321, Outcome.OK), (1011, Outcome.MODEL_ERROR)])
async def test_a_replicas_close_passes_with_its_code(rig: Rig, code: int, outcome: Outcome) -> None:
    async def leave(connection: ServerConnection) -> None:
        await connection.close(code, "enough")

    async with socket_replica(leave) as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            assert await closed(connection) == (code, "enough")
        assert (await only_record(rig)).outcome is outcome


async def test_a_callers_close_passes_with_its_code(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            await connection.close(4000, "bye")
            await until(lambda: upstream.connections[0].close_code == 4000, "the code at the replica")
    assert (await only_record(rig)).outcome is Outcome.OK


async def test_a_caller_that_vanishes_ends_the_replicas_side(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            await connection.send("x")
            await connection.recv()
            connection.transport.abort()
            await until(lambda: upstream.connections[0].close_code == 1006, "the end at the replica")
        assert (await only_record(rig)).outcome is Outcome.CLIENT_ABORTED


async def test_a_replica_that_dies_between_two_frames_is_told_by_a_close_frame(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            await connection.send("x")
            await connection.recv()
            upstream.connections[0].transport.abort()
            assert await closed(connection) == (1011, "the replica is gone")
        assert (await only_record(rig)).outcome is Outcome.UPSTREAM_FAILED


async def test_a_replica_that_dies_inside_a_frame_ends_the_connection_without_a_reset(rig: Rig) -> None:
    half = b"\x82\x7e\x10\x00" + bytes(100)

    async def die(connection: ServerConnection) -> None:
        connection.transport.write(half)
        connection.transport.close()
        await asyncio.sleep(0)

    async with socket_replica(die) as upstream:
        await publish(rig, upstream.port)
        async with raw_socket(rig.port) as connection:
            assert await raw_frames(connection) == half
    assert (await only_record(rig)).outcome is Outcome.UPSTREAM_FAILED


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"unmasked"), 1002),
        (b"\xc1\x80abcd", 1002),
        (b"\x83\x80abcd", 1002),
        (frame(BINARY, b"x", MASK)[:1] + b"\xfe\x10\x00", 1009),
    ],
)
async def test_a_caller_that_breaks_the_rules_is_told_and_the_replica_too(rig: Rig, bad: bytes, code: int) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, limits={"max_message_bytes": 1000})
        async with raw_socket(rig.port) as connection:
            connection.send(frame(TEXT, b"good", MASK) + bad)
            got = await raw_frames(connection)
            assert got.startswith(b"\x88")
            assert int.from_bytes(got[2:4], "big") == code
        await until(lambda: upstream.connections[0].close_code == 1001, "the replica is told")
        assert (await only_record(rig)).outcome is Outcome.REFUSED


async def test_a_replicas_message_that_is_too_big_is_not_passed_on(rig: Rig) -> None:
    async def too_big(connection: ServerConnection) -> None:
        await connection.send("small")
        await connection.send("a" * 1001)
        await connection.wait_closed()

    async with socket_replica(too_big) as upstream:
        await publish(rig, upstream.port, limits={"max_message_bytes": 1000})
        async with socket_caller(rig.port, compression=None) as connection:
            assert await connection.recv() == "small"
            assert await closed(connection) == (1011, "the replica broke the protocol")
        await until(lambda: upstream.connections[0].close_code == 1009, "the replica is told")
        assert (await only_record(rig)).outcome is Outcome.UPSTREAM_FAILED


async def test_one_without_messages_is_closed_though_pings_pass(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, limits={"idle_seconds": 0.4, "ping_seconds": 0.1})
        async with socket_caller(rig.port, ping_interval=0.05) as connection:
            for _ in range(3):
                await connection.send("x")
                await connection.recv()
                await asyncio.sleep(0.1)
            assert await closed(connection) == (1001, "no message for too long")
        await until(lambda: upstream.connections[0].close_code == 1001, "the replica is told")
        assert (await only_record(rig)).outcome is Outcome.OK


async def test_one_that_has_lived_long_enough_is_closed(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, limits={"max_seconds": 0.3})
        async with socket_caller(rig.port) as connection:
            assert await closed(connection) == (1001, "the connection has reached the end of its time")


async def test_the_gateway_pings_who_is_silent_and_keeps_the_answers(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, limits={"ping_seconds": 0.05})
        async with raw_socket(rig.port) as connection:
            payloads = set()
            for _ in range(3):
                ping = await asyncio.wait_for(connection.reader.readexactly(10), PATIENCE)
                assert ping[:2] == bytes((0x80 | PING, 8))
                payloads.add(ping[2:])
                connection.send(frame(PONG, ping[2:], MASK))
            assert len(payloads) == 3
            connection.send(frame(TEXT, b"x", MASK))
            while (got := await asyncio.wait_for(connection.reader.readexactly(2), PATIENCE))[0] == 0x80 | PING:
                connection.send(frame(PONG, await connection.reader.readexactly(8), MASK))
            assert got == bytes((0x80 | TEXT, 1))
        record = await only_record(rig)
    assert record.outcome is Outcome.CLIENT_ABORTED


async def test_a_caller_that_answers_no_ping_is_dead(rig: Rig) -> None:
    async with socket_replica() as upstream:
        await publish(rig, upstream.port, limits={"ping_seconds": 0.1})
        async with raw_socket(rig.port) as connection:
            await until(lambda: upstream.connections[0].close_code == 1006, "the end at the replica")
            assert (await raw_frames(connection))[:2] == bytes((0x80 | PING, 8))
        assert (await only_record(rig)).outcome is Outcome.CLIENT_ABORTED


async def test_a_replica_that_answers_no_ping_is_dead(rig: Rig) -> None:
    switch = f"HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"

    async def deaf(request: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(switch.encode())
        await request.reader.read()
        raise ConnectionResetError

    async with scripted(deaf) as upstream:
        await publish(rig, upstream.port, limits={"ping_seconds": 0.1})
        async with caller(rig.port) as connection:
            connection.send(handshake())
            assert (await connection.head()).status == 101
            while (got := await asyncio.wait_for(connection.reader.readexactly(2), PATIENCE))[0] == 0x80 | PING:
                connection.send(frame(PONG, await connection.reader.readexactly(8), MASK))
            assert got[0] == 0x88
            assert int.from_bytes(await connection.reader.readexactly(2), "big") == 1011
        await until(lambda: upstream.aborted.is_set(), "the replica's connection is cut")
        assert (await only_record(rig)).outcome is Outcome.UPSTREAM_FAILED


async def test_a_gateway_that_stops_tells_both_ends_and_does_not_wait_longer(tmp_path: Path) -> None:
    async with gateway(tmp_path) as rig, socket_replica() as upstream:
        await publish(rig, upstream.port)
        async with socket_caller(rig.port) as connection:
            await connection.send("x")
            await connection.recv()
            rig.stop.set()
            assert (await closed(connection))[0] == 1001
            await until(lambda: upstream.connections[0].close_code == 1001, "the replica is told")
        assert rig.served is not None
        await asyncio.wait_for(rig.served, PATIENCE)
        assert (await only_record(rig)).outcome is Outcome.OK


async def test_a_replica_that_drains_keeps_its_own_until_its_time_is_nearly_up(rig: Rig) -> None:
    async with socket_replica() as old, socket_replica() as new:
        documents = {"blue": deployment(tidegate={"drain_seconds": 1.0})}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(old.port)]})
        async with socket_caller(rig.port) as connection:
            draining = replica(old.port, ReplicaState.DRAINING)
            version = rig.publisher.replicas("demo", {"blue": [draining, replica(new.port)]})
            await rig.applied("demo", version=version)
            await connection.send("x")
            assert await connection.recv() == "x"
            async with socket_caller(rig.port) as other:
                await other.send("y")
                assert await other.recv() == "y"
                assert len(new.connections) == 1
                assert await closed(connection) == (1001, "the replica is about to end: connect again")
                await until(
                    lambda: rig.demand[-1].draining == ((f"r{old.port}", 0),), "nothing in flight at the old one"
                )
                await other.send("z")
                assert await other.recv() == "z"
