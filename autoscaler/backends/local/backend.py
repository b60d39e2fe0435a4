"""The managed backend on this machine: replicas are supervised processes that outlive their owner.

`apply` records the wish; one reconciler task makes it so and is woken by every change. It starts what is missing and
ends what is named, never anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from autoscaler.backends.base import Condition, DeploymentPlan, Observation, Plan, Target
from autoscaler.backends.local.adoption import ENDED, Ownership, put_away, survivors
from autoscaler.backends.local.environments import EnvironmentStore
from autoscaler.backends.local.folder import Record, Rules, spawn, write_record
from autoscaler.backends.local.logs import merged_tail
from autoscaler.backends.local.preparation import Preparation
from autoscaler.backends.local.replica import Replica
from router.contract.errors import Unavailable
from router.contract.events import Phase, ReplicaState
from router.runtime.settings import DataLayout

ADOPTION_SECONDS = 5.0
"""Longest wait at the start for adopted replicas to say how they are."""
RESPAWN_FIRST_SECONDS = 0.5
RESPAWN_MOST_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Losses:
    """Replicas of a template that ended unasked, in a row; the next one waits longer."""

    template: str
    count: int = 0
    not_before: float = 0.0

    def add(self, now: float) -> None:
        wait = 0.0 if self.count == 0 else RESPAWN_FIRST_SECONDS * 2.0 ** min(self.count - 1, 30)
        self.count += 1
        self.not_before = now + min(RESPAWN_MOST_SECONDS, wait)


class LocalBackend:
    """Replicas as processes of this machine; see `autoscaler.backends.base.Backend`."""

    name = "local"

    def __init__(
        self,
        data: DataLayout,
        cache: Path,
        *,
        host: str = "127.0.0.1",
        rules: Rules | None = None,
        takeover_seconds: float = 5.0,
    ) -> None:
        """`host` is the only address replicas listen on. `takeover_seconds`: patience with an owner that is leaving."""
        self._replicas_folder = data.replicas.absolute()
        self._assets = data.assets.absolute()
        self._host = host
        self._rules = rules or Rules()
        self._takeover_seconds = takeover_seconds
        self._store = EnvironmentStore(cache)
        self._ownership = Ownership(self._replicas_folder)
        self._replicas: dict[str, Replica] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}
        self._wishes: dict[Target, DeploymentPlan] = {}
        self._preparations: dict[Target, Preparation] = {}
        self._losses: dict[Target, _Losses] = {}
        self._reconciler: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._closed = False

    # The interface --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take ownership and adopt what runs. Raises `Conflict` while another process is the owner."""
        self._replicas_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._ownership.take(self._takeover_seconds)
        for folder, record in await asyncio.to_thread(survivors, self._replicas_folder):
            self._add(Replica(folder, record, self._on_change))
        # The first observation must not take a serving replica away from the gateways.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ADOPTION_SECONDS):
                for replica in list(self._replicas.values()):
                    await replica.known.wait()
        self._reconciler = asyncio.create_task(self._reconcile_forever(), name="local backend")

    async def observe(self) -> AsyncIterator[Observation]:
        """The whole state at once, then after every change; ends when the backend is closed."""
        while not self._closed:
            changed = self._changed
            yield self._observation()
            await changed.wait()

    async def apply(self, plan: Plan) -> None:
        """Record the wish. Raises `Fenced`, or `Unavailable` when the backend is not running."""
        if self._closed or self._reconciler is None:
            raise Unavailable("the local backend is not running")
        self._ownership.check(plan.generation, {target[0] for target in plan.deployments})
        for target, wish in plan.deployments.items():
            self._wishes[target] = wish
            for name in wish.remove & self._replicas.keys():
                self._end(self._replicas[name])
        self._on_change()

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        """The newest lines of running and of recently ended replicas; behind `environment`, why a build failed."""
        of = [
            r.folder
            for r in self._replicas.values()
            if (r.record.endpoint, r.record.deployment) == (endpoint, deployment)
        ]
        ended = self._replicas_folder / ENDED / endpoint / deployment

        def read() -> str:
            over = [folder for folder in ended.iterdir() if folder.is_dir()] if ended.is_dir() else []
            return merged_tail([*over, *of], lines)

        text = await asyncio.to_thread(read)
        preparation = self._preparations.get((endpoint, deployment))
        if preparation is not None and preparation.condition is not None:
            text += "".join(f"environment {line}\n" for line in preparation.condition.log_tail.splitlines())
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def figures(self) -> tuple[()]:
        """See `Backend`. Nothing: its work is what the replicas show."""
        return ()

    async def close(self, *, end_replicas: bool) -> None:
        """Let go; with `end_replicas` everything ends first, side by side and within the grace of one."""
        if self._closed:
            return
        self._closed = True
        await _cancel(self._reconciler, *(p.task for p in self._preparations.values()))
        if end_replicas:
            for replica in self._replicas.values():
                self._end(replica)
        else:
            await _cancel(*self._followers.values())
        if end_replicas:
            await asyncio.gather(*self._ends.values(), *self._followers.values(), return_exceptions=True)
        await _cancel(*self._ends.values())
        self._ownership.release()
        self._on_change()

    # Reconciling ----------------------------------------------------------------------------------------------------

    def _on_change(self) -> None:
        self._wake.set()
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reconcile_forever(self) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            waits = [self._step(target, wish, now) for target, wish in list(self._wishes.items())]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min((w for w in waits if w is not None), default=None)):
                    await self._wake.wait()

    def _step(self, target: Target, wish: DeploymentPlan, now: float) -> float | None:
        """`_reconcile`, whose failure is this deployment's alone."""
        try:
            return self._reconcile(target, wish, now)
        except Exception:
            _log.exception("cannot reconcile %s/%s", *target)
            return RESPAWN_MOST_SECONDS

    def _reconcile(self, target: Target, wish: DeploymentPlan, now: float) -> float | None:
        """One step for one deployment; returns the seconds after which to look again, None for the next change."""
        if wish.gone:
            self._forget(target)
            return None
        preparation = self._prepared(target, wish)
        missing = wish.count - len(self._of(target, wish))
        if preparation.launch is None:
            return None
        if missing <= 0:
            preparation.condition = None
            if all(replica.state is ReplicaState.READY for replica in self._of(target, wish)):
                self._losses.pop(target, None)
            return None
        losses = self._losses.get(target)
        if losses is not None and losses.template == wish.template and losses.not_before > now:
            return losses.not_before - now
        for _ in range(missing):
            self._spawn(wish, preparation)
        return None

    def _forget(self, target: Target) -> None:
        """Nothing is prepared or started any more for a deployment that is gone; its wish goes with its last replica."""
        preparation = self._preparations.pop(target, None)
        if preparation is not None and preparation.task is not None:
            preparation.task.cancel()
        replicas = self._replicas.values()
        if not any((one.record.endpoint, one.record.deployment) == target for one in replicas):
            self._losses.pop(target, None)
            if self._wishes.pop(target, None) is not None:
                self._changed.set()
                self._changed = asyncio.Event()

    def _of(self, target: Target, wish: DeploymentPlan) -> list[Replica]:
        """The replicas that count for a wish."""
        return [
            replica
            for replica in self._replicas.values()
            if (replica.record.endpoint, replica.record.deployment) == target
            and replica.record.template == wish.template
            and not replica.ending
        ]

    def _prepared(self, target: Target, wish: DeploymentPlan) -> Preparation:
        found = self._preparations.get(target)
        if found is None or found.template != wish.template:
            if found is not None and found.task is not None:
                found.task.cancel()
            found = Preparation(wish.template, wish.document, self._assets, self._store, self._on_change)
            found.task = asyncio.create_task(found.run(), name=f"prepare {target[0]}/{target[1]}")
            self._preparations[target] = found
        return found

    def _spawn(self, wish: DeploymentPlan, preparation: Preparation) -> None:
        assert preparation.launch is not None
        name = f"{wish.deployment}-{secrets.token_hex(4)}"
        folder = self._replicas_folder / name
        record = Record(
            id=name,
            endpoint=wish.endpoint,
            deployment=wish.deployment,
            template=wish.template,
            instance_type=str(wish.document.get("instance_type") or ""),
            created_ns=time.time_ns(),
            host=self._host,
            code=preparation.launch.listening_socket,
            probes=preparation.launch.probes,
        )
        try:
            write_record(folder, record, preparation.launch, self._rules)
            pid = spawn(folder)
        except OSError as error:
            message = f"cannot start a replica: {error}"
            preparation.condition = Condition(Phase.FAILED, wish.template, "OutOfQuota", message)
            self._lost((wish.endpoint, wish.deployment), wish.template)
            put_away(folder, None)
            return
        preparation.condition = None
        self._add(Replica(folder, record, self._on_change, pid=pid))

    def _add(self, replica: Replica) -> None:
        self._replicas[replica.record.id] = replica
        task = asyncio.create_task(self._keep(replica), name=f"replica {replica.record.id}")
        self._followers[replica.record.id] = task

    async def _keep(self, replica: Replica) -> None:
        await replica.follow()
        record = replica.record
        if not replica.ending:
            self._lost((record.endpoint, record.deployment), record.template)
        del self._replicas[record.id], self._followers[record.id]
        self._on_change()

    def _lost(self, target: Target, template: str) -> None:
        losses = self._losses.get(target)
        if losses is None or losses.template != template:
            losses = self._losses[target] = _Losses(template)
        losses.add(time.monotonic())

    def _end(self, replica: Replica) -> None:
        if replica.record.id not in self._ends:
            patience = self._rules.grace_seconds + 5
            task = asyncio.create_task(replica.end(patience), name=f"end {replica.record.id}")
            self._ends[replica.record.id] = task
            task.add_done_callback(lambda _: self._ends.pop(replica.record.id, None))

    # Observing ------------------------------------------------------------------------------------------------------

    def _observation(self) -> Observation:
        replicas = tuple(replica.observed() for replica in self._replicas.values())
        conditions = {target: self._condition(target, wish) for target, wish in self._wishes.items()}
        return Observation(replicas, conditions, self._ownership.generations)

    def _condition(self, target: Target, wish: DeploymentPlan) -> Condition:
        preparation = self._preparations.get(target)
        if preparation is None or preparation.template != wish.template:
            return Condition(Phase.PENDING, wish.template)
        if preparation.condition is not None:
            return preparation.condition
        if preparation.launch is None:
            return Condition(Phase.PENDING, wish.template)
        replicas = self._of(target, wish)
        ready = sum(replica.state is ReplicaState.READY for replica in replicas)
        failure = next((replica.failure for replica in replicas if replica.failure is not None), None)
        note = "; ".join(preparation.warnings)
        if ready >= wish.count:
            return Condition(Phase.READY, wish.template, message=note)
        if failure is not None and ready == 0:
            return Condition(Phase.FAILED, wish.template, failure.reason, failure.message, failure.log_tail)
        return Condition(Phase.SCALING if ready else Phase.STARTING, wish.template, message=note)


async def _cancel(*tasks: asyncio.Task[None] | None) -> None:
    """Cancel and see each one end."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
