"""What every backend does: say what runs, and make a plan so.

The same contract tests (`tests/backends`) run against every implementation. A backend never chooses a victim and never
kills a replica that was not named in `remove`; it replaces replicas that died by themselves, with back-off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from router.contract.events import Phase, ReplicaState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from router.runtime.exposition import Family

Target = tuple[str, str]
"""(endpoint, lower-case deployment name)."""


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """What should be true of one deployment."""

    endpoint: str
    deployment: str
    document: Mapping[str, Any]
    """The deployment's document as in `EndpointRevision.deployments`."""
    template: str
    """Identity of what a replica runs (`specs.template_hash`, plus the restart count)."""
    count: int
    """Replicas of `template` that should exist, those named in `remove` not counted."""
    remove: frozenset[str] = frozenset()
    """Ids of replicas to end now: drained, or of no more use. An id that is gone already is no error."""
    account: Mapping[str, str] = field(default_factory=dict)
    """The endpoint's `properties` about the account that its replicas act as: those that begin with `serviceaccount`."""
    gone: bool = False
    """The deployment does not belong here (any more): once its last replica has ended, nothing of it is kept."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole wish for one owner's deployments. A deployment absent from the plan is left as it is."""

    generation: int
    """Ownership generation of its endpoints: a backend that has seen a higher one for any of them refuses the whole plan
    with `Fenced`."""
    deployments: Mapping[Target, DeploymentPlan]


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """One replica as the backend sees it."""

    id: str
    endpoint: str
    deployment: str
    template: str
    state: ReplicaState
    """STARTING, READY or UNREADY; draining is the autoscaler's word, not the backend's."""
    host: str = ""
    port: int = 0
    instance_type: str = ""
    restarts: int = 0
    created_ns: int = 0
    ready_ns: int = 0
    zone: str = ""
    """Of its machine; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How one deployment is doing, where its replicas alone do not tell."""

    phase: Phase
    template: str
    """The template this speaks of."""
    reason: str = ""
    """Azure's word when failed: ImageBuildFailure, UserScriptInitFailed, ReadinessProbeFailed, OutOfQuota, …"""
    message: str = ""
    log_tail: str = ""
    progress: float = 1.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything a backend runs, at one moment."""

    replicas: tuple[ObservedReplica, ...] = ()
    conditions: Mapping[Target, Condition] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    """Endpoint → the highest ownership generation that is known to have acted for it here, whoever's."""
    blind: str = ""
    """Why nothing could be seen so far, as a sentence; the rest is empty then and says nothing about what runs."""


class Backend(Protocol):
    """One kind of compute."""

    name: str

    async def start(self) -> None:
        """Take ownership: adopt what an earlier owner left running, reap what nobody wants, end zombies."""

    def observe(self) -> AsyncIterator[Observation]:
        """The whole state at once, then again after every change (bursts may be merged)."""

    async def apply(self, plan: Plan) -> None:
        """Make `plan` so, idempotently; returns when the wish is recorded, not when it has come true.

        Raises `Fenced` for a generation older than one already seen for the same endpoint.
        """

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        """The newest `lines` lines of the deployment's output, oldest first, each behind its replica's id."""

    def figures(self) -> Iterable[Family]:
        """What it counts about itself, for Prometheus."""

    async def close(self, *, end_replicas: bool) -> None:
        """Let go. With `end_replicas`, every replica ends first; otherwise they run on for the next owner to adopt."""
