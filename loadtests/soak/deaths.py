"""What dies, stalls and is replaced under load, one after the other; each must be whole again before the next."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.soak import beside, kinds, sockets, streams
from loadtests.soak.causes import DeploymentGone, ReplicaKilled, ReplicasReplaced, WorkerKilled, WorkerStops
from loadtests.soak.processes import Roles, Server, callers_of, servers
from router.runtime.processes import Identity, identity, kill

if TYPE_CHECKING:
    import random

    from loadtests.soak.account import Account
    from loadtests.soak.beside import Beside
    from loadtests.soak.changes import Changes
    from loadtests.soak.load import Load
    from loadtests.soak.scene import Scene

ROLES = ("mirror", "autoscaler", "control")
_BURST = 20
_RESTARTED = (("mix", "blue"), (sockets.ENDPOINT, "socket"), (streams.CALLS, "grpc"))
_GATEWAYS = ("gateway 0", "gateway 1")


@dataclass(slots=True)
class Deaths:
    """The schedule's hands."""

    scene: Scene
    changes: Changes
    load: Load
    chance: random.Random
    account: Account
    roles: Roles
    beside: Beside
    """The gateway under TLS."""
    may_replace: Callable[[str], bool]
    """Whether this role's process may be replaced now: towards the end some live on, so that their memory can be judged."""
    expected: Counter[str] = field(default_factory=Counter)
    """Role → restarts that were our doing."""
    done: Counter[str] = field(default_factory=Counter)
    _number: int = 0

    def all(self) -> list[tuple[str, str, Callable[[], Awaitable[None]]]]:
        """Everything that may happen: its name, the role whose process is replaced by it, if it is one alone, and how."""
        return [
            ("gateway workers killed", "", self.worker_killed),
            ("gateway workers reloaded", "", self.worker_reloaded),
            ("gateway workers stalled", "", self.worker_stalled),
            ("replicas killed", "", self.replica_killed),
            *((f"{role} killed", role, functools.partial(self.role_killed, role)) for role in ROLES),
            ("gateways under TLS taken over", beside.NAME, self.taken_over),
            ("gateways under TLS taken over and killed", beside.NAME, self.taken_over_and_killed),
            ("certificates renewed", "", functools.partial(self.beside.renewed, self.scene)),
            ("mirror stalled", "", functools.partial(self.stalled, "mirror", 2)),
            ("settings changed", "", self.settings_changed),
            ("replicas replaced by a new revision", "", self.replaced),
            ("deployments added and removed", "", self.comes_and_goes),
            ("scaled out and in", "", self.scaled),
            ("woken from zero", "", self.woken),
            ("deployments restarted", "", self.restarted),
        ]

    async def until_whole(self) -> None:
        """Every role is ready."""

        async def look() -> bool:
            return all(state["ready"] for state in self.roles.read().values())

        await self.scene.until("every role ready", look)

    # Gateway workers ------------------------------------------------------------------------------------------------

    def _worker(self) -> str:
        return self.chance.choice([one for one in _GATEWAYS if self.may_replace(one)])

    async def worker_killed(self) -> None:
        """SIGKILL; who is inside is looked up while it stands still."""
        name = self._worker()
        who = self._who(name)
        port = self.load.road.address[1]
        cause = WorkerKilled(who.pid, time.monotonic(), frozenset(), gateway=port)
        os.kill(who.pid, signal.SIGSTOP)
        cause.ports = callers_of(who.pid, port)
        self.account.causes.append(cause)
        self.changes.deaths.append(who.pid)
        self.expected[name] += 1
        kill(who)
        await self._gone(who)
        cause.dead = time.monotonic()
        await self._replaced(name, who)

    async def worker_reloaded(self) -> None:
        """SIGTERM: it finishes what it has; another takes its place."""
        name = self._worker()
        who = self._who(name)
        port = self.load.road.address[1]
        cause = WorkerStops(who.pid, time.monotonic(), gateway=port, ports=callers_of(who.pid, port))
        self.account.causes.append(cause)
        self.expected[name] += 1
        kill(who, signal.SIGTERM)
        await self._gone(who)
        cause.gone = time.monotonic()
        await self._replaced(name, who)

    async def taken_over(self) -> None:
        """Another gateway gets the socket of the one under TLS, which finishes what it has."""
        await self.beside.succeeded(self.scene)

    async def taken_over_and_killed(self) -> None:
        """The same, but it does not get to finish it."""
        await self.beside.succeeded(self.scene, kill=True)

    async def worker_stalled(self) -> None:
        """SIGSTOP for a while: its callers wait, and that is all."""
        await self.stalled(self.chance.choice(_GATEWAYS), 0.7)

    async def stalled(self, name: str, seconds: float) -> None:
        """SIGSTOP, SIGCONT."""
        who = self._who(name)
        kill(who, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            kill(who, signal.SIGCONT)

    async def role_killed(self, name: str) -> None:
        """SIGKILL of a role off the live path: no request may notice."""
        who = self._who(name)
        self.expected[name] += 1
        kill(who)
        await self._gone(who)
        await self._replaced(name, who)

    def _who(self, name: str) -> Identity:
        who = identity(self.roles.ready(name))
        if who is None:
            raise RuntimeError(f"{name} is not there")
        return who

    async def _gone(self, who: Identity) -> None:
        """Until it is reaped: a zombie whose threads still end has its sockets open."""

        async def look() -> bool:
            return not Path(f"/proc/{who.pid}").exists()

        await self.scene.until(f"the end of process {who.pid}", look, every_seconds=0.02)

    async def _replaced(self, name: str, who: Identity) -> None:
        async def look() -> bool:
            return self.roles.ready(name) not in (0, who.pid)

        await self.scene.until(f"another {name}", look)

    # Replicas -------------------------------------------------------------------------------------------------------

    async def replica_killed(self) -> None:
        """SIGKILL of a model server; its deployment has as many again before the next thing happens."""
        mine = [one for one in servers(self.roles.data) if one.deployment != "rough"]
        await self._kill(self.chance.choice(mine))

    async def _kill(self, server: Server) -> None:
        cause = ReplicaKilled(server.who.pid, server.endpoint, server.deployment, time.monotonic())
        self.account.causes.append(cause)
        kill(server.who)
        await self._gone(server.who)
        if server.endpoint != "sleepy":
            await self.scene.ready(server.endpoint, server.deployment)

    # Revisions ------------------------------------------------------------------------------------------------------

    async def settings_changed(self) -> None:
        """Request settings: the same replicas, other limits."""
        most = self.chance.randrange(150, 300)
        await self.scene.deploy("mix", "green", request_settings={"max_concurrent_requests_per_instance": most})
        await self.scene.ready("mix", "green")

    async def replaced(self) -> None:
        """Another environment: each replica makes way for a new one."""
        self._number += 1
        await self.scene.deploy("mix", "green", environment_variables={"REVISION": str(self._number)})
        await self.scene.ready("mix", "green")

    async def restarted(self) -> None:
        """All replicas anew, one by one."""
        endpoint, name = self.chance.choice(_RESTARTED)
        cause = ReplicasReplaced(endpoint, name, time.monotonic())
        self.account.causes.append(cause)
        await self.scene.call("POST", f"/v1/endpoints/{endpoint}/deployments/{name}/restart", {})
        await self.scene.ready(endpoint, name)
        cause.over = time.monotonic()

    async def scaled(self) -> None:
        """One replica more, and one less again."""
        for count in (3, 2):
            await self.scene.deploy("mix", "blue", instance_count=count)
            await self.scene.ready("mix", "blue")

    async def comes_and_goes(self) -> None:
        """A deployment is added, gets traffic and callers by name, loses it, and is removed."""
        self._number += 1
        name = f"canary-{self._number}"
        await self.scene.deploy("mix", name)
        await self.scene.ready("mix", name)
        async with self.scene.lock("live"):
            self.changes.live = (*self.changes.live, name)
            rest = self.chance.randrange(5, 60)
            await self.scene.weigh("mix", {"blue": 100 - rest, "green": 0, name: rest})
        self.load.named.append(name)
        await asyncio.sleep(self.changes.every_seconds * 1.5)
        gone = DeploymentGone("mix", name, time.monotonic())
        self.account.causes.append(gone)
        self.load.named.remove(name)
        async with self.scene.lock("live"):
            self.changes.live = tuple(one for one in self.changes.live if one != name)
            await self.scene.weigh("mix", {"blue": 50, "green": 50})
        await self.scene.remove("mix", name)
        gone.over = time.monotonic()

    async def woken(self) -> None:
        """From zero: everybody who comes at once waits for the first replica and is answered."""
        await self.scene.at_zero("sleepy", "lazy")
        road = self.load.road
        await asyncio.gather(*(kinds.json_kept(road, "sleepy", "json, endpoint at zero") for _ in range(_BURST)))

    # All of it ------------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, every_seconds: float) -> None:
        """Rounds of everything in an order of chance, until `stop`; what has begun is brought to its end."""
        while True:
            everything = self.all()
            self.chance.shuffle(everything)
            for name, role, does in everything:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_seconds * self.chance.uniform(0.5, 1.5)):
                        await stop.wait()
                if stop.is_set():
                    return
                await self.until_whole()
                if role and not self.may_replace(role):
                    continue
                print(f"{self.account.now():7.1f} s  {name}", flush=True)
                await does()
                self.done[name] += 1
