"""One kept connection over which bodies are posted, HTTP/1.1 on asyncio's streams: the live path has no HTTP client.

Answers are read strictly and never further than allowed. Whatever goes wrong, the connection is not used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from router.contract.errors import InvalidSpec, Problem

if TYPE_CHECKING:
    import ssl

HEAD_BYTES = 1 << 14
"""Longest head of an answer."""

_STATUS = re.compile(r"HTTP/1\.1 ([2-5]\d\d)(?: .*)?")
_FORM = "unix:/path/of/the/socket, http://host:port or https://host:port"
HANDSHAKE_SECONDS = 5.0


class BadAnswer(Exception):
    """What came back is no answer that may be believed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where somebody listens."""

    text: str
    """As it was written, for people."""
    path: str = ""
    """Unix socket; empty for TCP."""
    host: str = ""
    port: int = 0
    tls: bool = False

    @property
    def authority(self) -> str:
        """For the Host header."""
        return "localhost" if self.path else self.text.partition("://")[2].rstrip("/")


def parse_target(text: str, field: str = "autoscaler") -> Target:
    """`unix:/path`, `http://host:port` or `https://host:port`. Raises `InvalidSpec` that names `field`."""
    with contextlib.suppress(ValueError):
        if text.startswith("unix:") and len(text) > 5 and "\0" not in text:
            return Target(text, path=text.removeprefix("unix:"))
        url = urlsplit(text)
        plain = url.path in ("", "/") and not any((url.username, url.password, url.query, url.fragment))
        visible = text.isascii() and text.isprintable() and " " not in text
        if url.scheme in ("http", "https") and url.hostname and url.port and plain and visible:
            return Target(text, host=url.hostname, port=url.port, tls=url.scheme == "https")
    raise InvalidSpec([Problem(field, _FORM, text)])


class Posting:
    """Posts to one path of one target, one body after the other."""

    def __init__(
        self, target: Target, path: str, most_bytes: int, *, token: str = "", tls: ssl.SSLContext | None = None,
        content_type: str = "",
    ) -> None:  # fmt: skip
        """`most_bytes`: longest body of an answer. `token` goes along over TCP; `tls` is for an `https` target."""
        self._target = target
        self._tls = tls
        login = f"Authorization: Bearer {token}\r\n" if token and not target.path else ""
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        self._head = f"POST {path} HTTP/1.1\r\nHost: {target.authority}\r\n{login}{kind}Content-Length: "
        self._most_bytes = most_bytes
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, body: bytes) -> tuple[int, bytes]:
        """(status, body) of the answer. Raises `OSError`, `EOFError` or `BadAnswer`; the deadline is the caller's.

        Where a kept connection turns out to be gone, `body` is sent once more over a fresh one: it may arrive twice.
        """
        kept = self._streams is not None
        try:
            try:
                return await self._exchange(body)
            except (ConnectionError, EOFError):
                if not kept:
                    raise
                self.hang_up()
                return await self._exchange(body)
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Close the connection, if there is one, without a word."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await self._connect()
        reader, writer = self._streams
        writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadAnswer("its head is too long") from error
        status, length, stays = _parse(head[:-4].decode("latin-1"))
        if length > self._most_bytes:
            raise BadAnswer(f"its body has {length} bytes, {self._most_bytes} are allowed")
        answer = await reader.readexactly(length)
        if not stays:
            self.hang_up()
        return status, answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self._target
        if target.path:
            return await asyncio.open_unix_connection(target.path, limit=HEAD_BYTES)
        if not target.tls:
            return await asyncio.open_connection(target.host, target.port, limit=HEAD_BYTES)
        assert self._tls is not None
        return await asyncio.open_connection(
            target.host, target.port, limit=HEAD_BYTES, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )


def _parse(head: str) -> tuple[int, int, bool]:
    """(status, bytes of the body, whether the connection stays)."""
    line, *lines = head.split("\r\n")
    status = _STATUS.fullmatch(line)
    if status is None:
        raise BadAnswer(f"it begins with {line!r:.60}")
    headers = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines)]
    lengths = [value for name, value in headers if name == "content-length"]
    if len(lengths) != 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise BadAnswer("it does not say how long it is")
    if any(name == "transfer-encoding" for name, _ in headers):
        raise BadAnswer("it is encoded for its transfer")
    leaves = any(name == "connection" and "close" in value.lower() for name, value in headers)
    return int(status[1]), int(lengths[0]), not leaves
