"""A verified fake: keeps the whole contract of `base.py`, runs nothing. Replicas are ready after a delay, or by hand.

Several `MemoryBackend`s may share one `MemoryWorld`: what runs survives its owner, as processes and pods do.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from autoscaler.backends.base import Condition, DeploymentPlan, Observation, ObservedReplica, Plan, Target
from router.contract.errors import Fenced
from router.contract.events import Phase, ReplicaState
from router.runtime.clock import Clock, SystemClock


@dataclass(slots=True)
class MemoryWorld:
    """What runs, whoever owns it."""

    replicas: dict[str, ObservedReplica] = field(default_factory=dict)
    wishes: dict[Target, DeploymentPlan] = field(default_factory=dict)
    failures: dict[str, Condition] = field(default_factory=dict)
    """Template → how its replicas fail to start."""
    output: dict[str, list[str]] = field(default_factory=dict)
    """Replica id → lines."""
    generations: dict[str, int] = field(default_factory=dict)
    """Endpoint → the newest ownership that acted for it."""
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


class MemoryBackend:
    """Implements `Backend` over a `MemoryWorld`."""

    def __init__(
        self,
        *,
        name: str = "memory",
        ready_seconds: float | None = 0.0,
        clock: Clock | None = None,
        world: MemoryWorld | None = None,
        host: str = "127.0.0.1",
        port: int = 9,
    ) -> None:
        """`ready_seconds`: from creation to ready; None = only when `make_ready` says so."""
        self.name = name
        self.world = world or MemoryWorld()
        self.plans: list[Plan] = []
        """Every plan that was accepted, oldest first."""
        self._ready_seconds = ready_seconds
        self._clock = clock or SystemClock()
        self._address = (host, port)
        self._changed = asyncio.Condition()
        self._version = 0
        self._closed = False
        self._starters: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """See `Backend`. Adopts what the world still runs."""
        for replica in list(self.world.replicas.values()):
            if replica.state is ReplicaState.STARTING:
                self._schedule(replica.id)
        await self._announce()

    async def observe(self) -> AsyncIterator[Observation]:
        """See `Backend`."""
        seen = -1
        while not self._closed:
            async with self._changed:
                while self._version == seen:
                    await self._changed.wait()
                seen = self._version
                observation = self._observation()
            if not self._closed:
                yield observation

    async def apply(self, plan: Plan) -> None:
        """See `Backend`."""
        world = self.world
        endpoints = {target[0] for target in plan.deployments}
        for endpoint in sorted(endpoints):
            if plan.generation < world.generations.get(endpoint, 0):
                newest = world.generations[endpoint]
                raise Fenced(f"generation {plan.generation} acts for {endpoint} after {newest} took over")
        world.generations.update(dict.fromkeys(endpoints, plan.generation))
        self.plans.append(plan)
        before = dict(world.replicas)
        for target, wish in plan.deployments.items():
            world.wishes[target] = wish
            for one in wish.remove:
                self._end(one)
            self._fill(target)
            if wish.gone and not any((one.endpoint, one.deployment) == target for one in world.replicas.values()):
                del world.wishes[target]
        if before != world.replicas:
            await self._announce()

    async def logs(self, endpoint: str, deployment: str, lines: int) -> str:
        """See `Backend`."""
        mine = sorted(
            one.id for one in self.world.replicas.values() if (one.endpoint, one.deployment) == (endpoint, deployment)
        )
        text = [f"{one}: {line}" for one in mine for line in self.world.output.get(one, ())]
        return "\n".join(text[-lines:] if lines > 0 else [])

    def figures(self) -> tuple[()]:
        """See `Backend`. Nothing."""
        return ()

    async def close(self, *, end_replicas: bool) -> None:
        """See `Backend`."""
        self._closed = True
        starters = list(self._starters.values())
        for task in starters:
            task.cancel()
        await asyncio.gather(*starters, return_exceptions=True)
        if end_replicas:
            self.world.replicas.clear()
            self.world.wishes.clear()
        await self._announce()

    # by hand ---------------------------------------------------------------------------------------------------

    async def make_ready(self, replica: str) -> None:
        """Replica `replica` passes its readiness probe."""
        await self._set(replica, state=ReplicaState.READY, ready_ns=self._clock.time_ns())

    async def make_unready(self, replica: str) -> None:
        """Replica `replica` fails its readiness probe after having been ready."""
        await self._set(replica, state=ReplicaState.UNREADY)

    async def crash(self, replica: str) -> None:
        """Replica `replica` dies; the backend starts it again where its deployment still wants it."""
        one = self.world.replicas[replica]
        self._end(replica)
        self._fill((one.endpoint, one.deployment), restarts=one.restarts + 1)
        await self._announce()

    async def fail(self, template: str, condition: Condition | None) -> None:
        """Replicas of `template` never become ready and the deployment says why; None = they start again."""
        if condition is None:
            self.world.failures.pop(template, None)
            for one in list(self.world.replicas.values()):
                if one.template == template and one.state is ReplicaState.STARTING:
                    self._schedule(one.id)
        else:
            self.world.failures[template] = condition
        await self._announce()

    async def lose(self, replica: str) -> None:
        """Replica `replica` vanishes and stays away until the next plan."""
        self._end(replica)
        await self._announce()

    # inside ----------------------------------------------------------------------------------------------------

    def _fill(self, target: Target, restarts: int = 0) -> None:
        """Start what is missing of the wished template. More than wished is nobody's to end but the planner's."""
        wish = self.world.wishes.get(target)
        if wish is None:
            return
        have = sum(
            1
            for one in self.world.replicas.values()
            if (one.endpoint, one.deployment, one.template) == (*target, wish.template)
        )
        for _ in range(wish.count - have):
            name = f"{target[0]}-{target[1]}-{next(self.world.numbers)}"
            host, port = self._address
            self.world.replicas[name] = ObservedReplica(
                id=name,
                endpoint=target[0],
                deployment=target[1],
                template=wish.template,
                state=ReplicaState.STARTING,
                host=host,
                port=port,
                instance_type=str(wish.document.get("instance_type") or ""),
                restarts=restarts,
                created_ns=self._clock.time_ns(),
            )
            self.world.output[name] = ["starting"]
            self._schedule(name)

    def _end(self, replica: str) -> None:
        self.world.replicas.pop(replica, None)
        task = self._starters.pop(replica, None)
        if task is not None:
            task.cancel()

    def _schedule(self, replica: str) -> None:
        if self._ready_seconds is None or replica in self._starters:
            return
        task = asyncio.get_running_loop().create_task(self._become_ready(replica), name=f"memory-start-{replica}")
        self._starters[replica] = task
        task.add_done_callback(lambda _: self._starters.pop(replica, None))

    async def _become_ready(self, replica: str) -> None:
        await self._clock.sleep(self._ready_seconds or 0.0)
        one = self.world.replicas.get(replica)
        if one is not None and one.template not in self.world.failures:
            await self.make_ready(replica)

    async def _set(self, replica: str, *, state: ReplicaState, ready_ns: int | None = None) -> None:
        one = self.world.replicas[replica]
        ready = one.ready_ns if ready_ns is None else ready_ns
        self.world.replicas[replica] = replace(one, state=state, ready_ns=ready)
        await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    def _observation(self) -> Observation:
        return Observation(
            replicas=tuple(sorted(self.world.replicas.values(), key=lambda one: one.id)),
            conditions={target: self._condition(target, wish) for target, wish in self.world.wishes.items()},
            generations=dict(self.world.generations),
        )

    def _condition(self, target: Target, wish: DeploymentPlan) -> Condition:
        failure = self.world.failures.get(wish.template)
        if failure is not None and wish.count > 0:
            return replace(failure, template=wish.template)
        ready = sum(
            1
            for one in self.world.replicas.values()
            if (one.endpoint, one.deployment, one.template) == (*target, wish.template)
            and one.state is ReplicaState.READY
        )
        return Condition(Phase.READY if ready >= wish.count else Phase.STARTING, wish.template)
