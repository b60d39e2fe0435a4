"""Replicas that speak TLS: known by authority and name, shown a certificate, and cut answers are never whole."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from autoscaler.backends.local.probes import answers
from loadtests.waiting import free_port
from router.contract.errors import InvalidSpec
from router.runtime.replica_tls import Trust
from tests.support.gateway_rig import Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, ask, caller, post, scripted
from tests.support.grpc_model import GrpcModel, grpc_caller
from tests.support.mirror_candidate import answer, candidate
from tests.support.mirror_gateway import JSON_HEAD
from tests.support.mirror_gateway import gateway as tee
from tests.support.mirror_service import mirror
from tests.support.tls_authority import Authority, Issued

NAME = "blue.models.test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def serving(issued: Issued, clients: Authority | None = None) -> ssl.SSLContext:
    """A server's context that asks for a certificate where `clients` are named."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.chain, issued.key)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.certificate)
    return context


@contextlib.asynccontextmanager
async def routed(folder: Path, server: ScriptedReplica, extras: dict[str, Any], **settings: Any) -> AsyncIterator[Rig]:
    async with gateway(folder, **settings) as rig:
        documents = {"blue": deployment(tidegate={"scheme": "https", **extras})}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(server.port)]})
        yield rig


async def test_both_sides_show_certificates_and_connections_are_kept(tmp_path: Path, authority: Authority) -> None:
    server, client = authority.issue("blue", [NAME]), authority.issue("client")
    trust = {
        "replica_ca": str(authority.certificate),
        "replica_cert": str(client.chain),
        "replica_key": str(client.key),
    }
    shown: list[Any] = []

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("peercert")["subject"][0][0][1])
        body = await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    tls = serving(server, authority)
    async with (
        scripted(script, tls) as upstream,
        routed(tmp_path, upstream, {"server_name": NAME}, **trust) as rig,
        caller(rig.port) as connection,
    ):
        for size in (1, 1000, 3_000_000):
            connection.send(post(b"x" * size))
            got = await connection.answer()
            assert (got.status, got.body) == (200, b"x" * size)
        assert shown == ["client"] * 3
        assert upstream.connections == 1


async def test_without_a_name_it_is_the_address_that_is_certified(tmp_path: Path, authority: Authority) -> None:
    tls = serving(authority.issue("address", ["127.0.0.1"]))
    async with (
        scripted(tls=tls) as upstream,
        routed(tmp_path, upstream, {}, replica_ca=str(authority.certificate)) as rig,
    ):
        assert (await ask(rig.port)).body == b"hello"


@pytest.mark.parametrize("wrong", ["name", "authority", "client"])
async def test_who_is_not_known_gets_nothing_and_the_log_says_why(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    caplog.set_level(logging.WARNING)
    strangers = Authority(tmp_path / "strangers")
    issuer = strangers if wrong == "authority" else authority
    server = issuer.issue("blue", ["other.test" if wrong == "name" else NAME])
    tls = serving(server, authority if wrong == "client" else None)
    settings = {"replica_ca": str(authority.certificate), "activation_seconds": 1.0}
    async with (
        scripted(tls=tls) as upstream,
        routed(tmp_path / "data", upstream, {"server_name": NAME}, **settings) as rig,
    ):
        assert (await ask(rig.port)).status in (502, 503)
        assert upstream.requests == []
        if wrong != "client":  # TLS 1.3 tells a client late that its certificate is missing
            reasons = [str(getattr(one, "reason", "")) for one in caplog.records]
            expected = "mismatch" if wrong == "name" else "unable to get"
            assert any(expected in reason for reason in reasons), reasons


async def test_an_answer_that_ends_without_close_notify_is_not_whole(tmp_path: Path, authority: Authority) -> None:
    clean = True

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf or whole")
        await writer.drain()
        await asyncio.sleep(0.05)
        if clean:
            writer.close()
        else:
            writer.transport.abort()

    tls = serving(authority.issue("address", ["127.0.0.1"]))
    async with (
        scripted(script, tls) as upstream,
        routed(tmp_path, upstream, {}, replica_ca=str(authority.certificate)) as rig,
    ):
        got = await ask(rig.port)
        assert (got.status, got.body, got.whole) == (200, b"half or whole", True)
        clean = False
        assert not (await ask(rig.port)).whole


async def test_a_replica_that_never_shakes_hands_costs_three_seconds(tmp_path: Path, authority: Authority) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    tls = serving(authority.issue("address", ["127.0.0.1"]))
    server = await asyncio.start_server(silent, "127.0.0.1", free_port())
    async with server, scripted(tls=tls) as upstream, gateway(tmp_path, replica_ca=str(authority.certificate)) as rig:
        port = server.sockets[0].getsockname()[1]
        documents = {"blue": deployment(tidegate={"scheme": "https"})}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(port), replica(upstream.port)]})
        for _ in range(4):
            assert (await ask(rig.port)).body == b"hello"


