"""One soak from an empty folder to its outcome."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from loadtests.soak import beside, sticky
from loadtests.soak.account import Account, Verdict
from loadtests.soak.beside import Beside
from loadtests.soak.certificates import Certificates
from loadtests.soak.changes import WORKERS, Changes
from loadtests.soak.deaths import Deaths
from loadtests.soak.load import MOST, Load
from loadtests.soak.outputs import errors_in
from loadtests.soak.processes import Roles, left_of
from loadtests.soak.road import Road
from loadtests.soak.scene import Scene, TooLate
from loadtests.soak.vitals import Vitals, descriptors
from loadtests.tree import tidegate_up
from loadtests.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

_DRAIN_SECONDS = 30
_QUIET_SECONDS = 60.0
_KEPT_BY_SQLITE = 8
"""Descriptors of a closed connection to a file that another connection of the process has locked, as in WAL mode always:
SQLite keeps them for its next connection to that file, so there are as many as were ever open at once."""


@dataclass(slots=True)
class Outcome:
    """Everything that is told of a soak."""

    seconds: float
    seed: int
    account: Account
    verdict: Verdict
    vitals: Vitals
    load: Load
    done: dict[str, int]
    split_off: float
    problems: list[str] = field(default_factory=list)
    left_open: dict[str, dict[str, int]] = field(default_factory=dict)
    """Process → what it has open beyond what it had before the load."""


async def soak(folder: Path, seconds: float, seed: int, *, most: float = MOST) -> Outcome:
    """Start everything, load and change it for `seconds` with at most `most` requests a second, end everything."""
    data, account = folder / "data", Account()
    certificates = Certificates(folder / "certificates")
    await certificates.create()
    another = Beside(folder / "tls", data / "log", certificates, account)
    flags = ("--workers", str(WORKERS), "--drain-seconds", str(_DRAIN_SECONDS))
    async with tidegate_up(data, *flags, log=folder / "up.log", deadline_seconds=120) as tree, _session() as session:
        scene = Scene(tree, session, turn_seconds=max(2.0, min(10.0, seconds / 10)))
        try:
            await another.start(scene)
            await scene.build(folder)
            run = Run(scene, another, account, seconds, random.Random(seed), most=most)
            outcome = await run.all(seed)
        finally:
            wrong = await another.end()
    outcome.problems += [wrong] if wrong else []
    outcome.problems += [f"left running: {one}" for one in (*left_of(data), *left_of(folder / "tls"))]
    outcome.problems += errors_in([folder / "up.log", *(data / "logs").glob("*.log*"), another.output])
    return outcome


@contextlib.asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield session


class Run:
    """The load, the changes and the deaths of one soak."""

    def __init__(
        self, scene: Scene, another: Beside, account: Account, seconds: float, chance: random.Random, *, most: float
    ) -> None:
        self._scene = scene
        self._another = another
        self._account = account
        self._roles = Roles(scene.tree.data)
        self._seconds = seconds
        self._stop = asyncio.Event()
        stickiness = sticky.Stickiness()
        self._road = Road(scene.tree.gateway_url, scene.keys, account, _next(chance))
        self._secure = Road(another.url, scene.keys, account, _next(chance), another.certificates)
        self._load = Load(self._road, self._secure, stickiness, most=most, long_seconds=min(60.0, seconds / 4))
        every = max(1.0, min(4.0, seconds / 20))
        self._changes = Changes(scene, self._road, stickiness, _next(chance), every, self._stop)
        self._deaths = Deaths(
            scene, self._changes, self._load, _next(chance), account, self._roles, another, self._may_replace
        )
        self._vitals = Vitals(self._roles, self._others, lambda: account.asked)

    def _may_replace(self, role: str) -> bool:
        """From a third of the time on one gateway worker, the mirror, the autoscaler and the control plane live on; from half of
        it the gateway under TLS does.
        """
        until = self._seconds / (2 if role == beside.NAME else 3)
        return role == "gateway 0" or self._account.now() < until

    async def all(self, seed: int) -> Outcome:
        """Load, then quiet, then the account."""
        self._account.started = self._vitals.started = time.monotonic()
        await self._scene.at_zero("sleepy", "lazy")
        base = {name: descriptors(pid) for name, pid in self._living().items()}
        restarts = {name: int(one["restarts"] or 0) for name, one in self._roles.read().items()}
        watching = asyncio.create_task(self._vitals.watch(), name="vitals")
        telling = asyncio.create_task(self._tell(), name="tell")
        try:
            await self._under_load()
        finally:
            watching.cancel()
            telling.cancel()
        problems = await self._at_rest()
        self._road.end()
        self._secure.end()
        await self._guarded(self._scene.clear())
        left = await self._not_given_back(base)
        problems += self._restarts(restarts)
        verdict = self._account.judge()
        problems += [f"unexplained: {self._account.told(one)}" for one in verdict.unexplained]
        problems += self._account.faults
        problems += [f"memory of {one.name} grows: {one}" for one in self._vitals.trends() if not one.flat]
        problems += [f"{name} has left open: {what}" for name, what in left.items()]
        done = dict(self._deaths.done + self._changes.done)
        return Outcome(
            self._seconds,
            seed,
            self._account,
            verdict,
            self._vitals,
            self._load,
            done,
            self._changes.worst,
            problems,
            left,
        )

    async def _under_load(self) -> None:
        every = max(1.0, min(6.0, self._seconds / 20))
        changes = self._changes
        work: list[Awaitable[None]] = [
            self._load.run(self._stop),
            self._deaths.run(self._stop, every),
            changes.of_weights(), changes.of_mirroring(), changes.of_cohorts(), changes.of_split(),
        ]  # fmt: skip
        await asyncio.gather(self._end(), *(self._guarded(one) for one in work))

    async def _guarded(self, work: Awaitable[None]) -> None:
        """What cannot go on is a fault, and the soak ends early."""
        try:
            await work
        except (TooLate, RuntimeError) as error:
            self._account.fault(f"{type(error).__name__}: {error}")
            self._stop.set()

    async def _end(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._stop.wait()
        self._stop.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(10)
            account, load = self._account, self._load
            words = f"{account.asked} asked, {len(account.failures)} failed, {len(account.under_way)} under way"
            print(f"{account.now():7.1f} s  {words}, {load.rate:.0f}/s, machine {load.busy:.0%} busy", flush=True)

    # At the end -----------------------------------------------------------------------------------------------------

    async def _at_rest(self) -> list[str]:
        """Once the load has ended nobody may be inside any more, by the gateways' own count."""
        with contextlib.suppress(TooLate):
            await self._scene.until("nothing in flight or queued", self._is_at_rest, _QUIET_SECONDS)
            return []
        told = await self._scene.call("GET", "/v1/status")
        counts = {one["name"]: (one["in_flight"], one["queued"]) for one in told["endpoints"]}
        return [f"nobody calls any more, but (in flight, queued) is {counts}"]

    async def _is_at_rest(self) -> bool:
        told = await self._scene.call("GET", "/v1/status")
        return not any(one["in_flight"] or one["queued"] for one in told["endpoints"])

    def _restarts(self, before: dict[str, int]) -> list[str]:
        now = {name: int(one["restarts"] or 0) for name, one in self._roles.read().items()}
        wrong = {name: now[name] - before[name] - self._deaths.expected[name] for name in now}
        return [f"{name} was restarted {count} times more than it was ended" for name, count in wrong.items() if count]

    def _living(self) -> dict[str, int]:
        roles = {name: int(one["pid"] or 0) for name, one in self._roles.read().items()}
        return {**self._others(), **roles}

    def _others(self) -> dict[str, int]:
        return {"up": self._scene.tree.pid, beside.NAME: self._another.pid}

    async def _not_given_back(self, base: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        """What each role has open beyond what it had before the load, when that has had time to fall."""
        left: dict[str, dict[str, int]] = {}

        async def none() -> bool:
            left.clear()
            for name, pid in self._living().items():
                if more := _more(base[name], descriptors(pid)):
                    left[name] = more
            return not left

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUIET_SECONDS):
                await until(none, every_seconds=1)
        return left


def _next(chance: random.Random) -> random.Random:
    return random.Random(chance.random())


def _more(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    more = {kind: count - before.get(kind, 0) for kind, count in now.items()}
    return {kind: count for kind, count in more.items() if count > (_KEPT_BY_SQLITE if kind.endswith(".db") else 0)}
