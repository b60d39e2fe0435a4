"""Every address of the REST API, once: the server and its OpenAPI document are both made from this table."""

from __future__ import annotations

from aiohttp import web

from router.control import deployment_routes as deployments
from router.control import endpoint_routes as endpoints
from router.control import observation_routes as observation
from router.control.login import LOGIN, admitted
from router.control.middleware import MAX_BODY_BYTES, errors_as_json, json_bodies, logged, same_site
from router.control.openapi import Body, Route, document
from router.control.plane import PLANE, Plane
from router.runtime.login import nobody_is_asked

MIDDLEWARES = (logged, errors_as_json, same_site, admitted, json_bodies)
"""From the outermost to the innermost."""
_ENDPOINT = "/v1/endpoints/{endpoint}"
_DEPLOYMENT = _ENDPOINT + "/deployments/{deployment}"
_MATCH = ("If-Match", "If-None-Match")
_CHANGED = ("ETag", "Azure-AsyncOperation", "Retry-After")
_ACCEPTED = ("Azure-AsyncOperation", "Retry-After")


def _followed(schema: str) -> Body:
    return Body(schema, headers=_CHANGED)


async def _openapi(_: web.Request) -> web.Response:
    """The OpenAPI document of every address."""
    return web.json_response(document(ROUTES))


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", observation.health, {200: Body("Health")}),
    Route("GET", "/readyz", observation.readiness, {200: Body("Health")}),
    Route("GET", "/openapi.json", _openapi, {200: Body("OpenApi")}),
    Route("GET", "/metrics", observation.prometheus, {200: Body(media="text/plain")}),
    Route("GET", "/v1/endpoints", endpoints.list_endpoints, {200: Body("EndpointList")}),
    Route("GET", _ENDPOINT, endpoints.get_endpoint, {200: Body("Endpoint", headers=("ETag",))}),
    Route(
        "PUT",
        _ENDPOINT,
        endpoints.put_endpoint,
        {200: _followed("Endpoint"), 201: _followed("Endpoint")},
        body="EndpointDocument",
        headers=_MATCH,
    ),
    Route("DELETE", _ENDPOINT, endpoints.delete_endpoint, {202: Body("Operation", headers=_ACCEPTED)}, headers=_MATCH),
    Route("POST", _ENDPOINT + "/keys/list", endpoints.list_keys, {200: Body("Keys")}),
    Route("POST", _ENDPOINT + "/keys/regenerate", endpoints.regenerate_keys, {200: Body("Keys")}, body="Regenerate"),
    Route("GET", _ENDPOINT + "/revisions", endpoints.list_revisions, {200: Body("RevisionList")}),
    Route("GET", _ENDPOINT + "/revisions/{revision}", endpoints.get_revision, {200: Body("Revision")}),
    Route("POST", _ENDPOINT + "/rollback", endpoints.roll_back, {200: _followed("Endpoint")}, body="Rollback"),
    Route(
        "GET",
        _ENDPOINT + "/traffic-log",
        observation.requests_of,
        {200: Body(media="application/x-ndjson")},
        query=("of_deployment", "since", "follow", "tail"),
    ),
    Route("GET", _ENDPOINT + "/deployments", deployments.list_deployments, {200: Body("DeploymentList")}),
    Route("GET", _DEPLOYMENT, deployments.get_deployment, {200: Body("Deployment", headers=("ETag",))}),
    Route(
        "PUT",
        _DEPLOYMENT,
        deployments.put_deployment,
        {200: _followed("Deployment"), 201: _followed("Deployment")},
        body="DeploymentDocument",
        headers=_MATCH,
        query=("all_traffic",),
    ),
    Route(
        "DELETE",
        _DEPLOYMENT,
        deployments.delete_deployment,
        {202: Body("Operation", headers=_ACCEPTED)},
        headers=_MATCH,
    ),
    Route("POST", _DEPLOYMENT + "/logs", deployments.get_logs, {200: Body("Logs")}, body="LogsRequest", optional=True),
    Route(
        "POST",
        _DEPLOYMENT + "/restart",
        deployments.restart_deployment,
        {202: Body("Operation", headers=_ACCEPTED)},
        body="Empty",
        optional=True,
    ),
    Route("HEAD", "/v1/assets/{sha256}", observation.head_asset, {200: Body(), 404: Body()}),
    Route("GET", "/v1/assets/{sha256}", observation.get_asset, {200: Body(media="application/x-tar")}),
    Route(
        "PUT",
        "/v1/assets/{sha256}",
        observation.put_asset,
        {200: Body("Asset"), 201: Body("Asset")},
        body="application/x-tar",
    ),
    Route("GET", "/v1/operations/{operation}", observation.get_operation, {200: Body("Operation")}),
    Route("GET", "/v1/status", observation.status, {200: Body("Status")}),
    Route(
        "GET",
        "/v1/events/{topic}",
        observation.events,
        {200: Body(media="application/x-ndjson")},
        query=("follow", "tail"),
    ),
)


def application(plane: Plane) -> web.Application:
    """The aiohttp application over `plane`."""
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=MAX_BODY_BYTES)
    app[PLANE] = plane
    app[LOGIN] = plane.settings.login or nobody_is_asked()
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
    return app
