"""Callers under TLS: the same HTTP, only certain who serves it, and that nothing was cut off."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.cli.client import HttpPeer, Unreachable
from router.contract.errors import InvalidSpec
from router.contract.events import Outcome
from router.gateway import entrance
from router.gateway.certificate_store import served
from tests.support.gateway_figures import figures
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, caller, gone, post, read_chunked, scripted
from tests.support.http_corpus import Case, cases
from tests.support.http_reference import Message
from tests.support.http_verdicts import check_requests, sent
from tests.support.tls_authority import Authority, Issued, tls_caller


def as_message(request: Request) -> Message:
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers]
    return Message((request.method.encode(), request.target.encode()), fields, request.body, b"1.1")


BYE = "Connection: close\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Issued:
    return authority.issue("gateway", ["localhost", "127.0.0.1"])


@contextlib.asynccontextmanager
async def serving(folder: Path, pair: Issued, port: int, **settings: Any) -> AsyncIterator[Rig]:
    async with gateway(folder, tls_cert=str(pair.chain), tls_key=str(pair.key), **settings) as rig:
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(port)]})
        yield rig


async def test_a_request_is_answered_and_the_model_is_told_https(
    tmp_path: Path, authority: Authority, pair: Issued
) -> None:
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with tls_caller(rig.port, authority.trusted()) as connection:
            for body in (b"one", b"two"):
                connection.send(post(body))
                assert (await connection.read()).endswith(body)
            assert connection.tls.version() == "TLSv1.3"
            connection.send(post(b"last", extra=BYE))
            assert (await connection.everything()).endswith(b"last")
            assert connection.clean
        assert {one.header("x-forwarded-proto") for one in upstream.requests} == {"https"}
        connection_on = "GET https://gateway/endpoints/demo/score HTTP/1.1\r\nHost: gateway\r\n"
        async with tls_caller(rig.port, authority.trusted()) as connection:
            connection.send(connection_on.encode() + post().partition(b"\r\n")[2].partition(b"\r\n")[2])
            assert (await connection.read()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [0, 4, 16_000, 16_384, 16_385, 40_000, 220_000])
async def test_the_last_answer_is_whole_and_ends_with_a_close_notify(
    tmp_path: Path, authority: Authority, pair: Issued, size: int
) -> None:
    body = b"x" * size
    asked = post(body, extra=BYE)
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with tls_caller(rig.port, authority.trusted()) as connection:
            connection.send(asked)
            assert (await connection.everything()).partition(b"\r\n\r\n")[2] == body
            assert connection.clean
        async with tls_caller(rig.port, authority.trusted()) as connection:
            connection.send(asked + b"of what is never asked")
            assert (await connection.everything()).partition(b"\r\n\r\n")[2] == body
            assert connection.clean


async def test_http_1_1_is_agreed_on_and_a_session_is_resumed(
    tmp_path: Path, authority: Authority, pair: Issued
) -> None:
    context = authority.trusted()
    context.set_alpn_protocols(["spdy/9", "http/1.1"])
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with tls_caller(rig.port, context) as connection:
            assert connection.tls.selected_alpn_protocol() == "http/1.1"
            connection.send(post(b"x"))
            assert (await connection.read()).endswith(b"x")
            session = connection.tls.session
        async with tls_caller(rig.port, context, shaken=False) as connection:
            connection.tls.session = session
            await connection.shake()
            assert connection.tls.session_reused
            connection.send(post(b"y"))
            assert (await connection.read()).endswith(b"y")


async def shows(rig: Rig, name: str, value: float) -> None:
    """Wait until the worker's figure is that: what it says of a connection comes a turn or two after the connection."""
    while await figures(rig, f"tidegate_gateway_{name}") != {"": value}:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_a_connection_has_one_place_from_before_its_handshake_to_its_end(
    tmp_path: Path, authority: Authority, pair: Issued, protocol: str
) -> None:
    trusted, context = authority.trusted(), authority.trusted()
    context.set_alpn_protocols([protocol])
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port, max_connections=1) as rig:
        for turn in range(2):
            async with tls_caller(rig.port, context, shaken=False) as connection:
                await shows(rig, "open_connections", 1)
                await connection.shake()
                await shows(rig, "tls_handshakes_total", 2 * turn + 1)
                async with tls_caller(rig.port, trusted) as refused:
                    refused.send(post(b"x"))
                    assert (await refused.everything()).startswith(b"HTTP/1.1 503 ")
                await shows(rig, "open_connections", 1)
            await shows(rig, "open_connections", 0)
            async with caller(rig.port) as nonsense:
                await shows(rig, "open_connections", 1)
                nonsense.send(b"no handshake")
                assert await nonsense.reader.read()
            await shows(rig, "open_connections", 0)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_versions_before_1_2_are_refused(
    tmp_path: Path, authority: Authority, pair: Issued, version: ssl.TLSVersion
) -> None:
    context = authority.trusted()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            async with tls_caller(rig.port, context):
                pass
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tls_caller(rig.port, context) as connection:
            assert connection.tls.version() == "TLSv1.2"
            connection.send(post(b"x"))
            assert (await connection.read()).endswith(b"x")


