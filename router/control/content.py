"""What the store keeps of one endpoint, as plain frozen values: its content, its keys, its newest revision, a change.

A content is whole: the endpoint's document, every deployment's document and the restart counts belong to one revision.
Nothing here knows SQLite, HTTP or the log.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.contract.events import EndpointRevision
from router.policy.cohorts import Cohorts, deal

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """One endpoint, whole."""

    document: Document
    """The endpoint's document in Azure's YAML keys; deployments are named in lower case."""
    deployments: Mapping[str, Document] = field(default_factory=dict)
    """Lower-case name → the deployment's document."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Deployment → how often its replicas were asked to be replaced."""
    cohorts: Cohorts = field(default_factory=dict)
    """Where callers stick: which hundredths of them each deployment has."""

    def to_text(self) -> str:
        """JSON, in a form that `from_text` reads back to an equal value."""
        body = {"document": self.document, "deployments": self.deployments, "restarts": self.restarts}
        body |= {"cohorts": self.cohorts} if self.cohorts else {}
        return json.dumps(body, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Content:
        """Inverse of `to_text`."""
        body = json.loads(text)
        cohorts = {name: tuple(parts) for name, parts in body.get("cohorts", {}).items()}
        return cls(body["document"], body["deployments"], body["restarts"], cohorts)

    def replace(self, **changes: Any) -> Content:
        """The same content with some parts replaced."""
        return dataclasses.replace(self, **changes)

    def after(self, before: Content | None) -> Content:
        """The same with callers dealt to deployments by its traffic, so that as few as possible of those `before` move."""
        sticky = (self.document.get("tidegate") or {}).get("stickiness")
        cohorts = deal(self.traffic, before.cohorts if before is not None else {}) if sticky else {}
        return self if cohorts == self.cohorts else self.replace(cohorts=cohorts)

    @property
    def traffic(self) -> dict[str, int]:
        """Every deployment → its percent of the live traffic, 0 where the document does not name it."""
        return dict.fromkeys(sorted(self.deployments), 0) | dict(self.document.get("traffic") or {})

    @property
    def mirror_traffic(self) -> dict[str, int]:
        """The document's `mirror_traffic`, without deployments that get nothing."""
        return {name: percent for name, percent in (self.document.get("mirror_traffic") or {}).items() if percent}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The two keys that open an endpoint. Their text appears in no representation, so no log line can show it."""

    primary: str = field(repr=False)
    secondary: str = field(repr=False)

    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of both, in hex: what gateways get."""
        return tuple(hashlib.sha256(key.encode()).hexdigest() for key in (self.primary, self.secondary))


class OperationKind(enum.StrEnum):
    """What an operation does."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTART = "restart"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Standing:
    """An endpoint as of its newest revision; a deleted one stands on as `deleted`, so that numbers never repeat."""

    endpoint: str
    """Canonical (lower-case) name."""
    revision: int
    at_ns: int
    content: Content
    deleted: bool
    keys: KeyPair | None
    key_hashes: tuple[str, ...] = ()

    def event(self) -> EndpointRevision:
        """The fact that every other process gets."""
        return EndpointRevision(
            self.endpoint,
            self.revision,
            self.at_ns,
            self.content.document,
            self.content.deployments,
            self.key_hashes,
            self.deleted,
            self.content.restarts,
            self.content.cohorts,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One decided change: everything that one transaction writes as the next revision."""

    kind: OperationKind
    content: Content
    words: str
    """The change as a person would say it, for the list of revisions."""
    deployment: str | None = None
    """The one deployment it is about; None when it is about the endpoint."""
    deleted: bool = False
    keys: KeyPair | None = None
    """New keys; None keeps the current ones."""
    all_traffic: bool = False
    """Give the deployment all live traffic once it is ready."""
    created: bool = False
    """Whether the resource was not there before."""
