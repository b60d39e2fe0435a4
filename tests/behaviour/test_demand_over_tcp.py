"""Demand from gateways on other machines: whoever has no token or no certificate is refused, and told why; whoever has, is heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from autoscaler.control.door import Door
from loadtests.kafka.security import Certificates
from router.contract.errors import InvalidSpec
from router.contract.handover import REQUEST_BYTES, Handed, encode_handed
from router.runtime import courier as module
from router.runtime.courier import Courier
from router.runtime.credentials import Credentials, for_listening, for_posting
from router.runtime.given import Secret
from tests.support.certificates import made
from tests.support.direct_scaler import Scaler
from tests.support.gateway_rig import deployment, gateway, replica, until
from tests.support.gateway_upstream import ask, scripted

D = "TIDEGATE_DEMAND_"
TOKEN = "a-token-of-this-installation"
LISTEN = ("127.0.0.1", 0)
MESSAGE = Handed("ab" * 16, 0, 1_700_000_000, "tides", b"demand")
DEADLINE = 30.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made(tmp_path_factory)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that nobody here trusts."""
    return made(tmp_path_factory, "strangers")


class Site:
    """An autoscaler's site on TCP, what came to it, and who was refused."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.door = Door(credentials.token)
        self.taken: list[Handed] = []
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[Site]:
        def take(messages: Sequence[Handed]) -> list[tuple[str, bytes]]:
            self.taken += messages
            return []

        async def metrics() -> str:
            return "tidegate_numbers 1\n"

        answers = Answers(lambda *_: None, take, metrics)
        path = folder / "autoscaler.sock"
        async with admin_site(path, answers, LISTEN, credentials=self.credentials, door=self.door) as bound:
            assert bound is not None
            self.port = bound[1]
            yield self


def with_token(environ: Mapping[str, str] | None = None) -> Credentials:
    return for_listening(LISTEN, {f"{D}TOKEN": TOKEN, **(environ or {})})


async def say(port: int, sent: bytes, tls: ssl.SSLContext | None = None) -> tuple[int, dict[str, str], bytes]:
    """Send, and read the answer to the end: (status, headers, body)."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        try:
            writer.write(sent)
            received = await reader.read()
        finally:
            writer.transport.abort()
    head, _, body = received.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    return int(line.split(" ")[1]), headers, body


def request(method: str, target: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def post(*headers: str) -> bytes:
    return request("POST", "/v1/demand", *headers, body=encode_handed([MESSAGE]))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization: Bearer another-token-of-some-kind"],
        [f"Authorization: Bearer {TOKEN}x"],
        [f"Authorization: Bearer {TOKEN[:-1]}"],
        [f"Authorization: Basic {TOKEN}"],
        [f"Authorization: {TOKEN}"],
        ["Authorization: Bearer"],
        [f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}"],
        ["Authorization: Bearer \xfc\xfc"],
        [f"X-Authorization: Bearer {TOKEN}"],
    ],
)
async def test_without_the_token_nothing_is_taken_and_the_answer_says_what_to_send(
    tmp_path: Path, headers: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with Site(with_token()).serving(tmp_path) as site:
        status, found, body = await say(site.port, post(*headers))
        assert (status, found["www-authenticate"], found["connection"]) == (401, "Bearer", "close")
        error = json.loads(body)["error"]
        assert error["code"] == "Unauthorized"
        assert f"{D}TOKEN_FILE" in error["message"]
        assert TOKEN not in body.decode() + caplog.text
        assert (site.taken, site.door.refused) == ([], 1)


async def test_with_the_token_demand_is_taken_however_the_scheme_is_written(tmp_path: Path) -> None:
    async with Site(with_token()).serving(tmp_path) as site:
        for scheme in ("Bearer", "bearer"):
            assert (await say(site.port, post(f"Authorization: {scheme} {TOKEN}")))[0] == 200
        assert site.taken == [MESSAGE] * 2
        assert site.door.refused == 0


async def test_a_body_of_whom_nobody_knows_is_not_even_read(tmp_path: Path) -> None:
    async with Site(with_token()).serving(tmp_path) as site:
        head = request("POST", "/v1/demand").replace(b"Content-Length: 0", b"Content-Length: %d" % REQUEST_BYTES)
        assert (await say(site.port, head))[0] == 401


async def test_health_needs_no_token_and_numbers_do(tmp_path: Path) -> None:
    async with Site(with_token()).serving(tmp_path) as site:
        assert (await say(site.port, request("GET", "/healthz")))[0] == 200
        assert (await say(site.port, request("GET", "/metrics")))[0] == 401
        status, headers, body = await say(site.port, request("GET", "/metrics", f"Authorization: Bearer {TOKEN}"))
        assert (status, body) == (200, b"tidegate_numbers 1\n")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        for target in ("/other", "/logs?endpoint=e", "//["):
            assert (await say(site.port, request("GET", target)))[0] == 401, "what there is, is nobody's business"


async def test_an_autoscaler_does_not_listen_to_other_machines_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=rf"listen: needs a token .*{D}TOKEN_FILE"):
        async with admin_site(tmp_path / "s", Answers(lambda *_: None), ("0.0.0.0", 0)):
            raise AssertionError("it listens")
    assert not (tmp_path / "s").exists()


