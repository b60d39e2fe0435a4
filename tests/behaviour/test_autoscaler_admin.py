"""The autoscaler's socket: what it says to requests, to what are none, and that it ends with nothing left."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from autoscaler.backends.memory import MemoryBackend
from autoscaler.control import admin
from autoscaler.control.admin import admin_site
from autoscaler.control.answers import MOST_LINES, Answers
from autoscaler.control.requests import HEAD_BYTES

DEADLINE = 30.0


class Asked(MemoryBackend):
    """Remembers how it was asked for logs, and answers as `reply` does."""

    def __init__(self, reply: Callable[[], str]) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, int]] = []
        self._reply = reply

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        """What `reply` returns or raises."""
        self.asked.append((endpoint, deployment, lines))
        return self._reply()


def _fail() -> str:
    raise RuntimeError("no disk")


@pytest.fixture
def backend() -> Asked:
    """Answers with one line."""
    return Asked(lambda: "one line – ü")


@pytest.fixture
async def socket(tmp_path: Path, backend: Asked) -> AsyncIterator[Path]:
    """Served, with `backend` for every deployment called blue."""
    path = tmp_path / "run" / "autoscaler.sock"
    async with admin_site(path, Answers(lambda _, deployment: backend if deployment == "blue" else None)):
        yield path


async def say(socket: Path, sent: bytes) -> tuple[int, Any]:
    """Send, and read to the end: (status, body)."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(sent)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = received.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}" in head.decode().lower().split("\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


def get(target: str, method: str = "GET") -> bytes:
    """A request as HTTP."""
    return f"{method} {target} HTTP/1.1\r\nHost: autoscaler\r\n\r\n".encode()


async def test_logs_are_asked_of_the_backend_with_the_canonical_name(socket: Path, backend: Asked) -> None:
    status, body = await say(socket, get("/logs?endpoint=Tides%20x&deployment=Blue&lines=7"))
    assert (status, body) == (200, {"content": "one line – ü"})
    assert backend.asked == [("Tides x", "blue", 7)]


@pytest.mark.parametrize("lines", ["", "0", "-1", "x", str(MOST_LINES + 1), "1.5"])
async def test_a_number_of_lines_that_is_none_is_refused(socket: Path, backend: Asked, lines: str) -> None:
    status, body = await say(socket, get(f"/logs?endpoint=e&deployment=blue&lines={lines}"))
    assert (status, body["error"]["code"], backend.asked) == (400, "BadArgument", [])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (get("/healthz"), 200),
        (get("/logs?endpoint=e&deployment=green"), 404),
        (get("/other"), 404),
        (get("/healthz", "POST"), 405),
        (get("//["), 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"\xff\xfe \r\n\r\n", 400),
        (b"GET /healthz SMTP/9\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES, 431),
    ],
)
async def test_every_request_is_answered(socket: Path, sent: bytes, status: int) -> None:
    assert (await say(socket, sent))[0] == status


async def test_a_backend_that_fails_is_one_answer_and_a_line_in_the_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "autoscaler.sock"
    async with admin_site(path, Answers(lambda *_: Asked(_fail))):
        status, body = await say(path, get("/logs?endpoint=e&deployment=blue"))
        assert (status, body["error"]["code"]) == (500, "InternalServerError")
        assert (await say(path, get("/healthz")))[0] == 200
    assert "no disk" in caplog.text


async def test_a_client_that_leaves_early_harms_nobody(socket: Path) -> None:
    for sent in (b"", b"GET /hea", get("/healthz")):
        _, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
    assert (await say(socket, get("/healthz")))[0] == 200


async def test_only_the_owner_may_ask_and_a_dead_process_s_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.sock"
    with sockets.socket(sockets.AF_UNIX) as left:
        left.bind(str(path))
    async with admin_site(path, Answers(lambda *_: None)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await say(path, get("/healthz")))[0] == 200
    assert not path.exists()


async def test_the_end_cancels_what_does_not_end_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "SHUTDOWN_SECONDS", 0.01)
    path, asked = tmp_path / "autoscaler.sock", asyncio.Event()

    class Stuck(MemoryBackend):
        async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError((endpoint, deployment, lines))

    async with asyncio.timeout(DEADLINE):
        async with admin_site(path, Answers(lambda *_: Stuck())):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(get("/logs?endpoint=e&deployment=blue"))
            await asked.wait()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert "admin request" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_silent_client_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "EXCHANGE_SECONDS", 0.01)
    path = tmp_path / "autoscaler.sock"
    async with admin_site(path, Answers(lambda *_: None)), asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_the_autoscaler_starts_without_an_http_framework() -> None:
    code = "import sys, autoscaler.backends.local, autoscaler.control.service; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
