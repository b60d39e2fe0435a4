"""Demand past the log, as the autoscaler's site takes it: kept connections, strict bodies, TCP without the logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoscaler.backends.memory import MemoryBackend
from autoscaler.control import admin
from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from router.contract.errors import Unavailable
from router.contract.handover import REQUEST_BYTES, Handed, decode_told, encode_handed

DEADLINE = 30.0
MESSAGES = [Handed("ab" * 16, number, 1_700_000_000, "tides", b"demand") for number in range(3)]


class Taker:
    """Remembers what was taken; answers with `told`."""

    def __init__(self) -> None:
        self.taken: list[Handed] = []
        self.told: list[tuple[str, bytes]] = []
        self.failure: Exception | None = None

    def __call__(self, messages: Sequence[Handed]) -> Sequence[tuple[str, bytes]]:
        if self.failure is not None:
            raise self.failure
        self.taken += messages
        return self.told


@pytest.fixture
def taker() -> Taker:
    return Taker()


@pytest.fixture
async def ways(tmp_path: Path, taker: Taker) -> AsyncIterator[dict[str, Any]]:
    """Both ways in: the Unix socket and TCP."""
    path = tmp_path / "autoscaler.sock"
    async with admin_site(path, Answers(lambda *_: MemoryBackend(), taker), ("127.0.0.1", 0)) as bound:
        assert bound is not None
        yield {"unix": path, "tcp": bound}


class Connection:
    """A client's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of the next answer."""
        async with asyncio.timeout(DEADLINE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in head[1:-2])}
            return int(head[0].split(" ")[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def ended(self) -> bool:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def connected(way: Any) -> AsyncIterator[Connection]:
    async with asyncio.timeout(DEADLINE):
        if isinstance(way, Path):
            reader, writer = await asyncio.open_unix_connection(str(way))
        else:
            reader, writer = await asyncio.open_connection(*way)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/demand HTTP/1.1", "Host: autoscaler", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_demand_is_taken_again_and_again_on_one_connection(ways: dict[str, Any], taker: Taker, way: str) -> None:
    taker.told = [("tides", b"replicas")]
    async with connected(ways[way]) as connection:
        for _ in range(3):
            connection.writer.write(post(encode_handed(MESSAGES)))
            status, headers, body = await connection.answer()
            assert (status, decode_told(body)) == (200, taker.told)
            assert "connection" not in headers
    assert taker.taken == MESSAGES * 3


async def test_a_sender_that_wants_the_connection_to_end_is_heeded(ways: dict[str, Any], taker: Taker) -> None:
    async with connected(ways["unix"]) as connection:
        connection.writer.write(post(encode_handed(MESSAGES), "Connection: close"))
        status, headers, _ = await connection.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await connection.ended()
    assert taker.taken == MESSAGES


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b""), 400),
        (post(b"\x02"), 400),
        (post(encode_handed(MESSAGES)[:-1]), 400),
        (post(b"").replace(b"Content-Length: 0\r\n", b""), 411),
        (post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 411),
        (post(b"").replace(b"Content-Length: 0", b"Content-Length: -1"), 400),
        (post(b"").replace(b"Content-Length: 0", b"Content-Length: 1e3"), 400),
        (post(b"").replace(b"Content-Length: 0", b"Content-Length: 1\r\nContent-Length: 1"), 400),
        (post(b"").replace(b"Content-Length: 0", b"Content-Length: %d" % (REQUEST_BYTES + 1)), 413),
        (post(b"\x01" + b"x" * REQUEST_BYTES), 413),
        (b"GET /v1/demand HTTP/1.1\r\n\r\n", 405),
    ],
)
@pytest.mark.parametrize("way", ["unix", "tcp"])
async def test_what_is_no_demand_is_refused_with_a_reason_and_ends_the_connection(
    ways: dict[str, Any], taker: Taker, sent: bytes, status: int, way: str
) -> None:
    async with connected(ways[way]) as connection:
        connection.writer.write(sent)
        found, headers, body = await connection.answer()
        assert (found, headers["connection"]) == (status, "close")
        assert json.loads(body)["error"]["message"]
        connection.writer.write_eof()
        assert await connection.ended()
    assert taker.taken == []


