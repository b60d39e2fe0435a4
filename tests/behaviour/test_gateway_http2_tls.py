"""HTTP/2 under TLS: agreed on by ALPN, and then the same."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway_rig import KEY, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, scripted
from tests.support.grpc_model import grpc_caller, grpc_model
from tests.support.http2_caller import PREFACE, http2, request
from tests.support.tls_authority import Authority, Issued, tls_caller


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Issued:
    return authority.issue("gateway", ["localhost", "127.0.0.1", "demo.localhost"])


@contextlib.asynccontextmanager
async def serving(folder: Path, pair: Issued) -> AsyncIterator[tuple[Rig, ScriptedReplica]]:
    async with scripted() as upstream, gateway(folder, tls_cert=str(pair.chain), tls_key=str(pair.key)) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig, upstream


async def test_whoever_offers_it_speaks_it(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    context = authority.trusted()
    context.set_alpn_protocols(["http/1.1", "h2"])
    async with serving(tmp_path, pair) as (rig, upstream), http2(rig.port, tls=context) as peer:
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        body = bytes(range(256)) * 4000
        stream = peer.begin([*request(), (b"content-length", b"%d" % len(body))])
        await peer.upload(stream, body)
        got = await peer.answer(stream)
        assert (got.status, got.body == body) == (200, True)
        assert upstream.requests[0].header("x-forwarded-proto") == "https"


async def test_whoever_has_agreed_on_http_1_stays_with_it(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    async with serving(tmp_path, pair) as (rig, _), tls_caller(rig.port, authority.trusted()) as connection:
        connection.send(PREFACE)
        assert (await connection.read()).startswith(b"HTTP/1.1 400")


async def test_a_stop_loses_no_request(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    go = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    context = authority.trusted()
    context.set_alpn_protocols(["h2"])
    async with serving(tmp_path, pair) as (rig, upstream), http2(rig.port, tls=context) as peer:
        upstream.script = script
        stream = peer.post()
        await until(lambda: upstream.requests, "the request")
        rig.stop.set()
        assert await peer.told(2) == (stream, 0)
        go.set()
        assert bytes((await peer.answer(stream)).body) == b"ok"
        await peer.end()


async def test_grpc_passes(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    async with grpc_model() as model, gateway(tmp_path, tls_cert=str(pair.chain), tls_key=str(pair.key)) as rig:
        document = deployment(tidegate={"protocol": "http2"})
        await rig.publish("demo", {"blue": document}, {"blue": 100}, {"blue": [replica(model.port)]})
        async with grpc_caller(rig.port, root=authority.certificate.read_bytes()) as peer:
            assert await peer.unary(b"hello") == b"hello"
            assert [one async for one in peer.spread(3)] == [b"0", b"1", b"2"]


async def test_curl_chooses_it(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    async with serving(tmp_path, pair) as (rig, _):
        for flag, version in (("--http2", b"2"), ("--http1.1", b"1.1")):
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", flag, "--cacert", str(authority.certificate), "-d", "hello", "-w", " %{http_version}",
                "-H", f"authorization: Bearer {KEY}", f"https://localhost:{rig.port}/endpoints/demo/score",
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            got, _ = await process.communicate()
            assert got == b"hello " + version
