"""The turn: facts in, messages and plans out. No I/O and no clock, so that a test can move its time by hand.

`take_*` notes facts; `turn` folds, decides, plans, and returns what to append to the log and what to apply. Only
endpoints that something happened to are planned anew, and only those that are ours to act for at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from autoscaler.backends.base import Observation, Plan
from autoscaler.control.fleet import Fleet
from autoscaler.control.planning import Planner
from autoscaler.control.sightings import Sightings
from autoscaler.control.territory import Territory
from autoscaler.policy import demand, snapshot
from autoscaler.policy.decider import LATER, Decisions, Reason, decide, signals_of
from autoscaler.policy.demand import DemandState, Heard, Target
from autoscaler.policy.draining import Listeners
from autoscaler.policy.explain import inputs_of, sentence
from router.contract.events import (
    Decision,
    EndpointReplicas,
    EndpointRevision,
    EndpointSnapshot,
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
    plans: Mapping[str, tuple[Plan, ...]] = field(default_factory=dict)
    """Backend → its plans, one for each generation."""
    due_ns: int = LATER
    """When the next turn is due at the latest: something that needs replicas may have them then."""


class Restored(NamedTuple):
    """What came of the snapshots of newly followed partitions."""

    endpoints: frozenset[str]
    unreadable: Mapping[str, str]
    """Endpoint → why its snapshot is of no use."""


class Reconciler:
    """The autoscaler's whole memory."""

    def __init__(
        self,
        *,
        backends: Collection[str],
        default_backend: str,
        silent_seconds: float,
        partition_of: Callable[[str], int] = lambda _: 0,
        sharing: bool = False,
        folder: str = "",
    ) -> None:
        """`sharing`: other autoscalers act for the endpoints of other partitions. `folder` names our data folder."""
        self.demand = DemandState()
        self.territory = Territory(partition_of)
        self.fleet = Fleet(self.territory)
        self.sharing = sharing
        self.touched: set[str] = set()
        """Endpoints whose demand or owner has changed since somebody took them out of here."""
        self.turned: set[str] = set()
        """Endpoints about which something was decided since then."""
        self._sightings = Sightings()
        self.planner = Planner(
            backends=backends,
            default_backend=default_backend,
            sharing=sharing,
            fleet=self.fleet,
            sightings=self._sightings,
            territory=self.territory,
        )
        self._backends = frozenset(backends)
        self._folder = folder
        self._silent_seconds = silent_seconds
        self._heard: list[Heard] = []
        self._queues: set[tuple[str, str, str]] = set()
        """(writer, endpoint, deployment) of every queue that was not empty when it was last spoken of."""
        self._uncounted: set[str] | None = None
        """Endpoints whose replicas, documents or drains may have changed since they were counted; None = all of them."""
        self._awaited: set[str] = set()
        self._adopted_ns: int | None = None
        self._pruned_ns = 0

    # facts -----------------------------------------------------------------------------------------------------

    def take_specs(self, revision: EndpointRevision) -> None:
        """A revision of an endpoint."""
        self.fleet.take(revision)

    def take_replicas(self, event: EndpointReplicas, *, own: bool = False, again: bool = False) -> None:
        """What was published about an endpoint; `own`: by this process; `again`: it may have been taken before."""
        self.planner.take(event, own=own, again=again)

    def take_demand(self, heard: Heard) -> bool:
        """A demand message. True when it should not wait: requests begin to queue, or ask what has no replica."""
        endpoint = heard.report.endpoint
        if not self.territory.follows(endpoint):
            return False
        self._heard.append(heard)
        urgent = False
        for row in heard.report.rows:
            queue = (heard.writer, endpoint, row.deployment)
            if not row.queued:
                self._queues.discard(queue)
            elif queue not in self._queues:
                self._queues.add(queue)
                urgent = True
            if (row.queued or row.arrivals) and not self.fleet.desired((endpoint, row.deployment)):
                urgent = True
        return urgent

    def take_observation(self, backend: str, observation: Observation) -> None:
        """All that `backend` runs now."""
        blind, first = self._sightings.blind(backend), not self._sightings.seen(backend)
        for endpoint, generation in observation.generations.items():
            self.planner.acted(endpoint, generation, first=first)
        changed = self._sightings.take(backend, observation)
        if blind != observation.blind:
            changed |= set(self.fleet.revisions)
        self.planner.dirty |= changed
        self._to_count(changed)

    # whose the endpoints are -----------------------------------------------------------------------------------

    def follow(self, partitions: Collection[int], snapshots: Mapping[str, EndpointSnapshot]) -> Restored:
        """Fold what is said about the endpoints of `partitions` from now on, after what their snapshots hold."""
        new = frozenset(partitions) - self.territory.followed
        self.territory.followed |= new
        self.fleet.read(self.demand)
        restored, unreadable = set(), {}
        for endpoint, kept in snapshots.items():
            if self.territory.partition(endpoint) not in new:
                continue
            try:
                self._restore(kept)
            except snapshot.Unreadable as error:
                unreadable[endpoint] = str(error)
            else:
                restored.add(endpoint)
        return Restored(frozenset(restored), unreadable)

    def _restore(self, kept: EndpointSnapshot) -> None:
        endpoint = kept.endpoint
        picture = snapshot.read(kept.state)
        snapshot.restore(self.demand, endpoint, picture)
        revision = self.fleet.revisions.get(endpoint)
        for name in picture.deployments if revision is not None else ():
            if revision is not None and (revision.deleted or name not in revision.deployments):
                demand.forget(self.demand, (endpoint, name))
        for writer in picture.writers.values():
            if writer.word is not None:
                self.planner.named(endpoint, writer.word.replicas_version)
        for name, history in picture.histories.items():
            self.fleet.histories[endpoint, name] = history
        if self._folder and picture.folder == self._folder:
            self.planner.remember(endpoint, kept.generation, picture.inherited)

    def drop(self, partitions: Collection[int]) -> None:
        """The endpoints of `partitions` are somebody else's: forget all about them that the log can tell again."""
        gone = {endpoint for endpoint in self._endpoints() if self.territory.partition(endpoint) in partitions}
        self.fold()
        self.territory.followed -= frozenset(partitions)
        self.territory.acting -= frozenset(partitions)
        self.territory.fenced -= gone
        snapshot.drop(self.demand, gone)
        self.fleet.drop(gone)
        self.planner.drop(gone)
        self.touched -= gone
        self.turned -= gone

    def hold(self, partitions: frozenset[int]) -> None:
        """Stop acting at once for whatever is outside of `partitions`."""
        if self.territory.hold(partitions):
            self.fleet.moved()

    def adopt(self, partitions: frozenset[int], floor: int, now_ns: int, *, confirmed: bool = True) -> None:
        """Everything that was is known of `partitions`: from the next turn on, act for them and nothing else.

        `floor`: the least generation to act with. `confirmed`: whoever deals the shares has said that they are ours.
        """
        before = self.territory.acting - {self.territory.partition(one) for one in self.territory.fenced}
        self.fold()
        self.territory.adopt(partitions, floor, confirmed=confirmed)
        for endpoint in self._endpoints():
            if self.territory.partition(endpoint) in self.territory.acting:
                self.planner.adopt(endpoint)
                self.touched.add(endpoint)
        self.fleet.moved()
        if self._adopted_ns is None or self.territory.acting - before:
            self._adopted_ns = now_ns
            self._awaited = {
                writer
                for writer, at_ns in self.demand.spoke_ns.items()
                if writer not in self.demand.mirrors and now_ns - at_ns <= RECENT_REPORTER_NS
            }

    def counted(self, endpoint: str, writer: str, sequence: int) -> bool:
        """Whether a message that came by the log is among those that have been counted."""
        ids = self.demand.ids.get(endpoint, {}).get(writer)
        return ids is not None and sequence <= ids.until

    def _endpoints(self) -> set[str]:
        """Every endpoint that anything is known of."""
        spoken_of = {target[0] for target in self.demand.rows}
        return (
            spoken_of | {*self.demand.ids, *self.fleet.revisions, *self.planner.published} | self._sightings.endpoints()
        )

    def fence(self, endpoint: str) -> None:
        """A backend has seen a newer owner of `endpoint` act."""
        self.planner.fence(endpoint)

    def home_of(self, target: Target) -> str | None:
        """The backend that `target` runs on; None for a deployment nobody knows."""
        return self.planner.home(target) if self.planner.knows(target) else None

    def pictures(self, endpoints: Collection[str]) -> dict[str, dict[str, Any]]:
        """Endpoint → what is remembered of it, as JSON. Everything heard has to be folded."""
        return snapshot.draw(
            self.demand,
            endpoints,
            {endpoint: self.fleet.histories_of(endpoint) for endpoint in endpoints},
            folder=self._folder,
            inherited={endpoint: self.planner.inherited(endpoint) for endpoint in endpoints},
        )

    # the turn --------------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """Count what was heard, without deciding anything."""
        heard, self._heard = self._heard, []
        self._awaited -= {one.writer for one in heard}
        self.touched |= {one.report.endpoint for one in heard}
        for one in heard:
            self.planner.named(one.report.endpoint, one.report.replicas_version)
        self.demand = demand.fold(self.demand, heard)

    def turn(self, now_ns: int) -> Turn:
        """Fold what was heard, decide, plan."""
        self.fold()
        if self._adopted_ns is None:
            return Turn()
        if self.fleet.moving:
            self._uncounted = None
        changed = self.fleet.rebuild(self.demand, self.planner.published)
        self.planner.dirty |= changed
        self._to_count(changed)
        self._count()
        decisions, due_ns = self._decide(now_ns)
        if now_ns - self._pruned_ns > RECENT_REPORTER_NS:
            self._pruned_ns = now_ns
            demand.prune(self.demand, now_ns - REPORTER_MEMORY_NS)
            self._queues.clear()  # also those of writers that are gone
        told, plans = self.planner.plan(self._listeners, now_ns)
        self._to_count(self.planner.planned)
        return Turn(tuple(told), decisions, plans, due_ns)

    def _listeners(self, endpoint: str) -> Listeners:
        state = self.demand
        return Listeners(state.words.get(endpoint, {}), state.spoke_ns, state.mirrors, self._silent_seconds)

    def _decide(self, now_ns: int) -> tuple[tuple[Decision, ...], int]:
        """The decisions, and when the next ones are due."""
        if not self.fleet.targets:
            return (), LATER
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
        endpoints = {self.fleet.targets[row][0] for row in moved}
        self.planner.dirty |= endpoints
        self.turned |= endpoints
        return tuple(self._decision(made, row, now_ns) for row in moved), made.due_ns

    def _may_shrink(self, now_ns: int) -> bool:
        """After a restart nothing shrinks before every reporter of before was heard, or has been silent too long."""
        return not self._awaited or now_ns - (self._adopted_ns or 0) > self._silent_seconds * 1e9

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
            generation=self.territory.generation(endpoint),
            inputs={**inputs, "reason": float(reason)},
        )

    def _to_count(self, endpoints: set[str]) -> None:
        if self._uncounted is not None:
            self._uncounted |= endpoints

    def _count(self) -> None:
        """Ready, pending and failed per row, from the observations, where anything may have changed."""
        uncounted, self._uncounted = self._uncounted, set()
        rows = range(len(self.fleet.targets)) if uncounted is None else self.fleet.rows_of(uncounted)
        if not rows:
            return
        standing = self.fleet.standing
        ready, pending, failed = standing.ready.copy(), standing.pending.copy(), standing.failed.copy()
        for row in rows:
            ready[row], pending[row], failed[row] = self._counted(self.fleet.targets[row])
        self.fleet.standing = replace(standing, ready=ready, pending=pending, failed=failed)

    def _counted(self, target: Target) -> tuple[int, int, bool]:
        """(ready, pending, failed) of one deployment, what drains not among them."""
        sizing, home = self.fleet.sizings[target], self.planner.home(target)
        sighting, drains = self._sightings.of(home, target), self.planner.drains.get(target, {})
        mine = [one for one in sighting.replicas if one.template == sizing.template and one.id not in drains]
        ready = sum(1 for one in mine if one.state is ReplicaState.READY)
        condition = sighting.condition
        failed = home not in self._backends or (
            condition is not None and condition.phase is Phase.FAILED and condition.template == sizing.template
        )
        return ready, len(mine) - ready, failed
