"""The controller of OnlineEndpoint and OnlineDeployment objects: watches, looks, and tells. Off unless it is asked for.

Whatever happens to an object, its endpoint, its replicas or the store makes its endpoint be looked at, once and by one
worker at a time. What fails waits longer and longer. A control plane whose API server is away goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter, defaultdict

from router.contract.errors import PreconditionFailed, Unavailable
from router.contract.events import Decision
from router.control import views
from router.control.deployment_routes import governing
from router.control.plane import Plane
from router.control.resources import agreement, conditions
from router.control.resources.committing import Committer
from router.control.resources.conditions import Status, Surroundings
from router.control.resources.credentials import Credentials, secret_name
from router.control.resources.decisions import follow_decisions
from router.control.resources.editing import RESOURCES, Editor
from router.control.resources.exposition import Figures, exposed
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT, KINDS, Kind
from router.control.resources.objects import READY, Found, Json, found
from router.control.resources.reconciling import Outcome, Round
from router.control.resources.telling import NORMAL, WARNING, Teller, rfc3339
from router.runtime.clock import Clock, SystemClock
from router.runtime.kubernetes import Cluster, Contested, KubernetesError, Watched
from router.runtime.kubernetes.pacing import Chance
from router.runtime.kubernetes.queue import Queue

WORKERS = 4
"""Endpoints that are looked at at once."""
MERGE_SECONDS = 0.05
"""Changes of the fleet so close together are looked at together."""
REPORT_SECONDS = 0.5
"""Least time between two writes of one object's status."""
PATROL_SECONDS = 60.0
"""How often everything is looked at, whatever has happened or not; drawn up to a quarter longer."""
_LOG = logging.getLogger(__name__)


