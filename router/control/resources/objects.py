"""Custom resources as the controller sees them: what of an object matters, and nothing of its bookkeeping. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.control.resources.kinds import API_VERSION, ENDPOINT, FINALIZER, WRITTEN, Kind

Json = Mapping[str, Any]
ACCEPTED = "Accepted"
PROGRESSING = "Progressing"
READY = "Ready"


@dataclass(frozen=True, slots=True)
class Found:
    """One OnlineEndpoint or OnlineDeployment, as the API server has it."""

    kind: Kind
    name: str
    namespace: str
    uid: str
    version: str
    """The `resourceVersion`."""
    generation: int
    created: str
    """RFC 3339, in UTC."""
    deleting: bool
    finalizers: tuple[str, ...]
    owners: tuple[Json, ...]
    written: str | None
    """Hash of the spec that was last written back into it."""
    spec: Json
    status: Json

    @property
    def endpoint(self) -> str:
        """Canonical name of the endpoint that it is about."""
        return self.name if self.kind is ENDPOINT else str(self.spec.get("endpoint_name", "")).lower()

    @property
    def deployment(self) -> str:
        """Canonical name of the deployment that it is about."""
        return str(self.spec.get("name") or self.name).lower()

    @property
    def held(self) -> bool:
        """Whether our finalizer keeps it."""
        return FINALIZER in self.finalizers

    @property
    def revision(self) -> int | None:
        """The revision that it last agreed with; None when it never was accepted."""
        found = self.status.get("revision")
        return found if isinstance(found, int) else None

    @property
    def conditions(self) -> Sequence[Json]:
        """As they stand in its status."""
        found = self.status.get("conditions")
        return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []

    def condition(self, kind: str) -> Json | None:
        """One of its conditions."""
        return next((one for one in self.conditions if one.get("type") == kind), None)

    @property
    def agreed(self) -> bool:
        """Whether this very generation has been accepted: since then it has not been changed."""
        accepted = self.condition(ACCEPTED)
        return (
            accepted is not None
            and accepted.get("status") == "True"
            and accepted.get("observedGeneration") == self.generation
        )

    @property
    def age(self) -> tuple[str, bool, str]:
        """Older objects come first. The API server tells whole seconds: within one, what has been accepted is older."""
        return self.created, self.revision is None, self.uid

    def reference(self) -> dict[str, Any]:
        """As an owner of other objects."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def found(kind: Kind, manifest: Json) -> Found:
    """`manifest`, as an API server sends it."""
    metadata: Json = manifest.get("metadata") or {}
    annotations: Json = metadata.get("annotations") or {}
    return Found(
        kind=kind,
        name=str(metadata["name"]),
        namespace=str(metadata.get("namespace", "")),
        uid=str(metadata.get("uid", "")),
        version=str(metadata.get("resourceVersion", "")),
        generation=int(metadata.get("generation", 0)),
        created=str(metadata.get("creationTimestamp", "")),
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers") or ()),
        owners=tuple(metadata.get("ownerReferences") or ()),
        written=annotations.get(WRITTEN),
        spec=manifest.get("spec") or {},
        status=manifest.get("status") or {},
    )
