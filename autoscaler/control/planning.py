"""What to tell the gateways and the backends about one endpoint, and what others have told about it.

Ours is to act where the territory says so. Where we act no more, the new owner's word decides what becomes of the
replicas on our backends: those it still lists serve on, all others end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from autoscaler.backends.base import ObservedReplica, Plan
from autoscaler.control.fleet import Fleet
from autoscaler.control.sightings import Sightings
from autoscaler.control.territory import Territory
from autoscaler.control.versions import Versions
from autoscaler.control.wishes import Drafts, Wishes
from autoscaler.policy.demand import Target
from autoscaler.policy.draining import Drain, Listeners
from autoscaler.policy.plan import ROUTED, Scene, Step, Wish, step
from router.contract.events import DeploymentReplicas, EndpointReplicas, Phase, Replica, ReplicaState

ListenersOf = Callable[[str], Listeners]
"""Endpoint → who routes by what is published about it."""


@dataclass(slots=True)
class Rivals:
    """How often somebody else has spoken about an endpoint of ours."""

    fenced: int = 0
    """Rightly: with a higher generation, so that we stopped."""
    outdone: int = 0
    """Wrongly: late, so that our word was said again."""


class Planner:
    """What was published, what drains, what each backend has been told."""

    def __init__(
        self,
        *,
        backends: Collection[str],
        default_backend: str,
        sharing: bool,
        fleet: Fleet,
        sightings: Sightings,
        territory: Territory,
    ) -> None:
        self.published: dict[str, EndpointReplicas] = {}
        """Endpoint → the newest word about it, whoever's."""
        self.drains: dict[Target, dict[str, Drain]] = {}
        self.dirty: set[str] = set()
        """Endpoints that something has happened to since they were planned."""
        self.planned: set[str] = set()
        """Endpoints that the last `plan` was about."""
        self.rivals = Rivals()
        self._backends = frozenset(backends)
        self._default = default_backend
        self._sharing = sharing
        self._fleet = fleet
        self._sightings = sightings
        self._territory = territory
        self._wishes = Wishes()
        self._spoken: set[str] = set()
        """Endpoints whose newest word is ours, said in this life."""
        self._announce: set[str] = set()
        """Endpoints to speak about although nothing has changed: somebody has to know whose they are."""
        self._versions = Versions()
        self._inherited: dict[str, dict[str, dict[str, ObservedReplica]]] = {}
        """Endpoint → deployment → published replicas that none of our backends runs: an earlier owner's, who keeps them while they are listed."""
        self._foreign: dict[str, tuple[int, frozenset[str]]] = {}
        """Endpoint → our generation in an earlier life, and which published replicas were not ours then."""

    # what others say ---------------------------------------------------------------------------------------------

    def take(self, event: EndpointReplicas, *, own: bool, again: bool) -> None:
        """A word about an endpoint. `own`: this process said it. `again`: it may have been read before."""
        endpoint, known = event.endpoint, self.published.get(event.endpoint)
        acting = self._territory.acts_for(endpoint)
        if own and (acting or endpoint in self._spoken):
            return
        ours = self._territory.generation(endpoint) if acting else 0
        self._territory.heard(endpoint, event.generation)
        self._versions.said(endpoint, event.version)
        newer = known is None or event.version > known.version
        if not acting:
            if known is None or (event.generation, event.version) >= (known.generation, known.version):
                self._replaced(event)
        elif event.generation > ours or (event.generation == ours and newer and not self._territory.confirmed):
            self.fence(endpoint)
            self._replaced(event)
        elif endpoint not in self._spoken:
            if newer:  # what we should have known when we took the endpoint over
                self._replaced(event)
                self.adopt(endpoint)
        elif event.generation == ours:
            if self._territory.confirmed:
                self._territory.outdo(endpoint)
                self._answer(endpoint)
        elif not again or known is None or event.version >= known.version:
            self._answer(endpoint)  # whatever its version: a compacted log keeps the word that was said last

    def acted(self, endpoint: str, generation: int, *, first: bool) -> None:
        """A backend was last told about `endpoint` with `generation`.

        At our `first` look at that backend it was an earlier owner, whom a log that was lost no longer knows: it is outdone.
        Later it is somebody who took over from us, and the backend's refusal tells us.
        """
        if not self._territory.acts_for(endpoint):
            self._territory.heard(endpoint, generation)
        elif first and self._territory.confirmed and generation > self._territory.generation(endpoint):
            self._territory.heard(endpoint, generation)
            self._territory.outdo(endpoint)
            self._answer(endpoint)

    def named(self, endpoint: str, version: int) -> None:
        """A reporter routes by the word about `endpoint` with this number. One that nobody here knows is outdone."""
        if self._versions.named(endpoint, version):
            self.dirty.add(endpoint)

    def _answer(self, endpoint: str) -> None:
        """Say our word about `endpoint` again: somebody may have taken another for the newest."""
        self.rivals.outdone += 1
        self._announce.add(endpoint)
        self.dirty.add(endpoint)

    def _replaced(self, event: EndpointReplicas) -> None:
        self.published[event.endpoint] = event
        self._spoken.discard(event.endpoint)
        self.dirty.add(event.endpoint)

    def fence(self, endpoint: str) -> None:
        """A newer owner acts for `endpoint`: leave it alone until the shares are dealt anew."""
        if self._territory.acts_for(endpoint):
            self._territory.fenced.add(endpoint)
            self._fleet.moved()
            self.rivals.fenced += 1

    # taking over and letting go ----------------------------------------------------------------------------------

    def remember(self, endpoint: str, generation: int, inherited: frozenset[str]) -> None:
        """In an earlier life we acted for `endpoint` with `generation`, and `inherited` did not run on our backends."""
        self._foreign[endpoint] = (generation, inherited)

    def adopt(self, endpoint: str) -> None:
        """Act for `endpoint` from now on: with what was published about it, unless our own memory is as new."""
        remembered = endpoint in self._spoken and not self._territory.overtaken(endpoint)
        self._territory.take(endpoint)
        self.dirty.add(endpoint)
        last = self.published.get(endpoint)
        if remembered or last is None:
            return
        self._wishes.unsend(endpoint)
        for name, told in last.deployments.items():
            target = (endpoint, name)
            self._wishes.know(target, {}, told.template)
            self.drains[target] = {
                one.id: Drain(last.at_ns, last.version) for one in told.replicas if one.state is ReplicaState.DRAINING
            }
            if self._sharing:
                others = self._others(target, told, last.generation)
                self._inherited.setdefault(endpoint, {})[name] = others
        if self._sharing and self._territory.confirmed and last.deployments:
            self._announce.add(endpoint)

    def _others(self, target: Target, told: DeploymentReplicas, generation: int) -> dict[str, ObservedReplica]:
        """Replicas of an earlier owner that may serve: routing must not lose them before ours are ready."""
        foreign = self._foreign.get(target[0])
        ids = foreign[1] if foreign is not None and foreign[0] == generation else None
        return {
            one.id: _seen_elsewhere(target, one)
            for one in told.replicas
            if one.state in (*ROUTED, ReplicaState.DRAINING) and (ids is None or one.id in ids)
        }

    def drop(self, endpoints: Collection[str]) -> None:
        """These are somebody else's now."""
        for endpoint in endpoints:
            self._inherited.pop(endpoint, None)
            self._foreign.pop(endpoint, None)
            self._spoken.discard(endpoint)
            self._announce.discard(endpoint)
            self.dirty.add(endpoint)
        for target in [target for target in self.drains if target[0] in endpoints]:
            del self.drains[target]
        self._wishes.drop(endpoints)

    def inherited(self, endpoint: str) -> set[str]:
        """Ids of published replicas of `endpoint` that none of our backends runs."""
        return {name for ids in self._inherited.get(endpoint, {}).values() for name in ids}

    def word(self, endpoint: str) -> EndpointReplicas | None:
        """What gateways should route `endpoint` by, if that is ours to say."""
        return self.published.get(endpoint) if self._territory.acts_for(endpoint) else None

    # backends ----------------------------------------------------------------------------------------------------

    def may_apply(self, endpoint: str, generation: int) -> bool:
        """Whether a plan for `endpoint` that was made with `generation` may still be handed to a backend."""
        return generation == self._generation(endpoint)

    def _generation(self, endpoint: str) -> int | None:
        """The generation with which backends may be told about `endpoint` now; None when they may not at all."""
        if self._territory.acts_for(endpoint):
            return self._territory.generation(endpoint)
        last = self.published.get(endpoint)
        taken_over = last is not None and last.generation > self._territory.last_generation(endpoint)
        if last is None or not taken_over or not self._sharing or self._territory.follows(endpoint):
            return None
        # Below the new owner's, so that on a backend that both of us share nothing of this can be done to it.
        return last.generation - 1

    def withheld(self, backend: str, target: Target) -> None:
        """What was planned for `target` was not handed over."""
        self._wishes.withheld(backend, target)
        self.dirty.add(target[0])

    def not_applied(self, backend: str) -> None:
        """The last plan for `backend` did not arrive: everything it should know is sent again."""
        self.dirty |= self._wishes.not_applied(backend)

    def home(self, target: Target) -> str:
        """The backend on which `target` belongs: the one it asks for, else that of its kind if there is one here."""
        sizing = self._fleet.sizings.get(target)
        if sizing is None:
            return self._default
        return sizing.backend or (sizing.kind.value if sizing.kind.value in self._backends else self._default)

    def knows(self, target: Target) -> bool:
        """Whether there is, or was until lately, such a deployment."""
        last = self.published.get(target[0])
        return target in self._fleet.sizings or (last is not None and target[1] in last.deployments)

    # planning ----------------------------------------------------------------------------------------------------

    def plan(self, listeners: ListenersOf, now_ns: int) -> tuple[list[EndpointReplicas], dict[str, tuple[Plan, ...]]]:
        """What to publish, then what to tell each backend, about everything that something happened to."""
        drafts, told = Drafts(), []
        self.dirty |= {target[0] for target, drains in self.drains.items() if drains}
        self.planned, self.dirty = self.dirty, set()
        for endpoint in sorted(self.planned):
            if not self._territory.acts_for(endpoint):
                self._leave(endpoint, drafts)
                continue
            event = self._endpoint(endpoint, listeners(endpoint), drafts, now_ns)
            if event is not None:
                self.published[endpoint] = event
                self._spoken.add(endpoint)
                self._announce.discard(endpoint)
                self._versions.said(endpoint, event.version)
                told.append(event)
        return told, drafts.plans()

    def _leave(self, endpoint: str, drafts: Drafts) -> None:
        """On our backends, end what the new owner of `endpoint` does not route to (any more)."""
        generation, last = self._generation(endpoint), self.published.get(endpoint)
        if generation is None or last is None:
            return
        listed = {one.id for told in last.deployments.values() for one in told.replicas}
        for name in self._sightings.running(endpoint):
            for backend in self._backends:
                there = {one.id for one in self._sightings.of(backend, (endpoint, name)).replicas}
                if there:
                    plan = self._wishes.plan((endpoint, name), 0, there - listed)
                    self._wishes.tell(backend, generation, plan, drafts)

    def _endpoint(self, endpoint: str, listeners: Listeners, drafts: Drafts, now_ns: int) -> EndpointReplicas | None:
        last = self.published.get(endpoint)
        version = self._versions.next(endpoint, first=endpoint not in self._spoken)
        if self._versions.outnumbered(endpoint):
            self._announce.add(endpoint)
            self._lift(endpoint, version)
        deployments: dict[str, DeploymentReplicas] = {}
        for name in sorted(self._names(endpoint)):
            target = (endpoint, name)
            if target in self._fleet.unreadable and target not in self._fleet.sizings:
                deployments[name] = self._refused(target, last.deployments.get(name) if last else None)
                continue
            if self._sightings.blind(self.home(target)):
                deployments[name] = self._unseen(target, last.deployments.get(name) if last else None)
                continue
            made = self._step(target, listeners, version, now_ns)
            self._wish(target, made, drafts)
            self.drains[target] = dict(made.drains)
            if made.replicas is None:
                self._forget(target)
                continue
            deployments[name] = self._amended(target, made.replicas)
            if made.replicas.phase is Phase.DELETING:
                self.dirty.add(endpoint)
        if last is not None and dict(last.deployments) == deployments and endpoint not in self._announce:
            return None
        if last is None and not deployments:
            return None
        return EndpointReplicas(endpoint, version, self._territory.generation(endpoint), now_ns, deployments)

    def _lift(self, endpoint: str, version: int) -> None:
        """What drains has to be acknowledged anew, by the number `version`: lower ones may stand for another's words."""
        for target in [target for target in self.drains if target[0] == endpoint]:
            drains = self.drains[target]
            self.drains[target] = {
                name: one if one.removing else replace(one, version=version) for name, one in drains.items()
            }

    def _names(self, endpoint: str) -> set[str]:
        """Every deployment of `endpoint` that is wished for, was published, or still runs."""
        revision = self._fleet.revisions.get(endpoint)
        names = set(revision.deployments) if revision is not None and not revision.deleted else set()
        last = self.published.get(endpoint)
        names |= set(last.deployments) if last else set()
        return names | self._sightings.running(endpoint)

    def _step(self, target: Target, listeners: Listeners, version: int, now_ns: int) -> Step:
        sizing = self._fleet.sizings.get(target)
        revision = self._fleet.revisions.get(target[0])
        last = self.published.get(target[0])
        home = self.home(target)
        sighting = self._sightings.of(home, target)
        inherited = self._inherited.get(target[0], {}).get(target[1], {})
        for name in self._sightings.ids(target) & inherited.keys():
            del inherited[name]
        scene = Scene(
            home=sighting.replicas,
            elsewhere=self._sightings.elsewhere(home, target),
            inherited=tuple(inherited.values()),
            condition=sighting.condition,
            published=last.deployments.get(target[1]) if last else None,
            drains=self.drains.get(target, {}),
        )
        wish = Wish(
            template=sizing.template if sizing else "",
            desired=self._fleet.desired(target),
            drain_seconds=sizing.drain_seconds if sizing else self._drain_seconds(target),
            revision=revision.revision if revision else 0,
        )
        made = step(scene, wish, listeners, version, now_ns)
        for name in made.remove & inherited.keys():  # whoever runs it ends it when it is no longer listed
            del inherited[name]
            self.dirty.add(target[0])
        return made

    def _drain_seconds(self, target: Target) -> float:
        """Of a deployment that is no more: as its last document said, else Azure's longest request."""
        extras = self._wishes.document(target).get("tidegate") or {}
        return float(extras.get("drain_seconds", 300.0))

    def _wish(self, target: Target, made: Step, drafts: Drafts) -> None:
        """Note what each backend has to be told about `target`."""
        sizing = self._fleet.sizings.get(target)
        if sizing is not None and target not in self._fleet.unreadable:
            document = self._fleet.revisions[target[0]].deployments[target[1]]
            self._wishes.know(target, document, sizing.template)
        home, generation = self.home(target), self._territory.generation(target[0])
        account = self._account(target[0])
        for backend in self._backends:
            there = {one.id for one in self._sightings.of(backend, target).replicas}
            gone = sizing is None or backend != home
            if self._sightings.blind(backend):
                continue
            if backend == home or there or sizing is None or self._wishes.sent(backend, target):
                count = made.count if backend == home else 0
                plan = self._wishes.plan(target, count, made.remove & there, account=account, gone=gone)
                self._wishes.tell(backend, generation, plan, drafts)

    def _amended(self, target: Target, told: DeploymentReplicas) -> DeploymentReplicas:
        """What the backend cannot say: that it is not there."""
        home = self.home(target)
        if target in self._fleet.sizings and home not in self._backends and told.desired:
            there = ", ".join(sorted(self._backends)) or "none"
            message = f"there is no backend '{home}' here; running backends: {there}"
            return replace(told, phase=Phase.FAILED, reason="BackendUnavailable", message=message)
        if target in self._fleet.unreadable:
            return replace(told, phase=Phase.FAILED, reason="BadArgument", message=self._fleet.unreadable[target])
        return told

    def _account(self, endpoint: str) -> dict[str, str]:
        """What the endpoint says about the account that its replicas act as."""
        revision = self._fleet.revisions.get(endpoint)
        properties = (revision.document.get("properties") or {}) if revision is not None else {}
        return {str(name): str(value) for name, value in properties.items() if str(name).startswith("serviceaccount")}

    def _unseen(self, target: Target, last: DeploymentReplicas | None) -> DeploymentReplicas:
        """Its backend cannot say what runs: routing stays as it is, and nothing is told to anybody."""
        revision = self._fleet.revisions.get(target[0])
        told = last or DeploymentReplicas(self._fleet.desired(target), revision.revision if revision else 0)
        home = self.home(target)
        return replace(told, message=f"backend '{home}' cannot say what runs there: {self._sightings.blind(home)}")

    def _refused(self, target: Target, last: DeploymentReplicas | None) -> DeploymentReplicas:
        """A document that cannot be read changes nothing about what runs."""
        revision = self._fleet.revisions[target[0]].revision
        told = replace(last or DeploymentReplicas(0, revision), revision=revision, phase=Phase.FAILED)
        return replace(told, reason="BadArgument", message=self._fleet.unreadable[target])

    def _forget(self, target: Target) -> None:
        self.drains.pop(target, None)
        self._wishes.forget(target)
        self._inherited.get(target[0], {}).pop(target[1], None)


def _seen_elsewhere(target: Target, one: Replica) -> ObservedReplica:
    state = ReplicaState.READY if one.state is ReplicaState.DRAINING else one.state
    return ObservedReplica(
        one.id, *target, one.template, state, one.host, one.port, one.instance_type, one.restarts, ready_ns=one.ready_ns,
        zone=one.zone,
    )  # fmt: skip
