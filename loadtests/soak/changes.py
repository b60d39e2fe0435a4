"""What users change under load, again and again: weights, mirroring, sticky weights; and the split's exactness in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.soak import kinds, sticky

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from loadtests.soak.account import Request
    from loadtests.soak.road import Road
    from loadtests.soak.scene import Scene

WORKERS = 2
_CALLERS = 6
COUNTED = 120
"""Requests of one look at the split."""
TOLERANCE = 2.0
"""Requests from exact: less than one at each end of a stretch."""
SPLIT = ("red", "violet", "yellow")
_FRACTIONS = (0.0, 0.05, 0.25, 1.0)


def weights(chance: random.Random, names: tuple[str, ...]) -> dict[str, int]:
    """Any weights that add up to 100; now and then one has all."""
    if chance.random() < 0.15:
        chosen = chance.choice(names)
        return {name: 100 * (name == chosen) for name in names}
    cuts = sorted(chance.randrange(101) for _ in names[1:])
    return {name: high - low for name, low, high in zip(names, [0, *cuts], [*cuts, 100], strict=True)}


@dataclass(slots=True)
class Changes:
    """All of them, each in a task of its own, until `stop`."""

    scene: Scene
    road: Road
    stickiness: sticky.Stickiness
    chance: random.Random
    every_seconds: float
    stop: asyncio.Event
    deaths: list[int] = field(default_factory=list)
    """Grows with each gateway worker that is killed."""
    live: tuple[str, ...] = ("blue", "green")
    """Deployments of `mix` that may get traffic."""
    done: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    """Requests that a split was off by, over all looks without a death."""

    async def pause(self, share: float = 1.0) -> bool:
        """Some time; whether to go on after it."""
        try:
            async with asyncio.timeout(self.every_seconds * share * self.chance.uniform(0.5, 1.5)):
                await self.stop.wait()
        except TimeoutError:
            return True
        return False

    async def of_weights(self) -> None:
        """`mix`: anything to anything."""
        while await self.pause():
            async with self.scene.lock("live"):
                await self.scene.weigh("mix", weights(self.chance, self.live))
            self.done["weight changes"] += 1

    async def of_mirroring(self) -> None:
        """On, off, and other fractions; the hostile candidate and the friendly one."""
        while await self.pause(1.7):
            shares = {name: self.chance.choice(_FRACTIONS) for name in ("rough", "twin")}
            await self.scene.mirrored(shares)
            self.done["mirror changes"] += 1

    async def of_cohorts(self) -> None:
        """Weights of the endpoint whose callers stay."""
        while await self.pause(3):
            self.stickiness.era += 1
            revision = await self.scene.weigh(sticky.ENDPOINT, weights(self.chance, ("one", "other")))

            async def routed(revision: int = revision) -> bool:
                return await self.scene.is_routed_by(sticky.ENDPOINT, revision, WORKERS)

            await self.scene.until(f"revision {revision} of {sticky.ENDPOINT} in {WORKERS} workers", routed)
            self.stickiness.era += 1
            self.done["changes of sticky weights"] += 1

    async def of_split(self) -> None:
        """Change the weights, wait until all route by them, then count: between two changes the split is exact."""
        while await self.pause(1.5):
            wanted = weights(self.chance, SPLIT)
            revision = await self.scene.weigh("split", wanted)
            await self._until_routed(revision)
            deaths = len(self.deaths)
            asked = await self._ask(COUNTED)
            self._check(wanted, asked, deaths)
            self.done["looks at the split"] += 1

    async def _until_routed(self, revision: int) -> None:
        async def routed() -> bool:
            await self._ask(2 * _CALLERS)  # only who has something to say reports
            return await self.scene.is_routed_by("split", revision, WORKERS)

        await self.scene.until(f"revision {revision} of split in {WORKERS} workers", routed)

    async def _ask(self, count: int) -> list[Request]:
        left = iter(range(count))

        async def caller() -> list[Request]:
            return [await kinds.json_kept(self.road, "split", "json, split counted") for _ in left]

        return [one for asked in await asyncio.gather(*(caller() for _ in range(_CALLERS))) for one in asked]

    def _check(self, wanted: Mapping[str, int], asked: list[Request], deaths: int) -> None:
        """Each request was charged to a deployment, also those whose answer nobody got to see."""
        seen = Counter(one.deployment for one in asked)
        unknown = seen.pop("", 0)
        dead = len(self.deaths) - deaths
        off = max(abs(seen[name] - len(asked) * share / 100) for name, share in wanted.items())
        if not dead and not unknown:
            self.worst = max(self.worst, off)
        if off > TOLERANCE + unknown + dead:
            told = f"{dict(seen)} of {len(asked)}, {unknown} without an answer, {dead} workers killed meanwhile"
            self.road.account.fault(f"the split was off by {off:.2f} requests: {told}; weights {dict(wanted)}")
