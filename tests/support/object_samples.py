"""Objects as an API server hands them over, without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.control.content import Content, Standing
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT, FINALIZER, WRITTEN
from router.control.resources.objects import ACCEPTED, Found, found
from router.control.resources.schema import Schema

Json = dict[str, Any]


def defaulted(spec: Mapping[str, Any], schema: Schema) -> Json:
    """What an API server makes of a spec: everything that has a default is there."""
    made: Json = {}
    properties: Mapping[str, Schema] = schema.get("properties", {})
    for name, value in spec.items():
        inner = properties.get(name, {})
        made[name] = defaulted(value, inner) if isinstance(value, Mapping) and inner.get("type") == "object" else value
    for name, inner in properties.items():
        if name not in made and "default" in inner:
            value = inner["default"]
            made[name] = defaulted(value, inner) if isinstance(value, Mapping) else value
    return made


def an_object(
    spec: Mapping[str, Any],
    name: str = "shop",
    *,
    generation: int = 1,
    accepted: int | None = None,
    revision: int | None = None,
    written: str | None = None,
    created: str = "2026-01-01T00:00:00Z",
    held: bool = True,
    **more: Any,
) -> Found:
    """An object as it is; `accepted` is the generation that was, when one was."""
    status: Json = {} if revision is None else {"revision": revision}
    if accepted is not None:
        since = "2026-01-01T00:00:00Z"
        condition = {
            "type": ACCEPTED,
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": since,
        }
        status["conditions"] = [{**condition, "observedGeneration": accepted}]
    kind = DEPLOYMENT if "endpoint_name" in spec else ENDPOINT
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": generation,
        "creationTimestamp": created,
        "finalizers": [FINALIZER] if held else [],
        "annotations": {WRITTEN: written} if written else {},
    }
    return found(kind, {"metadata": metadata, "spec": dict(spec), "status": {**status, **more}})


def a_standing(
    revision: int = 3,
    document: Mapping[str, Any] | None = None,
    deployments: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    deleted: bool = False,
) -> Standing:
    """An endpoint `shop` in the store."""
    whole = {"name": "shop", "compute": "azureml:kubernetes", **(document or {})}
    return Standing("shop", revision, 0, Content(whole, dict(deployments or {})), deleted, None)
