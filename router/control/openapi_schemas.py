"""Schemas, parameters and headers of the OpenAPI document.

Documents of endpoints and deployments are open here: their keys are Azure's, and `router.contract.azure` says what is
wrong with them far better than a schema can.
"""

from __future__ import annotations

from typing import Any

from router.contract.events import TOPICS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TIME: Schema = {"type": "string", "format": "date-time"}
MAP: Schema = {"type": "object"}
SHARES: Schema = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 100}}


def _object(*, closed: bool = True, optional: tuple[str, ...] = (), **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    return {**schema, "additionalProperties": False} if closed else schema


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(kind: str) -> Schema:
    return {"type": [kind, "null"]}


def _words(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_RATES: dict[str, Any] = {
    "requests_per_second": _or_null("number"),
    "in_flight": _or_null("integer"),
    "queued": _or_null("integer"),
    "p50_ms": _or_null("number"),
    "p99_ms": _or_null("number"),
}
_REPLICAS = _object(observed=COUNT, ready=COUNT, desired=COUNT)
_PHASE = _words("pending", "building", "starting", "ready", "scaling", "failed", "deleting")
_PROBLEM = _object(
    optional=("value", "suggestion", "file", "line"),
    field=TEXT,
    message=TEXT,
    value={},
    suggestion=TEXT,
    file=TEXT,
    line=COUNT,
)
_REVISION_HEAD: dict[str, Any] = {"revision": COUNT, "at": TIME}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_object(optional=("details",), code=TEXT, message=TEXT, details=_list(_PROBLEM))),
    "Health": _object(status={"const": "ok"}),
    "OpenApi": MAP,
    "Empty": MAP,
    "EndpointDocument": {"type": "object", "description": "The keys of Azure's endpoint YAML, as JSON"},
    "Endpoint": _object(
        closed=False,
        optional=("warnings",),
        name=TEXT,
        kind=_words("managed", "kubernetes"),
        revision=COUNT,
        provisioning_state=_words("Creating", "Updating", "Deleting", "Succeeded", "Failed"),
        scoring_uri=TEXT,
        openapi_uri=TEXT,
        traffic=SHARES,
        mirror_traffic=SHARES,
        warnings=_list(_PROBLEM),
    ),
    "EndpointList": _object(value=_list(_ref("Endpoint"))),
    "Keys": _object(primaryKey=TEXT, secondaryKey=TEXT),
    "Regenerate": _object(key_type=_words("primary", "secondary")),
    "RevisionList": _object(
        value=_list(
            _object(**_REVISION_HEAD, change=TEXT, traffic=SHARES, mirror_traffic=SHARES, deployments=_list(TEXT))
        )
    ),
    "Revision": _object(**_REVISION_HEAD, document=MAP, deployments=MAP),
    "Rollback": _object(revision={"type": "integer", "minimum": 1}),
    "DeploymentDocument": {"type": "object", "description": "The keys of Azure's deployment YAML, as JSON"},
    "Deployment": _object(
        closed=False,
        optional=("warnings",),
        name=TEXT,
        endpoint_name=TEXT,
        provisioning_state=_words("Creating", "Updating", "Scaling", "Deleting", "Succeeded", "Failed"),
        revision=COUNT,
        phase=_PHASE,
        reason=TEXT,
        message=TEXT,
        log_tail=TEXT,
        replicas=_REPLICAS,
        warnings=_list(_PROBLEM),
    ),
    "DeploymentList": _object(value=_list(_ref("Deployment"))),
    "LogsRequest": _object(optional=("tail",), tail={"type": "integer", "minimum": 1, "maximum": 10000}),
    "Logs": _object(content=TEXT),
    "Asset": _object(sha256=TEXT),
    "Operation": _object(
        id=TEXT,
        kind=_words("create", "update", "delete", "restart", "rollback"),
        endpoint=TEXT,
        deployment=_or_null("string"),
        revision=COUNT,
        status=_words("InProgress", "Succeeded", "Failed", "Canceled"),
        phase=_PHASE,
        progress={"type": "number", "minimum": 0, "maximum": 1},
        message=TEXT,
        started_at=TIME,
        finished_at={"type": ["string", "null"], "format": "date-time"},
        error={"anyOf": [{"type": "null"}, _object(code=TEXT, message=TEXT, log_tail=TEXT)]},
    ),
    "Status": _object(
        endpoints=_list(
            _object(
                name=TEXT,
                revision=COUNT,
                **_RATES,
                errors_per_second=_or_null("number"),
                deployments=_list(
                    _object(
                        name=TEXT,
                        weight=COUNT,
                        mirror_percent=NUMBER,
                        phase=_PHASE,
                        replicas=_REPLICAS,
                        **_RATES,
                        shadows=_object(compared=COUNT, equal=COUNT, dropped=COUNT),
                    )
                ),
            )
        )
    ),
}


def _path(name: str, schema: Schema, words: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": words}


PARAMETERS: dict[str, Schema] = {
    "endpoint": _path("endpoint", TEXT, "Name of the endpoint; case does not matter"),
    "deployment": _path("deployment", TEXT, "Name of the deployment; case does not matter"),
    "revision": _path("revision", COUNT, "Number of a revision"),
    "sha256": _path("sha256", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "SHA-256 of the tar file, in hex"),
    "operation": _path("operation", TEXT, "Id of the operation"),
    "topic": _path("topic", _words(*TOPICS), "Topic"),
    "all_traffic": {
        "name": "all_traffic",
        "in": "query",
        "schema": {"type": "boolean", "default": False},
        "description": "Give the deployment all live traffic once it is ready",
    },
    "of_deployment": {
        "name": "deployment",
        "in": "query",
        "schema": TEXT,
        "description": "Only requests of this deployment; case does not matter",
    },
    "since": {
        "name": "since",
        "in": "query",
        "schema": TEXT,
        "description": "Only requests that came then or later: how long ago, as in 90s, 10m, 2h, 1d, or a time (RFC 3339). "
        "The newest 10000 of them, where tail is not given",
    },
    "follow": {
        "name": "follow",
        "in": "query",
        "schema": {"type": "boolean", "default": False},
        "description": "Go on with each event as it comes",
    },
    "tail": {
        "name": "tail",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0, "maximum": 10000},
        "description": "How many of the newest events to begin with: 100, or 0 when following",
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "schema": TEXT,
        "description": 'The revision that the change is based on, as in the ETag: "7"; 412 when it is not the newest',
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "schema": {"const": "*"},
        "description": "Only create: 409 when it exists",
    },
}

HEADERS: dict[str, Schema] = {
    "ETag": {"schema": TEXT, "description": "The endpoint's newest revision, in quotes"},
    "Azure-AsyncOperation": {"schema": TEXT, "description": "Address of the operation"},
    "Retry-After": {"schema": COUNT, "description": "Seconds until looking again makes sense"},
}
