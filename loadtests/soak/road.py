"""The way of a request: a connection or a stream, the fields that every request has, and what is checked of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from loadtests.soak.account import BROKEN, LATE, STATUS, WRONG, Account, Request
from loadtests.soak.call import Call, NotBegun
from loadtests.soak.http2 import Multiplexed
from loadtests.soak.line import Broken, Line, Wrong
from loadtests.soak.wire import Answering, Connection, Head, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from loadtests.soak.certificates import Certificates

DEADLINE_SECONDS = 90.0
"""For one request, with everything that is done to it meanwhile."""
_POOLED_SECONDS = 20.0
_SHARED = 3
"""Connections of HTTP/2 that callers share."""
_STREAMS = 400
"""After so many a shared connection is left, and another one made."""


Of = TypeVar("Of", bound=Line)


class Unasked(Exception):
    """A status that the request does not deserve."""


@dataclass(slots=True)
class Road:
    """To one gateway, for all callers."""

    url: str
    keys: dict[str, str]
    """Endpoint → its key."""
    account: Account
    chance: random.Random
    certificates: Certificates | None = None
    """What the gateway shows, if it speaks TLS."""
    _pool: list[Connection] = field(default_factory=list)
    _shared: list[Multiplexed | None] = field(default_factory=lambda: [None] * _SHARED)
    _opening: list[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(_SHARED)])

    def kind(self, name: str) -> str:
        """What a kind of request is called on this road."""
        return name if self.certificates is None else f"{name}, TLS"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    @contextlib.asynccontextmanager
    async def asking(self, kind: str, endpoint: str, *, repeatable: bool = True) -> AsyncIterator[Request]:
        """One request; the account hears how it ended, whatever the body of the block runs into."""
        asked = self.account.begin(self.kind(kind), endpoint)
        asked.repeatable, asked.gateway = repeatable, self.address[1]
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                yield asked
        except Broken as error:
            self.account.failed(asked, BROKEN, str(error))
        except Unasked as error:
            self.account.failed(asked, STATUS, str(error))
        except Wrong as error:
            self.account.failed(asked, WRONG, str(error))
        except TimeoutError:
            self.account.failed(asked, LATE, f"not over after {DEADLINE_SECONDS:g} s")
        else:
            self.account.ok(asked)

    @contextlib.asynccontextmanager
    async def connection(self, asked: Request, *, fresh: bool = False) -> AsyncIterator[Connection]:
        """A connection of its own, or one that others have used and, if it stays whole, others will."""
        connection = None if fresh else self._pooled()
        if connection is None:
            connection = await self._opened(asked, Connection)
        _note(asked, connection)
        whole = False
        try:
            yield connection
            whole = True
        finally:
            asked.heard = connection.received > 0
            connection.used = time.monotonic()
            if whole and not fresh and not connection.ended and not connection.last:
                self._pool.append(connection)
            else:
                connection.abort()

    async def over_http2(
        self, asked: Request, fields: tuple[str, ...], does: Callable[[Call], Awaitable[None]]
    ) -> None:
        """`does` with a stream that has begun with these `fields` (of HTTP/1.1); again, when the gateway had not begun with it."""
        named = [(name.lower(), value) for name, _, value in (one.partition(": ") for one in fields)]
        while True:
            line = await self._shared_line(asked)
            _note(asked, line)
            asked.idle = 0.0  # GOAWAY leaves no doubt about what has been done, however long it was idle
            call = line.begin(named)
            self.account.streams_at_once = max(self.account.streams_at_once, len(line.calls))
            try:
                await does(call)
                return
            except NotBegun:
                self.account.resent += 1
            finally:
                asked.heard = line.received > 0
                line.used = time.monotonic()
                call.close()

    async def _shared_line(self, asked: Request) -> Multiplexed:
        at = self.chance.randrange(_SHARED)
        async with self._opening[at]:
            line = self._shared[at]
            if line is None or not line.open or line.full or line.begun >= _STREAMS:
                self._left(line)
                line = self._shared[at] = await self._opened(asked, Multiplexed)
            return line

    def _left(self, line: Multiplexed | None) -> None:
        if line is not None:
            if line.wrong:
                self.account.fault(f"{self.kind('a shared connection')}: {line.wrong}")
            line.leave()

    async def _opened(self, asked: Request, make: type[Of]) -> Of:
        asked.opening = asked.opened = time.monotonic()
        trusted = self.certificates
        context = None if trusted is None else trusted.http2 if make is Multiplexed else trusted.http1
        try:
            line = await make.to(*self.address, context)
        except Broken as error:
            asked.port = error.port
            raise
        line.opening = asked.opening
        if trusted is not None and line.tls is not None:
            trusted.check(line.tls, asked.opening)
        return line

    def _pooled(self) -> Connection | None:
        now = time.monotonic()
        while self._pool:
            connection = self._pool.pop()
            if connection.quiet and now - connection.used < _POOLED_SECONDS:
                return connection
            if connection.unread:
                self.account.fault(f"bytes on an idle connection: {connection.unread!r}")
            connection.abort()
        return None

    def end(self) -> None:
        """Close what is idle."""
        for connection in self._pool:
            connection.close()
        for line in self._shared:
            self._left(line)
        self._pool.clear()

    def fields(self, asked: Request, *more: str) -> tuple[str, ...]:
        """What every request says."""
        key = self.keys.get(asked.endpoint, "none")
        return ("Host: soak.example", f"Authorization: Bearer {key}", f"X-Soak-Id: {asked.id}", *more)

    def post(self, asked: Request, body: bytes, *more: str) -> bytes:
        """A whole POST."""
        return request(target(asked), *self.fields(asked, *more), body=body)

    def fields2(self, asked: Request, *more: str, path: str = "", authority: str = "soak.example") -> tuple[str, ...]:
        """The same of HTTP/2."""
        scheme = "http" if self.certificates is None else "https"
        pseudo = (":method: POST", f":scheme: {scheme}", f":authority: {authority}", f":path: {path or target(asked)}")
        return (*pseudo, *self.fields(asked, *more)[1:])

    async def answered(self, connection: Answering, asked: Request, *, status: int = 200) -> Head:
        """The head of the answer to `asked`, its marks checked. Raises `Unasked` for another status, with its words."""
        head = await connection.head()
        fields = head.fields
        asked.status, asked.deployment = head.status, fields.get("azureml-model-deployment", "")
        asked.replica = int(fields.get("x-soak-pid", 0))
        if head.status != status:
            text = (await connection.body(head)).decode(errors="replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                asked.code = json.loads(text)["error"]["code"]
            raise Unasked(f"{head.status} {text[:300]}")
        if not self.account.first_time(fields.get("x-request-id", "")):
            raise Wrong(f"x-request-id {fields.get('x-request-id')!r} was another answer's")
        return head

    async def mine(self, connection: Answering, asked: Request, *, status: int = 200) -> Head:
        """The same for a model's answer: it must be to this very request, which must have come to it once."""
        head = await self.answered(connection, asked, status=status)
        if head.fields.get("x-soak-id") != asked.id:
            raise Wrong(f"the answer to {head.fields.get('x-soak-id')!r} came to {asked.id!r}")
        if head.fields.get("x-soak-seen") != "1":
            raise Wrong(f"came {head.fields.get('x-soak-seen')} times to one replica")
        return head


def _note(asked: Request, line: Line) -> None:
    asked.port, asked.opening, asked.opened = line.port, line.opening, line.opened
    asked.idle = line.idle_seconds


def target(asked: Request) -> str:
    """Of a request to an endpoint."""
    return f"/endpoints/{asked.endpoint}/score"


def is_told(body: bytes, asked: Request, sent: bytes | hashlib._Hash, head: Head) -> None:
    """Check the model's JSON: our id, our body, and the deployment that the gateway says it was."""
    told = json.loads(body)
    digest = hashlib.sha256(sent).hexdigest() if isinstance(sent, bytes) else sent.hexdigest()
    if told["id"] != asked.id or told["sha256"] != digest:
        raise Wrong(f"{told} is not about {asked.id!r} with the hash {digest}")
    if told["model"] != head.fields.get("azureml-model-deployment"):
        raise Wrong(f"{told['model']!r} answered as {head.fields.get('azureml-model-deployment')!r}")
