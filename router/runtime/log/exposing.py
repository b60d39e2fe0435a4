"""Numbers of this machine's log for Prometheus: the smallest HTTP/1.1 server that can answer `GET /metrics`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from router.contract.errors import Unavailable
from router.runtime.log.base import Health
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk

HEAD_BYTES = 16_384
REQUEST_SECONDS = 10.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = {"log_producer_restarts": "reason"}
"""What the second part of a number's name means, where that is not the topic."""
STATES = ("current", "connecting", "unreachable", "refused")


def text_of(health: Health) -> str:
    """Prometheus's text format, one family after the other."""
    lines: list[str] = []
    for kind, numbers, suffix in (("counter", health.counters, "_total"), ("gauge", health.gauges, "")):
        families: dict[str, list[str]] = {}
        for (name, label), value in sorted(numbers.items()):
            labels = f'{{{_LABELS.get(name, "topic")}="{label}"}}' if label else ""
            families.setdefault(f"tidegate_{name}{suffix}", []).append(f"{labels} {value:.17g}")
        for family, values in families.items():
            lines += [f"# TYPE {family} {kind}", *(family + value for value in values)]
    lines.append("# TYPE tidegate_log_link gauge")
    lines += [f'tidegate_log_link{{state="{state}"}} {int(state == health.state)}' for state in STATES]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def exposed(desk: Desk, address: tuple[str, int] | None) -> AsyncIterator[None]:
    """Answer at `address` (host, port) while the context is open; nothing at all for None. Raises `Unavailable`."""
    if address is None:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = await _respond(head, desk)
                writer.write(_message(status, body))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever asked has gone, or speaks something else
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, *address, limit=HEAD_BYTES)
    except OSError as error:
        raise Unavailable(
            f"metrics cannot be served at {address[0]}:{address[1]}: {error}; name another port"
        ) from error
    async with server:
        yield


async def _respond(head: bytes, desk: Desk) -> tuple[str, str]:
    method, _, rest = head.partition(b" ")
    path = rest.split(b" ", 1)[0].partition(b"?")[0]
    if path != b"/metrics":
        return "404 Not Found", "only /metrics is here\n"
    if method != b"GET":
        return "405 Method Not Allowed", "only GET is known\n"
    try:
        return "200 OK", text_of(await desk.ask(Spool.health))
    except Unavailable as error:
        return "503 Service Unavailable", f"{error.message}\n"


def _message(status: str, body: str) -> bytes:
    headers: Mapping[str, object] = {
        "content-type": _TYPE,
        "content-length": len(body.encode()),
        "connection": "close",
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
