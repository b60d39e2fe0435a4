"""The Secret `<endpoint>-keys`, where callers in the cluster find an endpoint's keys and address.

It belongs to the endpoint's object and goes with it. One of the same name that is somebody else's is left alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.control.content import KeyPair
from router.control.resources.kinds import ENDPOINT_LABEL
from router.control.resources.objects import Found
from router.runtime.clock import Clock
from router.runtime.kubernetes import SECRETS, Absent, Cluster, KubernetesError
from router.runtime.kubernetes.pacing import Chance

LOOK_SECONDS = 600.0
"""How often it is looked after when nothing of it has changed: somebody may have deleted it."""
START_SECONDS = 120.0
"""After a start, within how long every Secret is looked at."""
_MANAGED_BY = {"app.kubernetes.io/managed-by": "tidegate"}


class NotOurs(KubernetesError):
    """Something of this name is there already and belongs to somebody else."""

    code = "Conflict"


@dataclass(slots=True)
class Credentials:
    """Writes the Secrets of all endpoints."""

    cluster: Cluster
    clock: Clock
    chance: Chance
    _known: dict[str, tuple[Mapping[str, Any], float]] = field(default_factory=dict)

    async def keep(self, found: Found, keys: KeyPair, scoring_uri: str) -> None:
        """Have the Secret of an endpoint's object as it should be. Raises `NotOurs` or another `KubernetesError`."""
        wanted = manifest(found, keys, scoring_uri)
        known, now = self._known.get(found.uid), self.clock.monotonic()
        if known is None and found.status.get("keys_secret") == wanted["metadata"]["name"]:
            # Written by an earlier control plane: looked at soon, but not all at once at a start.
            known = self._known[found.uid] = (wanted, now - LOOK_SECONDS + START_SECONDS * self.chance())
        if known is not None and known[0] == wanted and now - known[1] < LOOK_SECONDS:
            return
        name = wanted["metadata"]["name"]
        try:
            there = await self.cluster.get(SECRETS, found.namespace, name)
        except Absent:
            await self.cluster.create(SECRETS, wanted)
        else:
            if not _ours(there, wanted):
                message = f"Secret {name} is there already and is not Tidegate's: delete it, and the keys are put there"
                raise NotOurs(message)
            if any(there.get(part) != wanted[part] for part in ("data", "type")):
                await self.cluster.apply(SECRETS, wanted)
        self._known[found.uid] = (wanted, now)

    def forget(self, uid: str) -> None:
        """The endpoint's object is gone."""
        self._known.pop(uid, None)


def secret_name(endpoint: str) -> str:
    """Of an endpoint's Secret."""
    return f"{endpoint}-keys"


def manifest(found: Found, keys: KeyPair, scoring_uri: str) -> dict[str, Any]:
    """The Secret that belongs to an endpoint's object."""
    values = {"primaryKey": keys.primary, "secondaryKey": keys.secondary, "scoring_uri": scoring_uri}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(found.endpoint),
            "namespace": found.namespace,
            "labels": {**_MANAGED_BY, ENDPOINT_LABEL: found.endpoint},
            "ownerReferences": [found.reference()],
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()},
    }


def _ours(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    labels = there["metadata"].get("labels") or {}
    expected: Mapping[str, str] = wanted["metadata"]["labels"]
    return all(labels.get(name) == value for name, value in expected.items())
