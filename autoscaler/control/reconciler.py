"""The turn: facts in, messages and plans out. No I/O and no clock, so that a test can move its time by hand.

`take_*` notes facts; `turn` folds, decides, plans, and returns what to append to the log and what to apply. Only
endpoints that something happened to are planned anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autoscaler.backends.base import DeploymentPlan, Observation, Plan
from autoscaler.control.fleet import Fleet
from autoscaler.control.sightings import Sightings
from autoscaler.policy import demand
from autoscaler.policy.decider import Decisions, Reason, decide, signals_of
from autoscaler.policy.demand import DemandState, Heard, Target
from autoscaler.policy.draining import Drain, Listeners
from autoscaler.policy.explain import inputs_of, sentence
from autoscaler.policy.plan import Scene, Step, Wish, step
from router.contract.events import (
    Decision,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    Phase,
    ReplicaState,
)

REPORTER_MEMORY_NS = 3600 * 10**9
"""A reporter silent this long is forgotten."""
RECENT_REPORTER_NS = 60 * 10**9
"""At the start, reporters heard within this time are waited for before anything shrinks."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn wants done: append first, then apply."""

    replicas: tuple[EndpointReplicas, ...] = ()
    decisions: tuple[Decision, ...] = ()
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """Backend → its plan."""