async def test_grpc_over_tls_to_the_replica(tmp_path: Path, authority: Authority) -> None:
    issued = authority.issue("grpc", [NAME])
    credentials = grpc.ssl_server_credentials([(issued.key.read_bytes(), issued.chain.read_bytes())])
    model = GrpcModel(credentials=credentials)
    await model.start()
    try:
        async with gateway(tmp_path, replica_ca=str(authority.certificate)) as rig:
            extras = {"protocol": "http2", "scheme": "https", "server_name": NAME}
            documents = {"blue": deployment(tidegate=extras)}
            await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(model.port)]})
            async with grpc_caller(rig.port) as channel:
                assert await channel.unary(b"hello") == b"hello"
    finally:
        await model.server.stop(None)


async def test_shadows_go_to_candidates_over_tls(tmp_path: Path, authority: Authority) -> None:
    tls = serving(authority.issue("green", [NAME]))
    ca = str(authority.certificate)
    async with candidate(answer(b'{"y": 1}'), tls=tls) as green, mirror(tmp_path, replica_ca=ca) as running:
        for name, fine in ((NAME, True), ("other.test", False)):
            running.extras = {"scheme": "https", "server_name": name}
            running.specs({"green": 4})
            running.serve(green=green.port)
            await running.applied()
            async with tee(running.socket) as worker:
                number = worker.open(JSON_HEAD, body=b'{"x":1}')
                worker.respond(number, b'{"y":1}')
                await worker.wait_done(number)
            event = (await running.wait_shadows(1 if fine else 2))[-1]
            assert event.shadow is not None
            if fine:
                assert event.equal
                running.serve(green=free_port())  # so that no connection is kept
                await running.applied()
            else:
                assert "TLS: Hostname mismatch" in event.shadow.error


async def test_probes_ask_over_tls_whoever_it_is(tmp_path: Path) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        status = b"200 OK" if request.target == "/healthz" else b"503 No"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    tls = serving(Authority(tmp_path / "unknown").issue("blue", ["elsewhere.test"]))
    async with scripted(script, tls) as upstream:
        assert await answers("127.0.0.1", upstream.port, "/healthz", 10, secure=True)
        assert not await answers("127.0.0.1", upstream.port, "/else", 10, secure=True)
        assert not await answers("127.0.0.1", upstream.port, "/healthz", 10)
    await until(lambda: upstream.open == 0, "all is closed")


def test_what_is_wrong_with_the_files_names_the_flag(tmp_path: Path, authority: Authority) -> None:
    client, other = authority.issue("client"), authority.issue("other-client")
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    ca, cert, key = str(authority.certificate), str(client.chain), str(client.key)
    for given, flag in (
        ((ca, cert, ""), "--replica-key"),
        ((ca, "", key), "--replica-cert"),
        ((str(junk), "", ""), "--replica-ca"),
        ((str(tmp_path / "none"), "", ""), "--replica-ca"),
        ((ca, cert, str(other.key)), "--replica-key"),
        ((ca, str(junk), key), "--replica-cert"),
    ):
        with pytest.raises(InvalidSpec, match=flag):
            Trust(*given).check()
    Trust(ca, cert, key).check()