def client(certificates: Certificates, *, shows: bool = False, token: str = TOKEN) -> dict[str, str]:
    """The environment of a gateway."""
    environ = {f"{D}CA_FILE": str(certificates.authority)}
    if shows:
        environ[f"{D}CERT_FILE"] = str(certificates.client_certificate)
        environ[f"{D}KEY_FILE"] = str(certificates.client_key)
    return {**environ, **({f"{D}TOKEN": token} if token else {})}


@contextlib.asynccontextmanager
async def handing(site: Site, environ: Mapping[str, str], scheme: str = "https") -> AsyncIterator[Courier]:
    """A courier to `site` that has been given one message."""
    target = f"{scheme}://127.0.0.1:{site.port}"
    courier = Courier([target], lambda _: None, credentials=for_posting([target], environ), chance=lambda: 0.0)
    courier.open()
    try:
        courier.hand(MESSAGE.writer, MESSAGE.sequence, MESSAGE.key, MESSAGE.value)
        yield courier
    finally:
        await courier.close(0.0)


@pytest.mark.parametrize("mutual", [False, True])
async def test_over_tls_a_gateway_that_is_known_is_heard(
    tmp_path: Path, certificates: Certificates, mutual: bool
) -> None:
    server = {f"{D}CERT_FILE": str(certificates.server)}
    if mutual:
        server[f"{D}CA_FILE"] = str(certificates.authority)
    async with Site(with_token(server)).serving(tmp_path) as site:
        assert site.credentials.certified is mutual
        async with handing(site, client(certificates, shows=mutual)) as courier:
            await until(lambda: courier.counts.delivered == 1, "delivered")
            courier.hand(MESSAGE.writer, 1, MESSAGE.key, MESSAGE.value)
            await until(lambda: courier.counts.delivered == 2, "the next one, on the same connection")
        assert [one.sequence for one in site.taken] == [0, 1]


async def test_a_gateway_without_a_certificate_is_not_let_in_where_one_is_asked_for(
    tmp_path: Path, certificates: Certificates, strangers: Certificates
) -> None:
    server = {f"{D}CERT_FILE": str(certificates.server), f"{D}CA_FILE": str(certificates.authority)}
    stranger = client(strangers, shows=True) | {f"{D}CA_FILE": str(certificates.authority)}
    async with Site(with_token(server)).serving(tmp_path) as site:
        for environ in (client(certificates), stranger):
            async with handing(site, environ) as courier:
                await until(lambda: courier.counts.failures >= 2, "it is tried again and refused")
                assert courier.counts.delivered == 0
        async with handing(site, client(certificates, shows=True)) as courier:
            await until(lambda: courier.counts.delivered == 1, "others are heard all the while")
        assert len(site.taken) == 1