class Reconciler:
    """The autoscaler's whole memory."""

    def __init__(self, *, backends: Collection[str], default_backend: str, silent_seconds: float) -> None:
        self.generation = 0
        """Highest generation on the log until `begin`; from then on our own."""
        self.demand = DemandState()
        self.fleet = Fleet()
        self.published: dict[str, EndpointReplicas] = {}
        self._backends = frozenset(backends)
        self._default = default_backend
        self._silent_seconds = silent_seconds
        self._heard: list[Heard] = []
        self._sightings = Sightings()
        self._drains: dict[Target, dict[str, Drain]] = {}
        self._known: dict[Target, tuple[Mapping[str, Any], str]] = {}
        """Document and template of each deployment, the last ones of a deployment that is being deleted."""
        self._sent: dict[tuple[str, Target], DeploymentPlan] = {}
        self._dirty: set[str] = set()
        self._recount = True
        self._awaited: set[str] = set()
        self._began_ns: int | None = None
        self._pruned_ns = 0

    # facts -----------------------------------------------------------------------------------------------------

    def take_specs(self, revision: EndpointRevision) -> None:
        """A revision of an endpoint."""
        self.fleet.take(revision)

    def take_replicas(self, event: EndpointReplicas) -> None:
        """What an earlier owner published: adopted at the start, so that nothing is forgotten by a restart."""
        known = self.published.get(event.endpoint)
        if self._began_ns is not None or (known is not None and event.version < known.version):
            return
        self.published[event.endpoint] = event
        self.generation = max(self.generation, event.generation)
        for name, told in event.deployments.items():
            self._known[event.endpoint, name] = ({}, told.template)
            self._drains[event.endpoint, name] = {
                one.id: Drain(event.at_ns, event.version) for one in told.replicas if one.state is ReplicaState.DRAINING
            }
        self._dirty.add(event.endpoint)

    def take_demand(self, heard: Heard) -> bool:
        """A demand message. True when it should not wait: somebody asks a deployment that has no replica."""
        self._heard.append(heard)
        return any(
            (row.queued or row.arrivals) and not self.fleet.desired((heard.report.endpoint, row.deployment))
            for row in heard.report.rows
        )

    def take_observation(self, backend: str, observation: Observation) -> None:
        """All that `backend` runs now."""
        self._dirty |= self._sightings.take(backend, observation)
        self._recount = True

    def begin(self, generation: int, now_ns: int) -> None:
        """Everything that was is known: from the next turn on, act."""
        self.generation = generation
        self.demand = demand.fold(self.demand, self._heard)
        self._heard = []
        self._began_ns = now_ns
        self._awaited = {
            writer
            for writer, at_ns in self.demand.spoke_ns.items()
            if writer not in self.demand.mirrors and now_ns - at_ns <= RECENT_REPORTER_NS
        }

    def home_of(self, target: Target) -> str | None:
        """The backend that `target` runs on; None for a deployment nobody knows."""
        last = self.published.get(target[0])
        known = target in self.fleet.sizings or (last is not None and target[1] in last.deployments)
        return self._home(target) if known else None

    def not_applied(self, backend: str) -> None:
        """The last plan for `backend` did not arrive: everything it should know is sent again."""
        for key in [key for key in self._sent if key[0] == backend]:
            self._dirty.add(key[1][0])
            del self._sent[key]

    # the turn --------------------------------------------------------------------------------------------------

    def turn(self, now_ns: int) -> Turn:
        """Fold what was heard, decide, plan."""
        if self._began_ns is None:
            return Turn()
        heard, self._heard = self._heard, []
        self._awaited -= {one.writer for one in heard}
        self.demand = demand.fold(self.demand, heard)
        changed = self.fleet.rebuild(self.demand, self.published)
        self._dirty |= changed
        if self._recount or changed:
            self._count()
        decisions = self._decide(now_ns)
        if now_ns - self._pruned_ns > RECENT_REPORTER_NS:
            self._pruned_ns = now_ns
            demand.prune(self.demand, now_ns - REPORTER_MEMORY_NS)
        return self._plan(decisions, now_ns)

    def _decide(self, now_ns: int) -> tuple[Decision, ...]:
        if not self.fleet.targets:
            return ()
        load = demand.load_at(self.demand, now_ns, round(self._silent_seconds * 1e9))
        made = decide(
            signals_of(load, self.fleet.table, self.fleet.rows),
            self.fleet.table,
            self.fleet.standing,
            now_ns,
            shrink=self._may_shrink(now_ns),
        )
        moved = np.flatnonzero(made.desired != self.fleet.standing.desired).tolist()
        self.fleet.standing = made.standing
        self._dirty |= {self.fleet.targets[row][0] for row in moved}
        if moved:
            self._count()
        return tuple(self._decision(made, row, now_ns) for row in moved)

    def _may_shrink(self, now_ns: int) -> bool:
        """After a restart nothing shrinks before every reporter of before was heard, or has been silent too long."""
        return not self._awaited or now_ns - (self._began_ns or 0) > self._silent_seconds * 1e9

    def _decision(self, made: Decisions, row: int, now_ns: int) -> Decision:
        endpoint, deployment = self.fleet.targets[row]
        inputs = inputs_of(made, self.fleet.table, row)
        reason = Reason(int(made.reason[row]))
        return Decision(
            endpoint=endpoint,
            deployment=deployment,
            at_ns=now_ns,
            previous=int(made.previous[row]),
            desired=int(made.desired[row]),
            reason=sentence(reason, inputs),
            generation=self.generation,
            inputs={**inputs, "reason": float(reason)},
        )

    def _count(self) -> None:
        """Ready, pending and failed per row, from the observations."""
        size = len(self.fleet.targets)
        ready, pending, failed = np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.bool_)
        for row, target in enumerate(self.fleet.targets):
            sizing = self.fleet.sizings[target]
            home = self._home(target)
            sighting, drains = self._sightings.of(home, target), self._drains.get(target, {})
            mine = [one for one in sighting.replicas if one.template == sizing.template and one.id not in drains]
            ready[row] = sum(1 for one in mine if one.state is ReplicaState.READY)
            pending[row] = len(mine) - ready[row]
            condition = sighting.condition
            failed[row] = home not in self._backends or (
                condition is not None and condition.phase is Phase.FAILED and condition.template == sizing.template
            )
        self.fleet.standing = replace(self.fleet.standing, ready=ready, pending=pending, failed=failed)
        self._recount = False

    # planning --------------------------------------------------------------------------------------------------

    def _plan(self, decisions: tuple[Decision, ...], now_ns: int) -> Turn:
        plans: dict[str, dict[Target, DeploymentPlan]] = {}
        told = []
        self._dirty |= {target[0] for target, drains in self._drains.items() if drains}
        dirty, self._dirty = self._dirty, set()
        for endpoint in sorted(dirty):
            event = self._endpoint(endpoint, plans, now_ns)
            if event is not None:
                self.published[endpoint] = event
                told.append(event)
        ready = {name: Plan(self.generation, wishes) for name, wishes in plans.items()}
        return Turn(tuple(told), decisions, ready)

    def _endpoint(
        self, endpoint: str, plans: dict[str, dict[Target, DeploymentPlan]], now_ns: int
    ) -> EndpointReplicas | None:
        last = self.published.get(endpoint)
        version = (last.version if last else 0) + 1
        listeners = Listeners(
            self.demand.words.get(endpoint, {}), self.demand.spoke_ns, self.demand.mirrors, self._silent_seconds
        )
        deployments: dict[str, DeploymentReplicas] = {}
        for name in sorted(self._names(endpoint)):
            target = (endpoint, name)
            if target in self.fleet.unreadable and target not in self.fleet.sizings:
                deployments[name] = self._refused(target, last.deployments.get(name) if last else None)
                continue
            made = self._step(target, listeners, version, now_ns)
            self._wish(target, made, plans)
            self._drains[target] = dict(made.drains)
            if made.replicas is None:
                self._forget(target)
                continue
            deployments[name] = self._amended(target, made.replicas)
            if made.replicas.phase is Phase.DELETING:
                self._dirty.add(endpoint)
        if last is not None and dict(last.deployments) == deployments:
            return None
        if last is None and not deployments:
            return None
        return EndpointReplicas(endpoint, version, self.generation, now_ns, deployments)

    def _names(self, endpoint: str) -> set[str]:
        """Every deployment of `endpoint` that is wished for, was published, or still runs."""
        revision = self.fleet.revisions.get(endpoint)
        names = set(revision.deployments) if revision is not None and not revision.deleted else set()
        last = self.published.get(endpoint)
        names |= set(last.deployments) if last else set()
        return names | self._sightings.running(endpoint)

    def _step(self, target: Target, listeners: Listeners, version: int, now_ns: int) -> Step:
        sizing = self.fleet.sizings.get(target)
        revision = self.fleet.revisions.get(target[0])
        last = self.published.get(target[0])
        home = self._home(target)
        sighting = self._sightings.of(home, target)
        scene = Scene(
            home=sighting.replicas,
            elsewhere=self._sightings.elsewhere(home, target),
            condition=sighting.condition,
            published=last.deployments.get(target[1]) if last else None,
            drains=self._drains.get(target, {}),
        )
        wish = Wish(
            template=sizing.template if sizing else "",
            desired=self.fleet.desired(target),
            drain_seconds=sizing.drain_seconds if sizing else self._drain_seconds(target),
            revision=revision.revision if revision else 0,
        )
        return step(scene, wish, listeners, version, now_ns)

    def _drain_seconds(self, target: Target) -> float:
        """Of a deployment that is no more: as its last document said, else Azure's longest request."""
        document, _ = self._known.get(target, ({}, ""))
        extras = document.get("tidegate") or {}
        return float(extras.get("drain_seconds", 300.0))

    def _home(self, target: Target) -> str:
        """The backend on which `target` belongs: the one it asks for, else that of its kind if there is one here."""
        sizing = self.fleet.sizings.get(target)
        if sizing is None:
            return self._default
        return sizing.backend or (sizing.kind.value if sizing.kind.value in self._backends else self._default)

    def _wish(self, target: Target, made: Step, plans: dict[str, dict[Target, DeploymentPlan]]) -> None:
        """Note what each backend has to be told about `target`, as far as it does not know it yet."""
        sizing = self.fleet.sizings.get(target)
        if sizing is not None and target not in self.fleet.unreadable:
            self._known[target] = (self.fleet.revisions[target[0]].deployments[target[1]], sizing.template)
        document, template = self._known.get(target, ({}, ""))
        home = self._home(target)
        for backend in self._backends:
            there = {one.id for one in self._sightings.of(backend, target).replicas}
            key = (backend, target)
            if backend != home and not there and key not in self._sent:
                continue
            plan = DeploymentPlan(
                endpoint=target[0],
                deployment=target[1],
                document=document,
                template=template,
                count=made.count if backend == home else 0,
                remove=made.remove & there,
            )
            if self._sent.get(key) != plan:
                self._sent[key] = plan
                plans.setdefault(backend, {})[target] = plan

    def _amended(self, target: Target, told: DeploymentReplicas) -> DeploymentReplicas:
        """What the backend cannot say: that it is not there."""
        home = self._home(target)
        if target in self.fleet.sizings and home not in self._backends and told.desired:
            there = ", ".join(sorted(self._backends)) or "none"
            message = f"there is no backend '{home}' here; running backends: {there}"
            return replace(told, phase=Phase.FAILED, reason="BackendUnavailable", message=message)
        if target in self.fleet.unreadable:
            return replace(told, phase=Phase.FAILED, reason="BadArgument", message=self.fleet.unreadable[target])
        return told

    def _refused(self, target: Target, last: DeploymentReplicas | None) -> DeploymentReplicas:
        """A document that cannot be read changes nothing about what runs."""
        revision = self.fleet.revisions[target[0]].revision
        told = replace(last or DeploymentReplicas(0, revision), revision=revision, phase=Phase.FAILED)
        return replace(told, reason="BadArgument", message=self.fleet.unreadable[target])

    def _forget(self, target: Target) -> None:
        self._drains.pop(target, None)
        self._known.pop(target, None)
        for key in [(backend, target) for backend in self._backends]:
            self._sent.pop(key, None)
