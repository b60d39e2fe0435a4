"""From what is wished and what runs to what to tell the backend and the gateways, one deployment at a time.

Nothing that may serve a request is removed before it was published as draining and every gateway let go of it. A new
template's replicas start beside the old ones (one more, or a fifth, than desired); an old one drains only when a new
one is ready in its place, so a template that cannot start leaves the old replicas serving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from autoscaler.policy.draining import Drain, Listeners, may_remove
from router.contract.events import DeploymentReplicas, Phase, Replica, ReplicaState

SURGE_FRACTION = 0.2
"""Replicas beyond the desired count while a template is exchanged, at least one (Azure: 20 % of the nodes)."""
ROUTED = (ReplicaState.READY, ReplicaState.UNREADY)
"""States in which a gateway may have sent requests to a replica."""


class Observed(Protocol):
    """A replica as a backend sees it."""

    @property
    def id(self) -> str: ...  # noqa: D102 -- as `autoscaler.backends.base.ObservedReplica`
    @property
    def template(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> ReplicaState: ...  # noqa: D102
    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def instance_type(self) -> str: ...  # noqa: D102
    @property
    def restarts(self) -> int: ...  # noqa: D102
    @property
    def created_ns(self) -> int: ...  # noqa: D102
    @property
    def ready_ns(self) -> int: ...  # noqa: D102
    @property
    def zone(self) -> str: ...  # noqa: D102


class Condition(Protocol):
    """How a backend is doing with a deployment."""

    @property
    def phase(self) -> Phase: ...  # noqa: D102 -- as `autoscaler.backends.base.Condition`
    @property
    def template(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def message(self) -> str: ...  # noqa: D102
    @property
    def log_tail(self) -> str: ...  # noqa: D102
    @property
    def progress(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be true of one deployment."""

    template: str
    """Empty for a deployment that is no more."""
    desired: int
    drain_seconds: float
    revision: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of one deployment at one moment."""

    home: Sequence[Observed] = ()
    """Replicas on the backend where the deployment belongs."""
    elsewhere: Sequence[Observed] = ()
    """Replicas on any other backend: old ones, whatever they run."""
    inherited: Sequence[Observed] = ()
    """Published replicas that an earlier owner runs: old ones too, but nothing has to make room for ours."""
    condition: Condition | None = None
    published: DeploymentReplicas | None = None
    """As the gateways were last told."""
    drains: Mapping[str, Drain] = field(default_factory=dict)
    """Victims so far, by replica id."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now about one deployment."""

    count: int
    """Replicas of the newest template that should exist at home, those in `remove` not counted."""
    remove: frozenset[str]
    drains: Mapping[str, Drain]
    replicas: DeploymentReplicas | None
    """What the gateways are to know; None when the deployment is gone for good."""


def step(scene: Scene, wish: Wish, listeners: Listeners, version: int, now_ns: int) -> Step:
    """The next step of one deployment. `version` is the `EndpointReplicas.version` that will publish it."""
    seen = {one.id: one for one in (*scene.home, *scene.elsewhere, *scene.inherited)}
    drains = {name: drain for name, drain in scene.drains.items() if name in seen}
    current = [one for one in scene.home if one.template == wish.template]
    ids = {one.id for one in current}
    old = [one for one in seen.values() if one.id not in ids]
    routed = _routed(scene)

    for name in _revived(current, drains, wish.desired):
        del drains[name]
    for one in _victims(current, old, drains, routed, wish.desired):
        drains[one.id] = Drain(now_ns, version, removing=one.id not in routed)
    for name, drain in drains.items():
        if may_remove(name, drain, listeners, wish.drain_seconds, now_ns):
            drains[name] = replace(drain, removing=True)

    remove = frozenset(name for name, drain in drains.items() if drain.removing)
    away = {one.id for one in scene.inherited}
    here = [one for one in old if one.id not in away]
    count = _count(current, here, drains, wish) if wish.template else 0
    return Step(count, remove, drains, _published(scene, wish, seen, drains, current))


def _routed(scene: Scene) -> frozenset[str]:
    """Ids of replicas that some gateway may know as serving."""
    told = scene.published.replicas if scene.published else ()
    return frozenset(one.id for one in told if one.state in ROUTED) | frozenset(scene.drains)