async def test_a_gateway_tells_nothing_to_somebody_it_does_not_trust(
    tmp_path: Path, certificates: Certificates, strangers: Certificates, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    async with Site(with_token({f"{D}CERT_FILE": str(strangers.server)})).serving(tmp_path) as site:
        async with handing(site, client(certificates)) as courier:
            await until(lambda: courier.counts.failures >= 2, "it is tried again and not trusted")
        assert (site.taken, site.door.refused) == ([], 0)
    assert "CERTIFICATE_VERIFY_FAILED" in str([vars(one) for one in caplog.records])


async def test_speaking_tls_to_one_who_does_not_and_the_other_way_round_costs_tries_only(
    tmp_path: Path, certificates: Certificates
) -> None:
    async with Site(with_token()).serving(tmp_path) as site, handing(site, client(certificates)) as courier:
        await until(lambda: courier.counts.failures >= 2, "TLS to plain")
    async with Site(with_token({f"{D}CERT_FILE": str(certificates.server)})).serving(tmp_path) as site:
        async with handing(site, {f"{D}TOKEN": TOKEN}, "http") as courier:
            await until(lambda: courier.counts.failures >= 2, "plain to TLS")
        async with handing(site, client(certificates)) as courier:
            await until(lambda: courier.counts.delivered == 1, "it serves on")


async def test_a_wrong_token_is_one_line_in_the_gateways_output_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    old = {f"{D}TOKEN": "yesterdays-token-of-all"}
    async with Site(with_token()).serving(tmp_path) as site, handing(site, old, "http") as courier:
        await until(lambda: courier.counts.refused == 1, "refused")
    lines = [vars(one) for one in caplog.records if one.name == module.__name__]
    assert len(lines) == 1
    assert "401" in lines[0]["why"]
    assert f"{D}TOKEN_FILE" in lines[0]["why"]
    assert TOKEN not in caplog.text


async def test_a_token_stays_off_the_unix_socket(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_unix_server(listen, str(tmp_path / "s"))
    credentials = Credentials(Secret(TOKEN))
    courier = Courier([f"unix:{tmp_path / 's'}"], lambda _: None, credentials=credentials)
    courier.open()
    courier.hand(MESSAGE.writer, 0, MESSAGE.key, MESSAGE.value)
    await until(lambda: heads, "the first request")
    await courier.close(0.0)
    server.close()
    assert b"authorization" not in heads[0].lower()


async def test_a_whole_gateway_hands_its_demand_over_tls_and_answers_requests_whatever_the_other_side_does(
    tmp_path: Path, certificates: Certificates
) -> None:
    scaler, server = Scaler(), with_token({f"{D}CERT_FILE": str(certificates.server)})
    async with admin_site(tmp_path / "s", Answers(lambda *_: None, scaler.take), LISTEN, credentials=server) as bound:
        assert bound is not None
        target = f"https://localhost:{bound[1]}"
        known = for_posting([target], client(certificates))
        async with (
            scripted() as upstream,
            gateway(tmp_path / "data", autoscaler=(target,), credentials=known) as rig,
        ):
            await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
            assert (await ask(rig.port)).status == 200
            await until(lambda: scaler.arrivals("demo") == 1, "heard over TLS")
    wrong = for_posting([target], client(certificates, token="not-the-token-at-all"))
    async with (
        admin_site(tmp_path / "s", Answers(lambda *_: None, scaler.take), bound, credentials=server),
        scripted() as upstream,
        gateway(tmp_path / "other", autoscaler=(target,), credentials=wrong) as rig,
    ):
        await rig.publish("demo", {"blue": deployment()}, {"blue": 100}, {"blue": [replica(upstream.port)]})
        assert {(await ask(rig.port)).status for _ in range(20)} == {200}
    assert scaler.arrivals("demo") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["autoscaler", "--listen=0.0.0.0:0"], "listen: needs a token where other machines can connect"),
        (["gateway", "--autoscaler=http://scaler.example:1"], "autoscaler: plain TCP to another machine needs a token"),
        (["mirror", "--autoscaler=http://scaler.example:1"], "autoscaler: plain TCP to another machine needs a token"),
    ],
)
async def test_a_role_without_the_token_does_not_start_and_says_what_to_do(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.app", *flags, f"--data={tmp_path}",
        cwd=Path(__file__).parents[2], env=environ, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert words in errors.decode()
    assert f"{D}TOKEN_FILE" in errors.decode()
    assert "Traceback" not in errors.decode()
