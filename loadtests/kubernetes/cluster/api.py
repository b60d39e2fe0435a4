"""The API server asked in plain JSON, for what the cluster itself needs of it and for short questions in tests.

Every call opens its own connection, so that an object of this class belongs to no event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
AGENT = "tidegate-test-bed"
"""Who asks, in the words of the audit log."""
Document = dict[str, Any]
_AGAIN_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
"""Longest call, with all that a server which has just started puts off."""


class ApiFailed(RuntimeError):
    """The API server refused; `status` is its HTTP status, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.starting = status == 429 and "initializing" in message
        """Whether the server has just started and does not know yet what it is asked about; nothing was done."""


@dataclass(frozen=True, slots=True)
class Api:
    """One user's way to an API server at `server` (https://…)."""

    server: str
    authority: Path
    """Certificate that vouches for the server."""
    certificate: tuple[Path, Path] | None = None
    """(certificate, key) of the user."""
    token: str | None = None

    async def get(self, path: str, **query: str) -> Document:
        """The object or list at `path`, such as /api/v1/namespaces/a/pods. Raises ApiFailed or aiohttp.ClientError."""
        return await self._json("GET", path, query=query)

    async def post(self, path: str, document: Document, **query: str) -> Document:
        """Create; the answer is the new object."""
        return await self._json("POST", path, document, query=query)

    async def patch(self, path: str, document: Document, kind: str = MERGE, **query: str) -> Document:
        """Change; the answer is the new object."""
        return await self._json("PATCH", path, document, query=query, kind=kind)

    async def delete(self, path: str, **query: str) -> Document:
        """Delete an object, or all of a list."""
        return await self._json("DELETE", path, query=query)

    async def text(self, path: str, **query: str) -> str:
        """What is at `path`, such as /metrics or a pod's log, as it is."""
        async with self._session() as session, session.get(self.server + path, params=query) as response:
            text = await response.text()
            if response.status >= 400:
                raise ApiFailed(response.status, text)
            return text

    async def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        try:
            await self.get(path)
        except ApiFailed as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def answers(self, path: str = "/readyz") -> bool:
        """Whether the server answers there with success; never raises for a server that is away."""
        try:
            await self.text(path)
        except (aiohttp.ClientError, ApiFailed, TimeoutError):
            return False
        return True

    async def watch(self, path: str, *, accept: str = "application/json", **query: str) -> AsyncGenerator[Document]:
        """Events ({"type", "object"}) of a list from now on, what is there first; ends when the server ends it.

        `accept`: in which form objects are told, such as without everything but their metadata.
        """
        timeout, headers = aiohttp.ClientTimeout(total=None, sock_connect=10), {"Accept": accept}
        url, query = self.server + path, {"watch": "true", **query}
        async with self._session(timeout) as session, session.get(url, params=query, headers=headers) as response:
            if response.status >= 400:
                raise ApiFailed(response.status, await response.text())
            async for line in _lines(response.content):
                yield json.loads(line)

    async def _watch_in_time(self, path: str, **query: str) -> AsyncGenerator[Document]:
        """As `watch`; a server that is not that far yet, as after its start, is asked again until it is."""
        while True:
            try:
                async with contextlib.aclosing(self.watch(path, **query)) as events:
                    async for event in events:
                        yield event
            except ApiFailed as refused:
                if not refused.starting:
                    raise
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    async def until(
        self, path: str, name: str, wanted: Callable[[Document], bool], *, deadline_seconds: float = 120
    ) -> Document:
        """The object `name` of the list at `path`, as soon as it is as wanted. Raises AssertionError with what it was last."""
        last: Document = {}
        try:
            async with asyncio.timeout(deadline_seconds):
                while True:
                    stream = self._watch_in_time(path, fieldSelector=f"metadata.name={name}")
                    async with contextlib.aclosing(stream):
                        async for event in stream:
                            last = event["object"]
                            if event["type"] in {"ADDED", "MODIFIED"} and wanted(last):
                                return last
        except TimeoutError:
            raise AssertionError(f"{name} did not become so in {deadline_seconds:g} s; last seen: {last}") from None

    async def _json(
        self,
        verb: str,
        path: str,
        document: Document | None = None,
        *,
        query: Mapping[str, str],
        kind: str | None = None,
    ) -> Document:
        headers = {"Content-Type": kind} if kind else None
        url = self.server + path
        async with self._session() as session, asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                async with session.request(verb, url, params=query, json=document, headers=headers) as response:
                    answer: Document = await response.json(content_type=None)
                    if response.status < 400:
                        return answer
                    refused = ApiFailed(response.status, str(answer.get("message", answer)))
                    if not refused.starting:
                        raise refused
                await asyncio.sleep(_AGAIN_SECONDS)

    @contextlib.asynccontextmanager
    async def _session(self, timeout: aiohttp.ClientTimeout | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        headers = {"User-Agent": AGENT} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers=headers,
            timeout=timeout or aiohttp.ClientTimeout(total=30),
        ) as session:
            yield session
        for _ in range(3):  # a connection left in the middle of an answer is closed by the next turns of the loop
            await asyncio.sleep(0)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length; an event can be longer than the reader's own limit."""
    kept = bytearray()
    async for piece in stream.iter_any():
        kept += piece
        while (end := kept.find(b"\n")) >= 0:
            yield bytes(kept[:end])
            del kept[: end + 1]