def _revived(current: Sequence[Observed], drains: Mapping[str, Drain], desired: int) -> list[str]:
    """Victims that are wanted after all: taking one back is faster than starting one."""
    missing = desired - sum(1 for one in current if one.id not in drains)
    willing = [
        one for one in current if one.id in drains and not drains[one.id].removing and one.state is ReplicaState.READY
    ]
    willing.sort(key=lambda one: drains[one.id].since_ns, reverse=True)
    return [one.id for one in willing[: max(0, missing)]]


def _victims(
    current: Sequence[Observed],
    old: Sequence[Observed],
    drains: Mapping[str, Drain],
    routed: frozenset[str],
    desired: int,
) -> list[Observed]:
    """Those who have to go now: what serves nobody first, then the newest."""
    staying = [one for one in current if one.id not in drains]
    surplus = _last_to_stay(staying)[: max(0, len(staying) - desired)]
    leaving = {one.id for one in surplus}
    ready = sum(1 for one in staying if one.state is ReplicaState.READY and one.id not in leaving)
    remaining = [one for one in old if one.id not in drains]
    useless = [one for one in remaining if one.id not in routed and one.state is not ReplicaState.READY]
    serving = [one for one in remaining if one not in useless]
    excess = _last_to_stay(serving)[: max(0, len(serving) - max(0, desired - ready))]
    return [*surplus, *useless, *excess]


def _last_to_stay(replicas: Sequence[Observed]) -> list[Observed]:
    """In the order in which they are given up."""
    return sorted(replicas, key=lambda one: (one.state is ReplicaState.READY, -one.created_ns, one.id))


def _count(current: Sequence[Observed], old: Sequence[Observed], drains: Mapping[str, Drain], wish: Wish) -> int:
    """Replicas of the newest template that should exist, draining ones included until they are removed."""
    draining = sum(1 for one in current if one.id in drains and not drains[one.id].removing)
    old_alive = sum(1 for one in old if one.id not in drains or not drains[one.id].removing)
    if not old_alive:
        return wish.desired + draining
    staying = sum(1 for one in current if one.id not in drains)
    surge = max(1, math.ceil(wish.desired * SURGE_FRACTION))
    room = wish.desired + surge - old_alive
    return min(wish.desired, max(room, staying)) + draining


def _published(
    scene: Scene,
    wish: Wish,
    seen: Mapping[str, Observed],
    drains: Mapping[str, Drain],
    current: Sequence[Observed],
) -> DeploymentReplicas | None:
    gone = scene.published is None or scene.published.phase is Phase.DELETING
    if not wish.template and not seen and gone:
        return None
    replicas = tuple(_replica(one, draining=one.id in drains) for one in sorted(seen.values(), key=lambda one: one.id))
    base = DeploymentReplicas(wish.desired, wish.revision, template=wish.template, replicas=replicas)
    if not wish.template:
        return replace(base, desired=0, phase=Phase.DELETING)
    ready = sum(1 for one in current if one.state is ReplicaState.READY and one.id not in drains)
    return described(base, scene.condition, ready, len(current))


def described(base: DeploymentReplicas, condition: Condition | None, ready: int, existing: int) -> DeploymentReplicas:
    """`base` with its phase: how far the newest template is, in the backend's words where it has some."""
    if condition is not None and condition.template != base.template:
        condition = None
    failed = condition is not None and condition.phase is Phase.FAILED
    if ready >= base.desired and not (failed and base.desired == 0):
        # What the backend has to say of a template that runs, such as packages it had to leave out, stays readable.
        note = condition.message if condition is not None and condition.phase is Phase.READY else ""
        return replace(base, phase=Phase.READY, message=note)
    if condition is not None and condition.phase in (Phase.FAILED, Phase.BUILDING):
        return replace(
            base,
            phase=condition.phase,
            reason=condition.reason,
            message=condition.message,
            log_tail=condition.log_tail,
            progress=condition.progress,
        )
    message = condition.message if condition is not None else ""
    if ready:
        return replace(base, phase=Phase.SCALING, message=message)
    return replace(base, phase=Phase.STARTING if existing else Phase.PENDING, message=message)


def _replica(one: Observed, *, draining: bool) -> Replica:
    return Replica(
        id=one.id,
        host=one.host,
        port=one.port,
        state=ReplicaState.DRAINING if draining else one.state,
        template=one.template,
        instance_type=one.instance_type,
        restarts=one.restarts,
        ready_ns=one.ready_ns,
        zone=one.zone,
    )
