"""What the mirror knows of the world: every endpoint's candidates and replicas, folded from `specs` and `replicas`.

Replicas come directly from the autoscaler too; what is not newer by (generation, version) is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from router.contract.azure import deployment_from_document, endpoint_from_document
from router.contract.codec import Malformed, UnknownSchema, decode_replicas, decode_specs
from router.contract.errors import InvalidSpec
from router.contract.events import (
    REPLICAS,
    SPECS,
    EndpointReplicas,
    EndpointRevision,
    Replica,
    ReplicaState,
)
from router.runtime.log.base import Log, Message
from router.runtime.telemetry import Limited

_log = logging.getLogger("tidegate.mirror")


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint as the mirror sees it."""

    revision: int = 0
    deleted: bool = False
    mirrors: tuple[str, ...] = ()
    """Deployments that are mirrored to."""
    per_replica: Mapping[str, int] = field(default_factory=dict)
    """Deployment → shadows that one replica may have in flight."""
    server_names: Mapping[str, str] = field(default_factory=dict)
    """Deployment whose replicas speak TLS → the name in their certificates; empty: their addresses."""
    http2: frozenset[str] = frozenset()
    """Deployments whose replicas speak HTTP/2."""
    replicas_version: int = 0
    replicas_generation: int = 0
    """Of the owner who wrote that version."""
    replicas: Mapping[str, tuple[Replica, ...]] = field(default_factory=dict)

    def draining(self) -> tuple[str, ...]:
        """Ids of every draining replica."""
        return tuple(
            replica.id
            for group in self.replicas.values()
            for replica in group
            if replica.state is ReplicaState.DRAINING
        )


_NOTHING = EndpointView()


class Directory:
    """Endpoint name → `EndpointView`; a deleted endpoint stays, because the revision that deleted it still counts."""

    def __init__(self) -> None:
        self.endpoints: dict[str, EndpointView] = {}
        self.skipped = 0
        """Messages that could not be read."""
        self._say = Limited(_log)

    def view(self, endpoint: str) -> EndpointView:
        """What is known of an endpoint, possibly nothing."""
        return self.endpoints.get(endpoint, _NOTHING)

    def apply(self, message: Message) -> str | None:
        """Fold one message; returns the endpoint it changed, None when nothing changed."""
        try:
            if message.topic == SPECS:
                return self._specs(decode_specs(message.value))
            if message.topic == REPLICAS:
                return self._replicas(decode_replicas(message.value))
        except (Malformed, UnknownSchema, InvalidSpec) as error:
            self.skipped += 1
            _log.warning("skipped a %s message of %s: %s", message.topic, message.key, error)
        return None

    def take_replicas(self, value: bytes) -> str | None:
        """Fold one `replicas` message that did not come from the log; returns the endpoint it changed."""
        try:
            return self._replicas(decode_replicas(value))
        except (Malformed, UnknownSchema) as error:
            self.skipped += 1
            self._say.warning("told", "replicas that were told directly make no sense", problem=str(error))
        return None

    def _specs(self, event: EndpointRevision) -> str | None:
        old = self.view(event.endpoint)
        if event.revision <= old.revision and not old.deleted:
            return None
        mirrors: tuple[str, ...] = ()
        per_replica, http2 = {}, set()
        server_names = {}
        if not event.deleted:
            targets = endpoint_from_document(event.document).mirrors()
            mirrors = tuple(target.deployment.lower() for target in targets)
            for name, document in event.deployments.items():
                spec = deployment_from_document(document, endpoint_name=event.endpoint)
                per_replica[name] = spec.request_settings.max_concurrent_requests_per_instance
                if spec.extras.scheme == "https":
                    server_names[name] = spec.extras.server_name or ""
                if spec.extras.protocol == "http2":
                    http2.add(name)
        self.endpoints[event.endpoint] = replace(
            old,
            revision=event.revision,
            deleted=event.deleted,
            mirrors=mirrors,
            per_replica=per_replica,
            server_names=server_names,
            http2=frozenset(http2),
        )
        return event.endpoint

    def _replicas(self, event: EndpointReplicas) -> str | None:
        old = self.view(event.endpoint)
        # A higher generation is a later owner, whatever its versions; a lower one does not know yet that it is none.
        if (event.generation, event.version) <= (old.replicas_generation, old.replicas_version):
            return None
        replicas = {name: group.replicas for name, group in event.deployments.items()}
        self.endpoints[event.endpoint] = replace(
            old, replicas_generation=event.generation, replicas_version=event.version, replicas=replicas
        )
        return event.endpoint


async def follow(log: Log, directory: Directory, changed: Callable[[str], None], current: Callable[[], None]) -> None:
    """Fold the log into `directory` until cancelled; `current` is called once, when everything known was read."""
    reader = await log.reader((SPECS, REPLICAS))
    caught_up = False
    try:
        while True:
            if not caught_up and await reader.caught_up():
                caught_up = True
                current()
            for message in await reader.next(None if caught_up else 0.05):
                endpoint = directory.apply(message)
                if endpoint is not None:
                    changed(endpoint)
    finally:
        await reader.close()
