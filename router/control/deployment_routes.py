"""REST of deployments: documents, logs, restarts."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

from aiohttp import web

from router.contract import azure
from router.contract.errors import InvalidSpec, NotFound, Problem
from router.control import changes, views
from router.control.answers import answer, following, precondition, tagged
from router.control.asset_references import check_files
from router.control.content import OperationKind, Standing
from router.control.middleware import json_body
from router.control.operations import Operation
from router.control.plane import PLANE, Plane

MAX_LOG_LINES = 10_000


def governing(newest: dict[str | None, Operation], name: str) -> Operation | None:
    """The newest operation that touches a deployment: its own, or a later rollback of the whole endpoint."""
    own, whole = newest.get(name), newest.get(None)
    if whole is None or whole.kind is not OperationKind.ROLLBACK:
        return own
    return whole if own is None or whole.revision > own.revision else own


async def list_deployments(request: web.Request) -> web.Response:
    """Every deployment of the endpoint, those still being deleted included."""
    plane = request.app[PLANE]
    standing = await plane.standing(request.match_info["endpoint"])
    names = sorted(standing.content.deployments.keys() | (await plane.leaving(standing)).keys())
    value = []
    for name in names:
        with contextlib.suppress(NotFound):  # its deletion has ended since we began
            value.append(await _shown(plane, standing, name))
    return answer({"value": value})


async def get_deployment(request: web.Request) -> web.Response:
    """One deployment."""
    plane = request.app[PLANE]
    standing = await plane.standing(request.match_info["endpoint"])
    name = request.match_info["deployment"].lower()
    return answer(await _shown(plane, standing, name), headers=tagged(standing))


async def _shown(plane: Plane, standing: Standing, name: str) -> dict[str, Any]:
    newest = await plane.store.newest_operations(standing.endpoint)
    now = plane.fleet.replicas(standing.endpoint).get(name)
    document = standing.content.deployments.get(name)
    if document is None:
        leaving = (await plane.leaving(standing)).get(name)
        if leaving is None:
            changes.known(standing, name)
        else:
            document = await plane.document_before(leaving)
    return views.deployment(standing, name, document or {}, governing(newest, name), now)


async def put_deployment(request: web.Request) -> web.Response:
    """Create the deployment or replace its document."""
    plane, name = request.app[PLANE], request.match_info["deployment"]
    endpoint = request.match_info["endpoint"]
    body = await json_body(request, required=True)
    decide = partial(
        changes.put_deployment,
        endpoint=endpoint,
        name=name,
        body=body,
        all_traffic=_flag(request, "all_traffic"),
        precondition=precondition(request),
    )
    # Decided once before: what is wrong with the document is said before what is wrong with its files.
    decided = decide(await plane.store.get(endpoint.lower()))
    await asyncio.to_thread(check_files, decided.content.deployments[name.lower()], plane.assets.exists)
    committed = await plane.commit(endpoint.lower(), decide)
    standing, document = committed.standing, committed.standing.content.deployments[name.lower()]
    now = plane.fleet.replicas(standing.endpoint).get(name.lower())
    shown = views.deployment(standing, name.lower(), document, committed.operation, now)
    shown |= views.warnings(azure.ineffective(azure.deployment_from_document(document)))
    headers = tagged(standing) | following(request, committed.operation)
    return answer(shown, 201 if committed.change.created else 200, headers)


async def delete_deployment(request: web.Request) -> web.Response:
    """Delete one deployment that gets no traffic."""
    endpoint, name = request.match_info["endpoint"], request.match_info["deployment"]
    decide = partial(changes.delete_deployment, endpoint=endpoint, name=name, precondition=precondition(request))
    committed = await request.app[PLANE].commit(endpoint.lower(), decide)
    return answer(views.operation(committed.operation), 202, following(request, committed.operation))


async def restart_deployment(request: web.Request) -> web.Response:
    """Replace every replica, one by one."""
    endpoint, name = request.match_info["endpoint"], request.match_info["deployment"]
    await json_body(request, required=False)
    decide = partial(changes.restart_deployment, endpoint=endpoint, name=name)
    committed = await request.app[PLANE].commit(endpoint.lower(), decide)
    return answer(views.operation(committed.operation), 202, following(request, committed.operation))


async def get_logs(request: web.Request) -> web.Response:
    """The newest lines of the deployment's output."""
    plane = request.app[PLANE]
    body = await json_body(request, required=False)
    tail = body.get("tail", 50)
    if isinstance(tail, bool) or not isinstance(tail, int) or not 1 <= tail <= MAX_LOG_LINES:
        raise InvalidSpec([Problem("tail", f"a whole number of lines from 1 to {MAX_LOG_LINES}", tail)])
    standing = await plane.standing(request.match_info["endpoint"])
    name = request.match_info["deployment"].lower()
    if name not in await plane.leaving(standing):
        changes.known(standing, name)
    return answer({"content": await plane.logs.last_lines(standing.endpoint, name, tail)})


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise InvalidSpec([Problem(name, "true or false", text)])
    return text == "true"