async def test_the_largest_body_is_taken(ways: dict[str, Any], taker: Taker) -> None:
    room = REQUEST_BYTES - len(encode_handed([MESSAGES[0]._replace(value=b"")]))
    whole = MESSAGES[0]._replace(value=b"x" * room)
    async with connected(ways["tcp"]) as connection:
        connection.writer.write(post(encode_handed([whole])))
        assert (await connection.answer())[0] == 200
    assert taker.taken == [whole]


async def test_tcp_has_health_and_demand_but_no_logs(ways: dict[str, Any]) -> None:
    logs = "/logs?endpoint=e&deployment=blue"
    for target, on_unix, on_tcp in (
        ("/healthz", 200, 200),
        ("/readyz", 200, 200),
        (logs, 200, 404),
        ("/other", 404, 404),
    ):
        for way, expected in (("unix", on_unix), ("tcp", on_tcp)):
            async with connected(ways[way]) as connection:
                connection.writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await connection.answer())[0] == expected, (target, way)
                assert await connection.ended()


async def test_a_taker_that_cannot_take_now_says_so_and_one_that_fails_harms_one_request(
    ways: dict[str, Any], taker: Taker, caplog: pytest.LogCaptureFixture
) -> None:
    for failure, expected in ((Unavailable("not yet"), 503), (RuntimeError("no state"), 500), (None, 200)):
        taker.failure = failure
        async with connected(ways["unix"]) as connection:
            connection.writer.write(post(encode_handed(MESSAGES)))
            assert (await connection.answer())[0] == expected
    assert taker.taken == MESSAGES
    assert "no state" in caplog.text
    assert "not yet" not in caplog.text


async def test_without_a_taker_there_is_no_such_route_and_without_an_address_no_tcp(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.sock"
    async with admin_site(path, Answers(lambda *_: None)) as bound, connected(path) as connection:
        assert bound is None
        connection.writer.write(post(encode_handed(MESSAGES)))
        assert (await connection.answer())[0] == 404


async def test_connections_without_a_request_do_not_hold_up_the_end(
    tmp_path: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "SHUTDOWN_SECONDS", 3600.0)
    path = tmp_path / "autoscaler.sock"
    async with asyncio.timeout(DEADLINE), contextlib.AsyncExitStack() as clients:
        async with admin_site(path, Answers(lambda *_: None, taker)):
            fresh = await clients.enter_async_context(connected(path))
            kept = await clients.enter_async_context(connected(path))
            kept.writer.write(post(encode_handed(MESSAGES)))
            assert (await kept.answer())[0] == 200
        assert await kept.ended()
        with contextlib.suppress(ConnectionError):  # it may have been in the kernel's queue still
            assert await fresh.ended()


async def test_there_is_a_most_of_connections(tmp_path: Path, taker: Taker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MOST_CONNECTIONS", 1)
    path = tmp_path / "autoscaler.sock"
    async with admin_site(path, Answers(lambda *_: None, taker)), connected(path) as first:
        first.writer.write(post(encode_handed(MESSAGES)))
        assert (await first.answer())[0] == 200
        async with connected(path) as second:
            assert await second.ended()
        first.writer.write(post(encode_handed(MESSAGES)))
        assert (await first.answer())[0] == 200


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_behind(tmp_path: Path, taker: Taker) -> None:
    path, other = tmp_path / "one.sock", tmp_path / "other.sock"
    async with admin_site(path, Answers(lambda *_: None, taker), ("127.0.0.1", 0)) as bound:
        with pytest.raises(OSError, match="address already in use"):
            async with admin_site(other, Answers(lambda *_: None, taker), bound):
                raise AssertionError("two on one port")
        assert not other.exists()
