"""What the controller changes on objects: each edit on the condition that nobody else has changed the object meanwhile.

Specs are edited by JSON merge patch under our field manager, not by server-side apply: apply cannot take away a key that
another manager has set, and a deployment that left the traffic through REST must leave the object's traffic too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.control.resources.kinds import FINALIZER, GROUP, KINDS, VERSION, WRITTEN, Kind
from router.control.resources.objects import Found, found
from router.control.resources.translation import fingerprint, merged
from router.runtime.kubernetes import Cluster, Resource, Watched

RESOURCES: Mapping[Kind, Resource] = {kind: Resource(GROUP, VERSION, kind.plural, kind.kind) for kind in KINDS}


class Editor:
    """Writes to the objects of one namespace and tells the watched collections at once."""

    def __init__(self, cluster: Cluster, watched: Mapping[Kind, Watched[Found]]) -> None:
        self._cluster = cluster
        self._watched = watched

    async def claim(self, one: Found, owner: Found | None) -> Found:
        """Have our finalizer on an object, and the endpoint's object as its owner. Raises `Contested`."""
        owners = list(one.owners)
        if owner is not None:
            others = [other for other in owners if not _is_endpoint(other)]
            owners = [*others, owner.reference()] if owner.uid not in {other.get("uid") for other in owners} else owners
        finalizers = [*one.finalizers, *(() if one.held else (FINALIZER,))]
        if owners == list(one.owners) and finalizers == list(one.finalizers):
            return one
        return await self._edit(one, {"metadata": {"finalizers": finalizers, "ownerReferences": owners}})

    async def release(self, one: Found) -> None:
        """Let an object go that is being deleted. Raises `Contested`."""
        if one.held:
            finalizers = [other for other in one.finalizers if other != FINALIZER]
            await self._merge(one, {"metadata": {"finalizers": finalizers}})

    async def write_back(self, one: Found, patch: Mapping[str, Any]) -> Found:
        """Change the spec, and remember in the object that it was us. Raises `Contested` or `Rejected`."""
        mark = fingerprint(merged(one.spec, patch))
        return await self._edit(one, {"metadata": {"annotations": {WRITTEN: mark}}, "spec": dict(patch)})

    async def forget_written(self, one: Found) -> Found:
        """Somebody has applied since we wrote back: the same spec again would not be ours any more."""
        if one.written is None or one.written == fingerprint(one.spec):
            return one
        return await self._edit(one, {"metadata": {"annotations": {WRITTEN: None}}})

    async def report(self, one: Found, status: Mapping[str, Any]) -> Found:
        """Change the status."""
        resource = RESOURCES[one.kind]
        part = {"status": dict(status)}
        answer = await self._cluster.merge(resource, one.namespace, one.name, part, subresource="status")
        self._watched[one.kind].put(answer)
        return found(one.kind, answer)

    async def delete(self, one: Found) -> None:
        """Delete exactly this object as it is. Raises `Contested`."""
        conditions = {"uid": one.uid, "resourceVersion": one.version}
        await self._cluster.delete(RESOURCES[one.kind], one.namespace, one.name, preconditions=conditions)

    async def _edit(self, one: Found, part: Mapping[str, Any]) -> Found:
        answer = await self._merge(one, part)
        self._watched[one.kind].put(answer)
        return found(one.kind, answer)

    async def _merge(self, one: Found, part: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {**part["metadata"], "resourceVersion": one.version}
        return await self._cluster.merge(RESOURCES[one.kind], one.namespace, one.name, {**part, "metadata": metadata})


def is_orphan(one: Found, endpoint: Found | None) -> bool:
    """Whether an object belongs to an endpoint's object that is no longer there."""
    owners = {other.get("uid") for other in one.owners if _is_endpoint(other)}
    return bool(owners) and (endpoint is None or endpoint.uid not in owners)


def _is_endpoint(owner: Mapping[str, Any]) -> bool:
    return str(owner.get("apiVersion", "")).startswith(f"{GROUP}/") and owner.get("kind") == "OnlineEndpoint"
