"""REST of endpoints: documents, keys, revisions."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from router.contract import azure
from router.contract.errors import Conflict, InvalidSpec, Problem
from router.control import changes, views
from router.control.answers import answer, following, precondition, tagged
from router.control.content import KeyPair
from router.control.middleware import json_body
from router.control.plane import PLANE, fresh_keys
from router.control.store import Committed


async def list_endpoints(request: web.Request) -> web.Response:
    """Every endpoint, by name."""
    plane, value = request.app[PLANE], []
    for standing in await plane.store.all():
        newest = (await plane.store.newest_operations(standing.endpoint)).get(None)
        published = plane.publisher.published.get(standing.endpoint, 0)
        value.append(views.endpoint(standing, newest, published, plane.gateway_url))
    return answer({"value": value})


async def get_endpoint(request: web.Request) -> web.Response:
    """One endpoint."""
    plane = request.app[PLANE]
    standing, newest = await plane.shown_endpoint(request.match_info["endpoint"])
    published = plane.publisher.published.get(standing.endpoint, 0)
    return answer(views.endpoint(standing, newest, published, plane.gateway_url), headers=tagged(standing))


async def put_endpoint(request: web.Request) -> web.Response:
    """Create the endpoint or replace its document."""
    name, body = request.match_info["endpoint"], await json_body(request, required=True)
    decide = partial(
        changes.put_endpoint, name=name, body=body, new_keys=fresh_keys(), precondition=precondition(request)
    )
    committed = await request.app[PLANE].commit(name.lower(), decide)
    return _changed(request, committed, with_warnings=True)


def _changed(request: web.Request, committed: Committed, *, with_warnings: bool) -> web.Response:
    plane, standing = request.app[PLANE], committed.standing
    published = plane.publisher.published.get(standing.endpoint, 0)
    body = views.endpoint(standing, committed.operation, published, plane.gateway_url)
    if with_warnings:
        body |= views.warnings(azure.ineffective(azure.endpoint_from_document(standing.content.document)))
    headers = tagged(standing) | following(request, committed.operation)
    return answer(body, 201 if committed.change.created else 200, headers)


async def delete_endpoint(request: web.Request) -> web.Response:
    """Delete the endpoint with all its deployments."""
    name = request.match_info["endpoint"]
    decide = partial(changes.delete_endpoint, name=name, precondition=precondition(request))
    committed = await request.app[PLANE].commit(name.lower(), decide)
    return answer(views.operation(committed.operation), 202, following(request, committed.operation))


async def list_keys(request: web.Request) -> web.Response:
    """Both keys."""
    standing = await request.app[PLANE].standing(request.match_info["endpoint"])
    if standing.keys is None:
        raise Conflict("the text of the keys was lost with the store; regenerate-keys makes two new ones")
    return _keys(standing.keys)


async def regenerate_keys(request: web.Request) -> web.Response:
    """Replace one key; the other one goes on working."""
    name, body = request.match_info["endpoint"], await json_body(request, required=True)
    key_type = body.get("key_type")
    if key_type not in ("primary", "secondary"):
        raise InvalidSpec([Problem("key_type", "primary or secondary", key_type)])
    decide = partial(changes.regenerate_key, endpoint=name, key_type=key_type, fresh=fresh_keys())
    committed = await request.app[PLANE].commit(name.lower(), decide)
    assert committed.standing.keys is not None
    return _keys(committed.standing.keys)


def _keys(keys: KeyPair) -> web.Response:
    body = {"primaryKey": keys.primary, "secondaryKey": keys.secondary}
    return answer(body, headers={"Cache-Control": "no-store"})


async def list_revisions(request: web.Request) -> web.Response:
    """The kept revisions, newest first."""
    plane = request.app[PLANE]
    standing = await plane.standing(request.match_info["endpoint"])
    history = await plane.store.history(standing.endpoint)
    return answer({"value": [views.revision(recorded) for recorded in history]})


async def get_revision(request: web.Request) -> web.Response:
    """One revision, whole."""
    plane = request.app[PLANE]
    standing = await plane.standing(request.match_info["endpoint"])
    number = request.match_info["revision"]
    if not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise InvalidSpec([Problem("revision", "a whole number", number)])
    return answer(views.revision_content(await plane.store.recorded(standing.endpoint, int(number))))


async def roll_back(request: web.Request) -> web.Response:
    """Make an earlier revision's content the newest."""
    plane, name = request.app[PLANE], request.match_info["endpoint"]
    body = await json_body(request, required=True)
    number = body.get("revision")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 62:
        raise InvalidSpec([Problem("revision", "the number of a revision, from 1", number)])
    await plane.standing(name)
    target = (await plane.store.recorded(name.lower(), number)).standing
    committed = await plane.commit(name.lower(), partial(changes.roll_back, endpoint=name, target=target))
    return _changed(request, committed, with_warnings=False)