class Controller:
    """One namespace of one cluster. Make it, `open` it, `run` it, `close` it."""

    def __init__(
        self,
        plane: Plane,
        cluster: Cluster,
        namespace: str | None,
        *,
        clock: Clock | None = None,
        chance: Chance = random.random,
    ) -> None:
        self._plane = plane
        self._cluster = cluster
        self._namespace = namespace or ""
        self._clock = clock or SystemClock()
        self._chance = chance
        self._queue = Queue(self._clock, chance)
        self._teller = Teller(cluster, self._clock)
        self._credentials = Credentials(cluster, self._clock, chance)
        self._deployments_of: defaultdict[str, set[str]] = defaultdict(set)
        """Endpoint → names of the objects that describe its deployments."""
        self._seen: dict[str, tuple[object, ...]] = {}
        """Endpoint → what of store and fleet it was last looked at with."""
        self._reported: dict[str, float] = {}
        self._watched: dict[Kind, Watched[Found]] = {}
        self.looks = 0
        """Rounds so far."""

    async def open(self) -> None:
        """Read the configuration. Raises `BadKubeconfig`."""
        await self._cluster.open()
        self._namespace = self._namespace or self._cluster.namespace
        self._watched = {kind: self._watch(kind) for kind in KINDS}
        self._editor = Editor(self._cluster, self._watched)

    async def close(self) -> None:
        """Let go of every connection and timer."""
        self._queue.close()
        await self._cluster.close()

    async def run(self) -> None:
        """Until cancelled."""
        _LOG.info("watching objects in namespace %s of %s", self._namespace, self._cluster.url)
        async with asyncio.TaskGroup() as group:
            for kind, watched in self._watched.items():
                group.create_task(watched.run(), name=f"watch {kind.plural}")
            group.create_task(self._advise(), name="advise")
            group.create_task(self._teller.run(), name="tell")
            group.create_task(self._stir(), name="stir")
            group.create_task(self._patrol(), name="patrol")
            group.create_task(follow_decisions(self._plane.log, self._clock, self._decided), name="follow decisions")
            for index in range(WORKERS):
                group.create_task(self._work(), name=f"look {index}")

    # what happens ----------------------------------------------------------------------------------------------------

    def _watch(self, kind: Kind) -> Watched[Found]:
        def keep(manifest: Json, _: Found | None, __: bool) -> Found:
            return found(kind, manifest)

        def changed(name: str, before: Found | None, now: Found | None) -> None:
            self._changed(kind, name, before, now)

        return Watched(
            self._cluster, RESOURCES[kind], self._namespace, keep, changed, clock=self._clock, chance=self._chance
        )

    def _changed(self, kind: Kind, name: str, before: Found | None, now: Found | None) -> None:
        for one in (before, now):
            if one is None:
                continue
            if kind is DEPLOYMENT:
                self._deployments_of[one.endpoint].discard(name)
                if one is now:
                    self._deployments_of[one.endpoint].add(name)
            self._add(one.endpoint)
        if now is None and before is not None:
            self._credentials.forget(before.uid)
            self._reported.pop(before.uid, None)

    def _add(self, endpoint: str) -> None:
        self._queue.add((endpoint, ""), urgent=True)

    def _endpoints(self) -> set[str]:
        described = {endpoint for endpoint, names in self._deployments_of.items() if names}
        return described | set(self._watched[ENDPOINT].items)

    async def _stir(self) -> None:
        """Look at endpoints whose newest revision or replicas are other ones now."""
        while True:
            await self._plane.stirred.wait()
            self._plane.stirred.clear()
            for endpoint in self._endpoints():
                if self._seen.get(endpoint) != self._state(endpoint):
                    self._add(endpoint)
            await self._clock.sleep(MERGE_SECONDS)

    def _state(self, endpoint: str) -> tuple[object, ...]:
        replicas = self._plane.fleet.replicas(endpoint)
        return self._plane.publisher.published.get(endpoint, 0), replicas, self._plane.fleet.caught_up

    async def _patrol(self) -> None:
        while True:
            await self._clock.sleep(PATROL_SECONDS * (1 + self._chance() / 4))
            for endpoint in self._endpoints():
                self._queue.add((endpoint, ""))

    async def _advise(self) -> None:
        """Say it once when the cluster has no such kinds."""
        with contextlib.suppress(KubernetesError):
            for kind in KINDS:
                if await self._cluster.knows(RESOURCES[kind]) is None:
                    _LOG.warning(
                        "the cluster has no %s objects yet: `kubectl apply -k deploy/kubernetes/crds` brings them",
                        kind.kind,
                    )

    def _decided(self, decision: Decision) -> None:
        for one in self._described(decision.endpoint):
            if one.deployment == decision.deployment:
                words = f"{decision.previous} to {decision.desired} replicas: {decision.reason}"
                self._teller.tell(one, NORMAL, "Scaled", words)

    def _described(self, endpoint: str) -> list[Found]:
        items = self._watched[DEPLOYMENT].items
        return [items[name] for name in self._deployments_of.get(endpoint, ()) if name in items]

    # looking ---------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        for watched in self._watched.values():
            await watched.synced.wait()
        while not self._plane.fleet.caught_up:
            await self._clock.sleep(MERGE_SECONDS)
        while True:
            target = await self._queue.next()
            failed, least = True, 0.0
            try:
                failed = not await self._look(target[0])
            except PreconditionFailed:
                _LOG.debug("%s was changed meanwhile", target[0])
            except (KubernetesError, Unavailable) as error:
                least = error.wait_seconds if isinstance(error, KubernetesError) else 0.0
                level = logging.DEBUG if isinstance(error, Contested) else logging.WARNING
                _LOG.log(level, "endpoint %s: %s", target[0], error.message)
            except Exception:
                _LOG.exception("endpoint %s could not be looked at; it is tried again", target[0])
            finally:
                self._queue.done(target, failed=failed, least_seconds=least)

    async def _look(self, endpoint: str) -> bool:
        """One round; whether nothing is left to wait for that no event will tell."""
        self.looks += 1
        self._seen[endpoint] = self._state(endpoint)
        one = self._watched[ENDPOINT].items.get(endpoint)
        deployments, superfluous = agreement.rightful(self._described(endpoint))
        if one is None and not deployments:
            self._seen.pop(endpoint, None)
            return True
        committer = Committer(self._plane, endpoint, await self._plane.store.get(endpoint))
        work = Round(
            self._plane, self._cluster, self._editor, self._teller, committer, one, deployments, [*superfluous.values()]
        )
        outcome = await work.run()
        self._tell_revisions(committer, outcome)
        around = await self._surroundings(committer, work.endpoint)
        due = True
        for uid, verdict in outcome.verdicts.items():
            described = outcome.objects[uid]
            make = conditions.endpoint_status if described.kind is ENDPOINT else conditions.deployment_status
            now = rfc3339(self._clock.time_ns())
            due = await self._report(described, make(described, verdict, around, now)) and due
        return due and not outcome.again

    def _tell_revisions(self, committer: Committer, outcome: Outcome) -> None:
        for made in committer.made:
            for one in outcome.objects.values():
                about = one.deployment if one.kind is DEPLOYMENT else None
                if about == made.deployment:
                    self._teller.tell(one, NORMAL, "RevisionAccepted", f"revision {made.revision}: {made.words}")

    async def _surroundings(self, committer: Committer, one: Found | None) -> Surroundings:
        plane, standing = self._plane, committer.standing
        if standing is None:
            return Surroundings(None, 0, {}, {}, plane.gateway_url)
        newest = await plane.store.newest_operations(standing.endpoint)
        follow = {name: governing(newest, name) for name in standing.content.deployments}
        return Surroundings(
            standing,
            plane.publisher.published.get(standing.endpoint, 0),
            plane.fleet.replicas(standing.endpoint),
            {name: operation.revision for name, operation in follow.items() if operation is not None},
            plane.gateway_url,
            await self._keys(committer, one),
        )

    async def _keys(self, committer: Committer, one: Found | None) -> str:
        """Name of the Secret with the endpoint's keys; empty while there is none."""
        standing = committer.standing
        if one is None or one.deleting or not one.held or committer.content is None or standing is None:
            return ""
        if standing.keys is None:
            self._teller.tell(one, WARNING, "KeysUnknown", "the text of the keys was lost: regenerate them")
            return ""
        base = f"{self._plane.gateway_url.rstrip('/')}/endpoints/{standing.endpoint}"
        uri = base + views.scoring_path(committer.content)
        try:
            await self._credentials.keep(one, standing.keys, uri)
        except KubernetesError as error:
            if error.retryable:
                raise
            self._teller.tell(one, WARNING, "KeysNotWritten", error.message)
            return ""
        return secret_name(standing.endpoint)

    # telling ---------------------------------------------------------------------------------------------------------

    async def _report(self, one: Found, status: Status) -> bool:
        """Write the status when it has changed, but not too often; whether it is written."""
        patch = conditions.changed(one, status)
        if patch is None:
            return True
        now = self._clock.monotonic()
        wait = self._reported.get(one.uid, -REPORT_SECONDS) + REPORT_SECONDS - now
        if wait > 0:
            return False
        self._reported[one.uid] = now
        await self._editor.report(one, patch)
        for bad, reason, message in conditions.happenings(one, status):
            self._teller.tell(one, WARNING if bad else NORMAL, reason, message)
        return True

    def exposed(self) -> bytes:
        """Prometheus metrics."""
        ready = Counter(
            (kind.kind, str((one.condition(READY) or {}).get("status", "Unknown")))
            for kind, watched in self._watched.items()
            for one in watched.items.values()
        )
        watched = {kind.plural: one.current for kind, one in self._watched.items()}
        return exposed(Figures(self._cluster.requests, self.looks, self._teller.dropped, ready, watched))
