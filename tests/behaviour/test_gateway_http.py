"""The gateway's HTTP: what passes, in which form, and what is refused."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.gateway_rig import KEY, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, answer, ask, caller, echo, post, scripted


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path) as rig:
        documents = {"blue": deployment(), "green": deployment(tidegate={"model_errors": "pass"})}
        sets = {name: [replica(upstream.port, replica_id=name)] for name in documents}
        await rig.publish("demo", documents, {"blue": 100}, sets, tidegate={"hosts": ["model.example"]})
        yield rig


async def test_a_request_reaches_the_replica_and_its_answer_the_caller(rig: Rig, upstream: ScriptedReplica) -> None:
    got = await ask(rig.port, post(b"hello", path="/endpoints/demo/v1/score?a=b/c"))
    assert (got.status, got.body) == (200, b"hello")
    assert upstream.requests[0].target == "/v1/score?a=b/c"
    assert got.headers["azureml-model-deployment"] == "blue"
    assert got.headers["content-type"] == "text/plain"


async def test_bodies_of_any_size_pass_whole_behind_their_heads(rig: Rig, upstream: ScriptedReplica) -> None:
    async with caller(rig.port) as connection:
        for size in (32_767, 32_768, 32_769, 65_536, 65_537, 220_000, 2 << 20):
            body = random.Random(size).randbytes(size)
            connection.send(post(body))
            assert (await connection.answer()).body == body
    assert upstream.connections == 1


async def test_heads_that_come_again_are_cut_where_they_end(rig: Rig, upstream: ScriptedReplica) -> None:
    """Also where the next one is shorter, longer, as long but another, in pieces or behind another one."""

    async def many_lengths(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        extra = "" if request.target == "/" else "X-Of: " + request.target[1:] + "\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{extra}Content-Length: {len(request.body)}\r\n\r\n".encode() + request.body)

    upstream.script = many_lengths
    paths = ("", "a" * 300, "b" * 300, "c" * 20, "")
    requests = [(path, post(body, path=f"/endpoints/demo/{path}")) for path in paths for body in (b"", b"xyz")]
    chances = random.Random(1)
    async with caller(rig.port) as connection:
        for _ in range(40):
            path, request = chances.choice(requests)
            for _ in range(chances.choice((1, 1, 2, 3))):
                if chances.random() < 0.2:
                    at = chances.randrange(1, len(request))
                    connection.send(request[:at])
                    await asyncio.sleep(0)
                    connection.send(request[at:])
                else:
                    connection.send(request)
                got = await connection.answer()
                assert (got.status, got.body) == (200, request.partition(b"\r\n\r\n")[2])
                assert got.headers.get("x-of", "") == path
                assert upstream.requests[-1].target == f"/{path}"
        connection.send(b"".join(request for _, request in requests))
        for path, request in requests:
            got = await connection.answer()
            assert (got.body, got.headers.get("x-of", "")) == (request.partition(b"\r\n\r\n")[2], path)
    assert upstream.connections == 1


async def test_our_request_id_goes_both_ways_and_names_the_record(rig: Rig, upstream: ScriptedReplica) -> None:
    got = await ask(rig.port, post(extra="X-Request-Id: mine\r\n"))
    sent = upstream.requests[0].header("x-request-id")
    assert sent == got.headers["x-request-id"] != "mine"
    assert [len(part) for part in sent.split("-")] == [8, 4, 4, 4, 12]
    records = await until(lambda: [one for one in rig.records if one.deployment], "a record")
    assert int(sent[-12:], 16) == records[0].sequence
    assert (records[0].status, records[0].deployment, records[0].replica) == (200, "blue", "blue")
    assert sent.replace("-", "").startswith(rig.log.writer[:20])


async def test_credentials_and_our_own_marks_end_here(rig: Rig, upstream: ScriptedReplica) -> None:
    extra = (
        "X-Tidegate-Shadow: forged\r\nX_Tidegate_Shadow: forged\r\nX_Request_Id: forged\r\nConnection: x-hop, keep-alive\r\n"
        "X-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Kept: yes\r\nX-Ms-Client-Request-Id: a!b" + "c" * 60 + "\r\n"
        "X-Forwarded-For: 10.0.0.1\r\n"
    )
    assert (await ask(rig.port, post(b"x", extra=extra))).status == 200
    request = upstream.requests[0]
    names = {name.lower() for name, _ in request.headers}
    gone = {"authorization", "x-tidegate-shadow", "x_tidegate_shadow", "x_request_id", "connection", "x-hop", "te"}
    assert not names & (gone | {"keep-alive"})
    assert request.header("x-kept") == "yes"
    assert request.header("x-ms-client-request-id") == ("ab" + "c" * 60)[:40]
    assert request.header("x-forwarded-for") == "10.0.0.1, 127.0.0.1"
    assert request.header("x-forwarded-proto") == "http"
    assert request.header("host") == "gateway"


async def test_hop_headers_of_the_answer_end_here(rig: Rig, upstream: ScriptedReplica) -> None:
    raw = b"HTTP/1.1 200 Fine\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Request-Id: theirs\r\nServer: s\r\nContent-Length: 0\r\n\r\n"
    upstream.script = answer(raw)
    got = await ask(rig.port)
    assert "x-hop" not in got.headers
    assert "connection" not in got.headers
    assert got.headers["server"] == "s"
    assert got.headers["x-request-id"] != "theirs"


@pytest.mark.parametrize("host", ["demo.localhost", "DEMO.localhost:80", "model.example", "model.example."])
async def test_an_endpoint_is_found_by_host(rig: Rig, upstream: ScriptedReplica, host: str) -> None:
    raw = f"GET /endpoints/x HTTP/1.1\r\nHost: {host}\r\nAuthorization: bearer {KEY}\r\n\r\n".encode()
    assert (await ask(rig.port, raw)).status == 200
    assert upstream.requests[0].target == "/endpoints/x"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (post(key=None), 401, "Unauthorized"),
        (post(key="wrong"), 401, "Unauthorized"),
        (post(key=""), 401, "Unauthorized"),
        (post(path="/endpoints/other/score"), 404, "EndpointNotFound"),
        (post(path="/score"), 404, "EndpointNotFound"),
        (post(extra="azureml-model-deployment: red\r\n"), 404, "DeploymentNotFound"),
        (post(extra="Connection: Upgrade\r\nUpgrade: irc/6.9\r\n"), 501, "UpgradeNotSupported"),
        (post(extra="Expect: miracles\r\n"), 417, "ExpectationFailed"),
    ],
)
async def test_refusals_say_what_is_wrong_and_keep_the_connection(
    rig: Rig, upstream: ScriptedReplica, request_bytes: bytes, status: int, code: str
) -> None:
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(request_bytes)
            got = await connection.answer()
            assert got.status == status
            assert json.loads(got.body)["error"]["code"] == code
            assert "x-request-id" in got.headers
            assert ("www-authenticate" in got.headers) == (status == 401)
        connection.send(post(b"next"))
        assert (await connection.answer()).body == b"next"
    assert len(upstream.requests) == 1


async def test_no_traffic_is_404_as_in_azure_and_a_named_deployment_still_answers(
    rig: Rig, upstream: ScriptedReplica
) -> None:
    revision = rig.publisher.endpoint("demo", {"blue": deployment()}, {})
    await rig.applied("demo", revision=revision)
    got = await ask(rig.port)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (404, "NoDeploymentWithTraffic")
    got = await ask(rig.port, post(b"x", extra="azureml-model-deployment: BLUE\r\n"))
    assert (got.status, got.headers["azureml-model-deployment"]) == (200, "blue")


async def test_the_gateway_tells_of_itself(rig: Rig) -> None:
    for path in ("/healthz", "/readyz"):
        got = await ask(rig.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (got.status, got.body) == (200, b"ok\n")


async def test_both_keys_open_and_a_regenerated_one_no_longer_does(rig: Rig, upstream: ScriptedReplica) -> None:
    async def statuses() -> dict[str, int]:
        return {key: (await ask(rig.port, post(key=key))).status for key in (KEY, "second", "third")}

    for _ in range(2):
        assert await statuses() == {KEY: 200, "second": 200, "third": 401}
    async with caller(rig.port) as connection:
        connection.send(post())
        assert (await connection.answer()).status == 200
        revision = rig.publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100}, keys=("third", "second"))
        await rig.applied("demo", revision=revision)
        served = len(upstream.requests)
        connection.send(post())
        assert (await connection.answer()).status == 401, "the connection was opened with the old key"
    assert len(upstream.requests) == served
    for _ in range(2):
        assert await statuses() == {KEY: 401, "second": 200, "third": 200}


async def test_a_head_that_is_too_large_is_431(rig: Rig) -> None:
    for end in (b"", b"\r\n\r\n"):
        async with caller(rig.port) as connection:
            connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + end)
            assert (await connection.answer()).status == 431
            assert await connection.ended()


async def test_a_head_may_come_byte_by_byte(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        for byte in post(b"hello"):
            connection.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await connection.answer()).body == b"hello"


async def test_pipelined_requests_are_answered_in_order(rig: Rig, upstream: ScriptedReplica) -> None:
    async with caller(rig.port) as connection:
        bodies = [b"%d" % number for number in range(50)]
        connection.send(b"\r\n" + b"".join(post(body) for body in bodies))
        assert [(await connection.answer()).body for _ in bodies] == bodies
    assert [request.body for request in upstream.requests] == bodies


async def test_pipelined_refusals_do_not_pile_up(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        connection.send(post(key=None) * 3000)
        for _ in range(3000):
            assert (await connection.answer()).status == 401


async def test_chunked_both_ways(rig: Rig, upstream: ScriptedReplica) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        assert request.header("content-length") is None
        body = await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"3;ext=1\r\nabc\r\n%x\r\n%b\r\n0\r\nChecksum: x\r\n\r\n" % (len(body), body))

    upstream.script = script
    async with caller(rig.port) as connection:
        for _ in range(2):
            head = post().replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            connection.send(head + b"5;x=y\r\nhel")
            await asyncio.sleep(0)
            connection.send(b"lo\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n")
            got = await connection.answer()
            assert got.body == b"abchello!"
    assert upstream.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body(rig: Rig, upstream: ScriptedReplica, status: int) -> None:
    upstream.script = answer(b"HTTP/1.1 %d X\r\nETag: e\r\n\r\n" % status)
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(post())
            got = await connection.answer()
            assert (got.status, got.headers["etag"]) == (status, "e")
    assert upstream.connections == 1


async def test_head_gets_the_length_and_no_body(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(post(method="HEAD"))
            got = await connection.answer(head_only=True)
            assert (got.status, got.headers["content-length"]) == (200, "500")


async def test_an_old_caller_gets_its_answer_and_the_end(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    async with caller(rig.port) as connection:
        connection.send(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
        got = await connection.answer()
        assert (got.body, got.headers["connection"]) == (b"abc", "close")
        assert "transfer-encoding" not in got.headers


async def test_an_old_caller_may_ask_for_keep_alive(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(post(b"x", extra="Connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"))
            got = await connection.answer()
            assert (got.body, got.headers["connection"]) == (b"x", "keep-alive")


async def test_a_replica_that_ends_its_answer_by_closing(rig: Rig, upstream: ScriptedReplica) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
        writer.close()

    upstream.script = script
    async with caller(rig.port) as connection:
        for _ in range(2):
            connection.send(post())
            got = await connection.answer()
            assert (got.body, got.headers["transfer-encoding"]) == (b"until the end", "chunked")


async def test_early_hints_pass_and_the_replicas_100_stays_here(rig: Rig, upstream: ScriptedReplica) -> None:
    raw = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\nY: 1\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    )
    upstream.script = answer(raw)
    async with caller(rig.port) as connection:
        connection.send(post())
        hints = await connection.head()
        assert (hints.status, hints.headers) == (103, {"link": "x", "via": "1.1 tidegate"})
        assert (await connection.answer()).body == b"x"


async def test_an_old_caller_gets_no_interim_answer(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    old = post(b"hello", extra="Expect: 100-continue\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with caller(rig.port) as connection:
        connection.send(old[:-1])
        await until(lambda: upstream.requests, "the head has arrived")
        connection.send(old[-1:])
        got = await connection.answer()
        assert (got.status, got.body) == (200, b"x")


async def test_interim_answers_without_end_are_nonsense(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
    got = await ask(rig.port)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (502, "InvalidReplicaResponse")


async def test_expect_continue_is_answered_before_the_body(rig: Rig, upstream: ScriptedReplica) -> None:
    async with caller(rig.port) as connection:
        head, body = post(b"hello", extra="Expect: 100-continue\r\n").split(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert (await connection.head()).status == 100
        connection.send(body)
        assert (await connection.answer()).body == b"hello"
    assert upstream.requests[0].header("expect") is None


async def test_a_refused_upload_is_told_so_at_once(rig: Rig) -> None:
    async with caller(rig.port) as connection:
        connection.send(post(b"x" * 10, key="wrong", extra="Expect: 100-continue\r\n")[:-10])
        got = await connection.answer()
        assert (got.status, got.headers["connection"]) == (401, "close")
        assert await connection.ended()


async def test_events_pass_one_by_one(rig: Rig, upstream: ScriptedReplica) -> None:
    step = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await step.wait()
            step.clear()
        writer.write(b"0\r\n\r\n")

    upstream.script = script
    async with caller(rig.port) as connection:
        connection.send(post())
        assert (await connection.head()).headers["content-type"] == "text/event-stream"
        for number in range(5):
            assert await connection.reader.readexactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
            step.set()
        assert await connection.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_models_error_is_424_with_the_real_code(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 500 Oh No\r\nContent-Length: 3\r\n\r\nwhy")
    got = await ask(rig.port)
    assert (got.status, got.body) == (424, b"why")
    assert got.headers["ms-azureml-model-error-statuscode"] == "500"
    assert got.headers["ms-azureml-model-error-reason"] == "Oh No"
    got = await ask(rig.port, post(extra="azureml-model-deployment: green\r\n"))
    assert (got.status, got.body) == (500, b"why")
    assert "ms-azureml-model-error-statuscode" not in got.headers


async def test_nonsense_from_the_replica_is_502_and_hurts_nobody_else(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTP/1.1 200 OK\r\n\r\n")
    got = await ask(rig.port)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (502, "InvalidReplicaResponse")
    upstream.script = echo
    assert (await ask(rig.port)).status == 200


async def test_every_answer_has_a_date(rig: Rig, upstream: ScriptedReplica) -> None:
    for raw in (post(), post(key=None), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"nonsense\r\n\r\n"):
        got = await ask(rig.port, raw)
        told = email.utils.parsedate_to_datetime(got.headers["date"])
        assert abs(time.time() - told.timestamp()) < 60


async def test_bytes_behind_an_answer_never_reach_the_next_caller(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    )
    async with caller(rig.port) as connection:
        for _ in range(3):
            connection.send(post())
            assert (await connection.answer()).body == b"x"
    assert upstream.connections == 3


async def test_connections_to_replicas_are_kept(rig: Rig, upstream: ScriptedReplica) -> None:
    for _ in range(5):
        assert (await ask(rig.port)).status == 200
    assert upstream.connections == 1


async def test_a_broken_message_disturbs_nobody(rig: Rig, upstream: ScriptedReplica) -> None:
    rig.publisher.log.append("specs", "demo", b"{broken")
    rig.publisher.log.append("replicas", "demo", b"{broken")
    # Weights that do not add up to 100: an endpoint that never was, and one that stays as it is.
    rig.publisher.endpoint("worse", {"blue": deployment()}, {"blue": 55})
    rig.publisher.endpoint("demo", {"blue": deployment()}, {"blue": 55})
    # The log is read in order: once this is served, everything before it has been.
    rig.publisher.endpoint("after", {"blue": deployment()}, {"blue": 100})
    sets = {"blue": [replica(upstream.port)]}
    version = rig.publisher.replicas("after", sets)
    await rig.applied("after", revision=1, version=version)
    assert (await ask(rig.port, post(b"x", path="/endpoints/after/score"))).body == b"x"
    got = await ask(rig.port, post(path="/endpoints/worse/score"))
    assert (got.status, json.loads(got.body)["error"]["code"]) == (404, "EndpointNotFound")
    for name in ("blue", "green"):
        got = await ask(rig.port, post(b"y", extra=f"azureml-model-deployment: {name}\r\n"))
        assert (got.status, got.body) == (200, b"y")
    assert (await ask(rig.port)).headers["azureml-model-deployment"] == "blue"


async def test_a_deployments_broken_document_leaves_its_last_good_one(rig: Rig, upstream: ScriptedReplica) -> None:
    upstream.script = answer(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
    documents = {"blue": deployment(), "green": deployment(concurrency=-1)}
    revision = rig.publisher.endpoint("demo", documents, {"green": 100})
    await rig.applied("demo", revision=revision)
    # The weights are the new ones; that green passes errors as they are is its last good document's.
    got = await ask(rig.port)
    assert (got.status, got.headers["azureml-model-deployment"]) == (500, "green")
