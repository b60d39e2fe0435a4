"""REST of everything that is only looked at, and of assets: health, operations, status, metrics, events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from aiohttp import web

from router.contract.errors import InvalidSpec, NotFound, Problem, Unavailable
from router.contract.events import REQUESTS, TOPICS
from router.control import event_lines, metrics, traffic_log, views
from router.control.answers import answer
from router.control.asset_references import SHA256, Reference
from router.control.content import Standing
from router.control.plane import PLANE, Plane, now_ns
from router.runtime import vitals
from router.runtime.exposition import CONTENT_TYPE
from router.runtime.log.base import Reader

CHUNK_BYTES = 1 << 20
MAX_TAIL = 10_000
MAX_FOLLOWERS = 32
"""Open event streams; each holds a reader of the log."""
FOLLOW_SECONDS = 0.5
"""How soon a stream notices that its caller or the server is gone."""


async def health(_: web.Request) -> web.Response:
    """That this process answers."""
    return answer({"status": "ok"})


async def readiness(request: web.Request) -> web.Response:
    """That requests may come: what is in the store is published, and nothing ends."""
    if request.app[PLANE].closing.is_set():
        raise Unavailable("the control plane is ending")
    return answer({"status": "ok"})


async def get_operation(request: web.Request) -> web.Response:
    """One operation."""
    operation = await request.app[PLANE].operation(request.match_info["operation"])
    return answer(views.operation(operation), headers={"Retry-After": "1"} if operation.open else None)


async def status(request: web.Request) -> web.Response:
    """Every endpoint at this moment."""
    plane = request.app[PLANE]
    return answer(views.status(await _standings(plane), plane.fleet, now_ns()))


async def prometheus(request: web.Request) -> web.Response:
    """The same for Prometheus, with what the other processes of this data folder count about themselves."""
    plane = request.app[PLANE]
    data = plane.settings.data
    others = await vitals.gathered(data.vitals, [data.autoscaler_socket])
    text = metrics.render(await _standings(plane), plane.fleet, now_ns(), await plane.log.health(), others)
    text += b"".join(one() for one in plane.exposed)
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})


async def _standings(plane: Plane) -> Sequence[Standing]:
    """Every endpoint; what is counted of others is forgotten."""
    standings = await plane.store.all()
    # The empty deployment has what was refused before one was chosen, also of an endpoint that has none.
    plane.fleet.forget({(one.endpoint, name) for one in standings for name in ("", *one.content.deployments)})
    return standings


async def head_asset(request: web.Request) -> web.Response:
    """Whether the asset is there."""
    there = request.app[PLANE].assets.exists(Reference(_sha256(request), ""))
    return web.Response(status=200 if there else 404)


async def get_asset(request: web.Request) -> web.StreamResponse:
    """The asset as a tar archive."""
    sha256 = _sha256(request)
    pieces = request.app[PLANE].assets.stream(sha256)
    if pieces is None:
        raise NotFound(f"there is no asset {sha256}")
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar", "Cache-Control": "no-store"})
    await response.prepare(request)  # in chunks: a reader sees an archive that was cut off
    with contextlib.suppress(ConnectionResetError):
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await response.write(piece)
        await response.write_eof()
    return response


async def put_asset(request: web.Request) -> web.Response:
    """Take an upload."""
    sha256, assets = _sha256(request), request.app[PLANE].assets
    if assets.exists(Reference(sha256, "")):
        return answer({"sha256": sha256}, 200)
    chunks: AsyncIterator[bytes] = request.content.iter_chunked(CHUNK_BYTES)
    new = await assets.store(sha256, chunks)
    return answer({"sha256": sha256}, 201 if new else 200)


def _sha256(request: web.Request) -> str:
    text = request.match_info["sha256"]
    if SHA256.fullmatch(text) is None:
        raise InvalidSpec([Problem("sha256", "64 lower-case hex digits", text)])
    return text


async def events(request: web.Request) -> web.StreamResponse:
    """The newest events of a topic, then, when asked, each one as it comes."""
    topic = request.match_info["topic"]
    if topic not in TOPICS:
        raise NotFound(f"there is no topic {topic}; there are {', '.join(TOPICS)}")
    return await _lines(request, topic, _tail(request), event_lines.EVENTS)


async def requests_of(request: web.Request) -> web.StreamResponse:
    """The newest requests of an endpoint in the columns of Azure's traffic log, then, when asked, each one as it ends."""
    standing = await request.app[PLANE].standing(request.match_info["endpoint"])
    text = request.query.get("since")
    since_ns = traffic_log.since(text, now_ns()) if text else 0
    deployment = request.query.get("deployment")
    selection = traffic_log.Selection(standing.endpoint, deployment.lower() if deployment else None, since_ns)
    tail = MAX_TAIL if text and "tail" not in request.query else _tail(request)
    return await _lines(request, REQUESTS, tail, selection, since_ns)


async def _lines(
    request: web.Request, topic: str, tail: int, made: event_lines.Lines, since_ns: int = 0
) -> web.StreamResponse:
    """The newest `tail` lines of `topic`, as `made` makes them, and those that follow."""
    plane, follow = request.app[PLANE], _follow(request)
    if plane.followers >= MAX_FOLLOWERS:
        raise Unavailable(f"{MAX_FOLLOWERS} event streams are open, the most there can be: close one")
    plane.followers += 1
    try:
        lines, reader = await event_lines.last_lines(plane.log, topic, tail, made, since_ns)
        try:
            response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionResetError):  # the caller has seen enough
                await response.write(b"".join(lines))
                if follow:
                    await _stream(plane, request, response, reader, made)
                await response.write_eof()
            return response
        finally:
            await reader.close()
    finally:
        plane.followers -= 1


async def _stream(
    plane: Plane, request: web.Request, response: web.StreamResponse, reader: Reader, made: event_lines.Lines
) -> None:
    while not plane.closing.is_set() and request.transport is not None and not request.transport.is_closing():
        for message in await reader.next(FOLLOW_SECONDS):
            await response.write(b"".join(made.lines_of(message)))


def _follow(request: web.Request) -> bool:
    text = request.query.get("follow", "false").lower()
    if text not in ("true", "false"):
        raise InvalidSpec([Problem("follow", "true or false", text)])
    return text == "true"


def _tail(request: web.Request) -> int:
    text = request.query.get("tail", "0" if _follow(request) else "100")
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) > MAX_TAIL:
        raise InvalidSpec([Problem("tail", f"a whole number from 0 to {MAX_TAIL}", text)])
    return int(text)
