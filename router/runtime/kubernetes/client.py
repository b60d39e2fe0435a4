"""Requests to one API server: objects as plain JSON, failures as our errors, every request counted.

Writes keep to a pace, whoever makes them. Nothing is tried again here, except that refused credentials are read anew
once: whoever asks knows best what a failure means.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from router.runtime.clock import Clock, SystemClock
from router.runtime.kubernetes.credentials import Access, BadKubeconfig, ClusterSettings
from router.runtime.kubernetes.failures import (
    Absent,
    Asked,
    failure,
    lost_output,
    unreachable,
)
from router.runtime.kubernetes.pacing import Pace
from router.runtime.kubernetes.resources import PODS, Resource

FIELD_MANAGER = "tidegate"
PAGE = 500
"""Objects per page of a list: bounds what is in memory at once as JSON."""
STALL_SECONDS = 120.0
"""A watch without a byte for this long is dead: the server sends a bookmark about every minute."""
_READ_BYTES = 1 << 16

Object = dict[str, Any]
Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Request:
    """One HTTP request, before it is sent."""

    method: str
    asked: Asked
    query: Query = field(default_factory=dict)
    data: bytes | None = None
    media: str = ""
    path: str = ""
    """Where it is not the address of what is asked for."""


class Cluster:
    """One API server, as one user."""

    def __init__(self, settings: ClusterSettings | None = None, *, clock: Clock | None = None) -> None:
        self._settings = settings or ClusterSettings()
        self._access = Access(self._settings)
        self._pace = Pace(self._settings.writes_per_second, self._settings.writes_burst, clock or SystemClock())
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """(verb, resource, code) → how many; the code is the HTTP status, or `none` where no answer came."""

    async def open(self) -> None:
        """Read the configuration; nothing is asked yet. Raises `BadKubeconfig`."""
        await self._access.open()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._access.close()

    @property
    def url(self) -> str:
        """The API server's address."""
        return self._access.url

    @property
    def namespace(self) -> str:
        """Of the kubeconfig's context, or of the pod we run in."""
        return self._access.namespace

    # reading -------------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises `Absent`."""
        return await self._json(_Request("GET", Asked("get", resource, namespace, name)))

    async def pages(
        self, resource: Resource, namespace: str, *, labels: str = "", fields: str = "", limit: int = PAGE
    ) -> AsyncGenerator[Object, None]:
        """The pages of a list, each a `List` object; all are of the same moment. Raises `Expired` when that is too long ago."""
        query = {"limit": str(limit)} | _selection(labels, fields)
        while True:
            page = await self._json(_Request("GET", Asked("list", resource, namespace), query))
            yield page
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                return
            query["continue"] = more

    async def knows(self, resource: Resource) -> Resource | None:
        """`resource` as the server has it (only the server knows whether a kind is namespaced); None when it has none."""
        try:
            listed = await self._json(_Request("GET", Asked("get", resource), path=resource.root))
        except Absent:
            return None
        for one in listed.get("resources") or ():
            if one.get("name") == resource.plural:
                scoped = bool(one.get("namespaced"))
                return Resource(resource.group, resource.version, resource.plural, resource.kind, scoped)
        return None

    async def logs(
        self, namespace: str, pod: str, *, container: str, lines: int, timestamps: bool = False, previous: bool = False
    ) -> str:
        """The newest lines of a container's output, oldest first. Raises `Absent` when the node has removed it."""
        query = {"container": container, "tailLines": str(lines)}
        query |= {"timestamps": "true"} if timestamps else {}
        query |= {"previous": "true"} if previous else {}
        asked = Asked("get", PODS, namespace, pod, "log")
        text = (await self._text(_Request("GET", asked, query))).decode(errors="replace")
        if (lost := lost_output(asked, text)) is not None:
            raise lost
        return text

    async def watch(
        self, resource: Resource, namespace: str, version: str, *, labels: str = "", seconds: float = 300.0
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) after `version`, until the server ends the stream.

        The first item is ("", {}) as soon as the server has taken the watch. Raises `Expired`: list anew.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        query |= {"timeoutSeconds": str(max(1, int(seconds)))} | _selection(labels, "")
        asked = Asked("watch", resource, namespace)
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.request_seconds, sock_read=STALL_SECONDS
        )
        async with self._answer(_Request("GET", asked, query), timeout) as response:
            yield "", {}
            buffer = b""
            async with contextlib.aclosing(_chunks(response, asked, self.url)) as chunks:
                async for chunk in chunks:
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield _event(line, asked, self.url)

    # writing -------------------------------------------------------------------------------------------------------

    async def create(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """A new object. Raises `Contested` when it is there already."""
        metadata = manifest["metadata"]
        asked = Asked("create", resource, metadata.get("namespace", ""))
        return await self._json(_sending("POST", asked, {"fieldManager": FIELD_MANAGER}, manifest))

    async def apply(self, resource: Resource, manifest: Mapping[str, Any]) -> Object:
        """Server-side apply: what `manifest` says is so and ours; what it does not say is left alone.

        With `metadata.resourceVersion` only if the object is still that one, else `Contested`.
        """
        metadata = manifest["metadata"]
        asked = Asked("patch", resource, metadata.get("namespace", ""), metadata["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._json(_sending("PATCH", asked, query, manifest, "application/apply-patch+yaml"))

    async def change(
        self, resource: Resource, namespace: str, name: str, operations: Sequence[Mapping[str, Any]]
    ) -> Object:
        """JSON patch, whole or not at all; a `test` that fails raises `Rejected`."""
        asked = Asked("patch", resource, namespace, name)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json(_sending("PATCH", asked, query, list(operations), "application/json-patch+json"))

    async def merge(
        self, resource: Resource, namespace: str, name: str, part: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """JSON merge patch. With `metadata.resourceVersion` in `part` only if the object is still that one, else `Contested`."""
        asked = Asked("patch", resource, namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json(_sending("PATCH", asked, query, part, "application/merge-patch+json"))

    async def delete(self, resource: Resource, namespace: str, name: str, **options: Any) -> Object | None:
        """End an object; what belongs to it follows behind the scenes. Returns it while it still ends, None when it was gone.

        `options` as in `DeleteOptions`, such as `preconditions={"uid": …}` (else `Contested`) or `gracePeriodSeconds`.
        """
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **options}
        with contextlib.suppress(Absent):
            return await self._json(_sending("DELETE", Asked("delete", resource, namespace, name), {}, body))
        return None

    # one request ---------------------------------------------------------------------------------------------------

    async def _json(self, request: _Request) -> Object:
        if request.method != "GET":
            await self._pace.turn()
        return _object(await self._text(request), request.asked, self.url)

    async def _text(self, request: _Request) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self._settings.request_seconds)
        async with self._answer(request, timeout) as response:
            return await _whole(response, request.asked, self.url)

    @contextlib.asynccontextmanager
    async def _answer(
        self, request: _Request, timeout: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """An answer below 400. Raises what stands in `failures`."""
        response = await self._once(request, timeout)
        try:
            if response.status == 401:
                refused = str(response.request_info.headers.get("Authorization", ""))
                if await self._renewed(refused, request.asked):
                    response.close()
                    response = await self._once(request, timeout)
            if response.status >= 400:
                body = await _whole(response, request.asked, self.url)
                raise failure(request.asked, response.status, body, response.headers.get("Retry-After"))
            yield response
        finally:
            response.release()

    async def _once(self, request: _Request, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        asked, sent = request.asked, {"Accept": "application/json"}
        key = (asked.verb, asked.resource.plural)
        try:
            sent |= await self._access.headers()
            sent |= {"Content-Type": request.media} if request.data is not None else {}
            response: aiohttp.ClientResponse = await self._access.request(
                request.method,
                request.path or asked.resource.path(asked.namespace, asked.name, asked.subresource),
                params=request.query,
                data=request.data,
                headers=sent,
                timeout=timeout,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.requests[*key, "none"] += 1
            raise unreachable(asked, self.url, _problem(error, self._settings.request_seconds)) from error
        except BadKubeconfig as error:
            self.requests[*key, "none"] += 1
            raise unreachable(asked, self.url, error.message) from error
        self.requests[*key, str(response.status)] += 1
        return response

    async def _renewed(self, refused: str, asked: Asked) -> bool:
        try:
            return await self._access.renew(refused)
        except BadKubeconfig as error:
            raise unreachable(asked, self.url, error.message) from error


def _sending(method: str, asked: Asked, query: Query, body: Any, media: str = "application/json") -> _Request:
    return _Request(method, asked, query, json.dumps(body, separators=(",", ":")).encode(), media)


def _selection(labels: str, fields: str) -> dict[str, str]:
    return ({"labelSelector": labels} if labels else {}) | ({"fieldSelector": fields} if fields else {})


def _problem(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s"
    return str(error) or type(error).__name__


async def _whole(response: aiohttp.ClientResponse, asked: Asked, server: str) -> bytes:
    try:
        return await response.read()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(asked, server, f"the answer broke off: {_problem(error, 0)}") from error


async def _chunks(response: aiohttp.ClientResponse, asked: Asked, server: str) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.content.iter_chunked(_READ_BYTES):
            yield chunk
    except asyncio.IncompleteReadError:
        return
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise unreachable(asked, server, f"the watch broke off: {_problem(error, STALL_SECONDS)}") from error


def _object(text: bytes, asked: Asked, server: str) -> Object:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise unreachable(asked, server, "what answers there is no Kubernetes API server")


def _event(line: bytes, asked: Asked, server: str) -> tuple[str, Object]:
    event = _object(line, asked, server)
    if event["type"] == "ERROR":
        status = event["object"]
        raise failure(asked, int(status.get("code") or 500), status)
    return event["type"], event["object"]
