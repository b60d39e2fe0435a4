"""Numbers in Prometheus's text format, and the smallest HTTP/1.1 exchange that hands them out: `GET /metrics`.

`GET /healthz` beside it says that the process answers at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from router.contract.errors import Unavailable

HEAD_BYTES = 16_384
REQUEST_SECONDS = 10.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Family(NamedTuple):
    """One metric with all its series."""

    name: str
    """Whole: with `tidegate_` in front, and `_total` behind a counter."""
    kind: str
    """`counter` or `gauge`."""
    help: str
    samples: Iterable[tuple[Mapping[str, str], float]]
    """(labels, value)."""


def single(name: str, kind: str, words: str, value: float) -> Family:
    """A metric with one series."""
    return Family(name, kind, words, [({}, value)])


def text_of(families: Iterable[Family], **labels: str) -> str:
    """The text that Prometheus scrapes; every series has `labels` besides its own."""
    lines: list[str] = []
    for family in families:
        if family.help:
            lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for own, value in family.samples:
            pairs = ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in {**labels, **own}.items())
            lines.append(f"{family.name}{'{' + pairs + '}' if pairs else ''} {value:.17g}")
    return "\n".join(lines) + "\n"


def merged(texts: Iterable[str]) -> str:
    """Several of our texts as one, in which what belongs to one metric stands together under one head."""
    families: dict[str, list[str]] = {}
    lines: list[str] = []
    for text in texts:
        for line in text.splitlines():
            if not line.startswith("#"):
                lines.append(line)
                continue
            _, _, name, *_ = line.split(" ", 3)
            lines = families.setdefault(name, [])
            if line not in lines:
                lines.append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


@contextlib.asynccontextmanager
async def served(address: tuple[str, int] | None, collect: Callable[[], Awaitable[str]]) -> AsyncIterator[None]:
    """Answer at `address` (host, port) while inside; nothing at all for None. Raises `Unavailable`."""
    if address is None:
        yield
        return

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer, collect)

    host, port = address
    try:
        server = await asyncio.start_server(exchange, host, port, limit=HEAD_BYTES)
    except OSError as error:
        raise Unavailable(f"metrics cannot be served at {host}:{port}: {error}; name another port") from error
    try:
        yield
    finally:
        server.close()


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, collect: Callable[[], Awaitable[str]]
) -> None:
    """One exchange on a fresh connection, which ends with it. `collect` makes the text; it may raise `Unavailable`."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            status, body = await _respond(head, collect)
            writer.write(_message(status, body))
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return  # whoever asked has gone, or speaks something else
    finally:
        writer.close()


async def _respond(head: bytes, collect: Callable[[], Awaitable[str]]) -> tuple[str, str]:
    method, _, rest = head.partition(b" ")
    path = rest.split(b" ", 1)[0].partition(b"?")[0]
    if path not in (b"/metrics", b"/healthz"):
        return "404 Not Found", "only /metrics and /healthz are here\n"
    if method != b"GET":
        return "405 Method Not Allowed", "only GET is known\n"
    if path == b"/healthz":
        return "200 OK", "ok\n"
    try:
        return "200 OK", await collect()
    except Unavailable as error:
        return "503 Service Unavailable", f"{error.message}\n"


def _message(status: str, body: str) -> bytes:
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + content