async def test_a_caller_in_plain_http_is_told_so_and_others_are_cut(
    tmp_path: Path, pair: Issued, authority: Authority
) -> None:
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with caller(rig.port) as connection:
            connection.send(post(b"x"))
            got = await connection.answer()
            assert got.status == 400
            assert b"https://" in got.body
            assert await connection.ended()
        async with caller(rig.port) as connection:
            connection.send(b"\x00\x01nonsense")
            assert await connection.ended()
        async with caller(rig.port) as connection:
            connection.send(b"\x16\x03\x01\x00\x05nonsense")
            raw = await asyncio.wait_for(connection.reader.read(), PATIENCE)
            assert raw[:1] in (b"", b"\x15"), "an alert at most"
        async with tls_caller(rig.port, authority.trusted()) as fine:
            fine.send(post(b"x"))
            assert (await fine.read()).endswith(b"x")
        assert len(upstream.requests) == 1


async def test_a_handshake_that_takes_too_long_is_cut(
    tmp_path: Path, authority: Authority, pair: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HANDSHAKE_NS", 200_000_000)
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with caller(rig.port) as silent, tls_caller(rig.port, authority.trusted(), shaken=False) as slow:
            slow.writer.write(slow.hello()[:50])
            assert await silent.ended()
            assert await asyncio.wait_for(slow.reader.read(), PATIENCE) == b""
        async with tls_caller(rig.port, authority.trusted()) as connection:
            await asyncio.sleep(0.3)  # the handshake's deadline is over, and so is the handshake
            connection.send(post(b"x"))
            assert (await connection.read()).endswith(b"x")


async def test_who_has_said_close_notify_still_gets_the_answer(
    tmp_path: Path, authority: Authority, pair: Issued
) -> None:
    release = asyncio.Event()

    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    async with (
        scripted(late) as upstream,
        serving(tmp_path, pair, upstream.port) as rig,
        tls_caller(rig.port, authority.trusted()) as connection,
    ):
        connection.send(post(b"x"))
        connection.say_close()
        await until(lambda: upstream.requests, "the request is there")
        release.set()
        assert (await connection.everything()).endswith(b"late")
        assert connection.clean


@pytest.mark.parametrize("said", [True, False])
async def test_who_leaves_inside_an_exchange_ends_the_models_work(
    tmp_path: Path, authority: Authority, pair: Issued, *, said: bool
) -> None:
    async def hold(request: Request, writer: asyncio.StreamWriter) -> None:
        await gone(request.reader)

    async with scripted(hold) as upstream, serving(tmp_path, pair, upstream.port) as rig:
        async with tls_caller(rig.port, authority.trusted()) as connection:
            connection.send(post())
            await until(lambda: upstream.requests, "the request is there")
            if said:
                connection.say_close()
        await asyncio.wait_for(upstream.aborted.wait(), PATIENCE)
        await until(lambda: rig.records, "the record")
        assert rig.records[0].outcome is Outcome.CLIENT_ABORTED


async def test_an_answer_that_breaks_off_is_no_whole_one(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    async def broken(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    async with scripted(broken) as upstream, serving(tmp_path, pair, upstream.port) as rig:
        for raw in (post(b"x"), post(b"x").replace(b"HTTP/1.1", b"HTTP/1.0")):
            async with tls_caller(rig.port, authority.trusted()) as connection:
                connection.send(raw)
                assert b"half" in await connection.everything()
                assert not connection.clean, "nobody may take what was cut for the end"


async def test_long_bodies_stream_both_ways_at_once(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    piece = bytes(range(256)) * 256

    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            size = int(await request.reader.readuntil(b"\r\n"), 16)
            data = await request.reader.readexactly(size + 2)
            writer.write(b"%x\r\n%b" % (size, data))
            await writer.drain()
            if not size:
                return

    async with scripted(echo) as upstream, serving(tmp_path, pair, upstream.port) as rig:
        context = authority.trusted()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rig.port, ssl=context, server_hostname="localhost", limit=1 << 20
        )
        head = post(method="POST", extra="Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
        writer.write(head)

        async def upload() -> None:
            for _ in range(160):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        uploading = asyncio.create_task(upload())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        body = await asyncio.wait_for(read_chunked(reader), 4 * PATIENCE)
        await uploading
        assert body == piece * 160
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()


async def test_a_caller_that_reads_nothing_holds_up_the_model_and_nobody_else(
    tmp_path: Path, authority: Authority, pair: Issued
) -> None:
    written = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await request.read_body()
        if request.body == b"short":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 << 20))
        for _ in range(256):
            writer.write(bytes(1 << 20))
            await writer.drain()
            written += 1

    async with (
        scripted(endless) as upstream,
        serving(tmp_path, pair, upstream.port) as rig,
        tls_caller(rig.port, authority.trusted()) as deaf,
    ):
        deaf.send(post(b"long"))
        await until(lambda: written > 1, "the answer flows")
        async with tls_caller(rig.port, authority.trusted()) as connection:
            before = -1
            while before != written:
                before = written
                for _ in range(20):
                    connection.send(post(b"short"))
                    assert (await connection.read()).endswith(b"ok")
        assert written < 200, "the gateway has taken it all"


@pytest.mark.parametrize("case", cases("requests")[::8], ids=lambda case: case.id)
async def test_http_is_as_strict_as_without(tmp_path: Path, authority: Authority, pair: Issued, case: Case) -> None:
    whole: list[Request] = []

    async def ok(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        whole.append(request)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        scripted(ok) as upstream,
        serving(tmp_path, pair, upstream.port) as rig,
        tls_caller(rig.port, authority.trusted()) as connection,
    ):
        connection.send(sent(case))
        if case.ends:
            connection.say_close()
        check_requests(case, await connection.everything(), [as_message(one) for one in whole])


async def test_ordinary_tools_are_content(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{rig.port}", "-servername", "localhost", "-CAfile",
            str(authority.certificate), "-verify_return_error", "-quiet", "-no_ign_eof",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(post(b"from afar", extra=BYE))
        assert (await asyncio.wait_for(process.stdout.read(), PATIENCE)).endswith(b"from afar")
        assert await process.wait() == 0


async def test_a_drain_serves_who_is_inside_the_handshake(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    async with (
        scripted() as upstream,
        serving(tmp_path, pair, upstream.port, drain_seconds=60.0) as rig,
        tls_caller(rig.port, authority.trusted(), shaken=False) as connection,
    ):
        await until(lambda: connection.writer.get_extra_info("peername"), "connected")
        async with tls_caller(rig.port, authority.trusted()) as other:  # accepted after it, so it is accepted too
            other.send(post(b"x"))
            assert (await other.read()).endswith(b"x")
        rig.stop.set()
        await connection.shake()
        connection.send(post(b"late"))
        got = await connection.everything()
        assert got.endswith(b"late")
        assert b"connection: close" in got


async def test_the_command_line_trusts_the_authority_it_is_given(
    tmp_path: Path, authority: Authority, pair: Issued
) -> None:
    def ask(authorities: str) -> int:
        peer = HttpPeer(f"https://127.0.0.1:{rig.port}", what="the endpoint", fix="", authorities=authorities)
        return peer.exchange("GET", "/healthz").status

    async with scripted() as upstream, serving(tmp_path, pair, upstream.port) as rig:
        assert await asyncio.to_thread(ask, str(authority.certificate)) == 200
        with pytest.raises(Unreachable, match=r"not trusted.*--cacert"):
            await asyncio.to_thread(ask, "")
        with pytest.raises(InvalidSpec, match="--cacert"):
            await asyncio.to_thread(ask, str(tmp_path / "none"))


def test_what_is_wrong_at_the_start_names_flag_file_and_fix(tmp_path: Path, authority: Authority, pair: Issued) -> None:
    other = authority.issue("other", ["other.example"])
    empty = tmp_path / "empty"
    empty.mkdir()
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    locked = tmp_path / "locked.key"
    words = ["openssl", "pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True)
    chain, key = str(pair.chain), str(pair.key)
    for given, flag, reason in (
        ((chain, "", ""), "--tls-key", "must be given beside --tls-cert"),
        (("", key, ""), "--tls-cert", "must be given beside --tls-key"),
        ((str(tmp_path / "none"), key, ""), "--tls-cert", "No such file"),
        ((chain, str(other.key), ""), "--tls-key", "is not the key of the certificate"),
        ((str(junk), key, ""), "--tls-cert", "must hold a certificate"),
        ((chain, str(junk), ""), "--tls-key", "must hold a certificate or its key"),
        ((chain, str(locked), ""), "--tls-key", "openssl pkey"),
        (("", "", str(empty)), "--tls-dir", "NAME.crt"),
        (("", "", str(tmp_path / "none")), "--tls-dir", "No such file"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            served(*given, ("http/1.1",))
        assert flag in str(caught.value), given
        assert reason in str(caught.value), given
