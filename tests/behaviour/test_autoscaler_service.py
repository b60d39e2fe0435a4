"""The whole service over the embedded log and the memory backend, with a gateway that writes demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from autoscaler.backends.base import Observation
from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from autoscaler.control.service import run
from router.contract.codec import decode_decision, decode_replicas, encode_demand, encode_specs
from router.contract.errors import Conflict
from router.contract.events import (
    DECISIONS,
    DEMAND,
    REPLICAS,
    SPECS,
    Decision,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    ReplicaState,
)
from router.runtime.exposition import single
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import AutoscalerSettings, DataLayout
from router.runtime.tasks import TaskFailed
from tests.support.autoscaler_fleet import ENDPOINT, deployment, load, revision

DEADLINE = 60.0


@dataclass
class Bench:
    """A data folder, its log, and an autoscaler that can be started and stopped."""

    settings: AutoscalerSettings
    log: EmbeddedLog
    world: MemoryWorld = field(default_factory=MemoryWorld)
    decisions: list[Decision] = field(default_factory=list)
    told: list[EndpointReplicas] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    rows: tuple[DemandRow, ...] = ()
    talking: bool = True

    async def watch(self) -> None:
        """Follow what the autoscaler writes."""
        reader = await self.log.reader((REPLICAS, DECISIONS))
        try:
            while True:
                for message in await reader.next(None):
                    if message.topic == REPLICAS:
                        self.told.append(decode_replicas(message.value))
                    else:
                        self.decisions.append(decode_decision(message.value))
                self.changed.set()
        finally:
            await reader.close()

    async def talk(self) -> None:
        """A gateway: says every 50 ms what it sees and which `replicas` it routes by."""
        while True:
            if self.talking:
                self.say(*self.rows)
            await asyncio.sleep(0.05)

    def say(self, *rows: DemandRow) -> None:
        """One report, now."""
        now = time.time_ns()
        version = self.told[-1].version if self.told else 0
        report = DemandReport(ENDPOINT, now - 50_000_000, now, 1, version, rows=rows)
        self.log.append(DEMAND, ENDPOINT, encode_demand(report))

    def specs(self, event: EndpointRevision) -> None:
        """A new revision."""
        self.log.append(SPECS, event.endpoint, encode_specs(event))

    def shown(self, name: str = "blue") -> DeploymentReplicas | None:
        """What gateways know of one deployment."""
        return self.told[-1].deployments.get(name) if self.told else None

    async def until(self, what: str, condition: Callable[[], Any]) -> None:
        """Wait for a condition on what was written."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    self.changed.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.changed.wait(), 0.1)
        except TimeoutError:
            pytest.fail(f"{what}: last told {self.told[-1:]}")

    def count(self, desired: int, ready: int) -> Callable[[], bool]:
        """Whether gateways know `ready` ready replicas and nothing else, of `desired`."""

        def check() -> bool:
            shown = self.shown()
            states = [one.state for one in shown.replicas] if shown else []
            return shown is not None and shown.desired == desired and states == [ReplicaState.READY] * ready

        return check

    @contextlib.asynccontextmanager
    async def running(self, **backend: Any) -> AsyncIterator[MemoryBackend]:
        """The service, ready; stopped again at the end, its replicas left running."""
        memory = MemoryBackend(world=self.world, **backend)
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            run(self.settings, {"memory": memory}, self.log, stop, ready.set, default_backend="memory")
        )
        waiting = asyncio.create_task(ready.wait())
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield memory
        finally:
            stop.set()
            waiting.cancel()
            await asyncio.gather(task, waiting, return_exceptions=True)
            await memory.close(end_replicas=False)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    data = DataLayout(tmp_path / "data")
    data.create()
    log = EmbeddedLog(data.log)
    made = Bench(AutoscalerSettings(data, tmp_path / "cache"), log)
    tasks = [asyncio.create_task(made.watch()), asyncio.create_task(made.talk())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.close()


async def test_a_deployment_starts_idles_to_zero_and_wakes(bench: Bench) -> None:
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment(tidegate={"min_instances": 0, "idle_seconds": 1})}))
        await bench.until("ready", bench.count(1, 1))
        await bench.until("idle to zero", bench.count(0, 0))
        bench.rows = (load(queued=1, arrivals=1),)
        await bench.until("awake", bench.count(1, 1))
    assert [(one.previous, one.desired) for one in bench.decisions] == [(0, 1), (1, 0), (0, 1)]
    versions = [one.version for one in bench.told]
    assert versions == list(range(1, len(versions) + 1))


async def test_from_zero_does_not_wait_for_the_tick(bench: Bench) -> None:
    bench.settings = AutoscalerSettings(bench.settings.data, bench.settings.cache, tick_seconds=3600)
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment(instance_count=0, tidegate={"min_instances": 0})}))
        await bench.until("known", bench.count(0, 0))
        bench.talking = False
        bench.say(load(queued=1, arrivals=1))
        await bench.until("awake", bench.count(1, 1))


async def test_a_restart_goes_on_where_the_last_one_ended(bench: Bench) -> None:
    bench.rows = (load(in_flight=2),)
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment(tidegate={"min_instances": 1, "max_instances": 9})}))
        await bench.until("scaled out", bench.count(3, 3))
    told, decided, before = bench.told[-1], len(bench.decisions), set(bench.world.replicas)
    async with bench.running() as memory:
        bench.rows = (load(in_flight=4),)
        await bench.until("scaled out further", bench.count(6, 6))
        assert before < set(bench.world.replicas)
        assert memory.plans[0].generation == 2
    assert bench.decisions[decided].previous == 3
    assert (told.generation, bench.told[-1].generation) == (1, 2)
    assert bench.told[-1].version > told.version


async def test_stopping_leaves_the_replicas_alone(bench: Bench) -> None:
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment(instance_count=2)}))
        await bench.until("ready", bench.count(2, 2))
        told = len(bench.told)
    assert len(bench.world.replicas) == 2
    assert len(bench.told) == told


async def test_a_second_autoscaler_on_the_same_data_is_refused(bench: Bench) -> None:
    async with bench.running():
        other = MemoryBackend(world=bench.world)
        with pytest.raises(Conflict, match="another autoscaler owns"):
            await run(bench.settings, {"memory": other}, bench.log, asyncio.Event(), lambda: None, own_wait_seconds=0.1)


async def test_an_owner_that_was_overtaken_ends(bench: Bench) -> None:
    memory = MemoryBackend(world=bench.world)

    def overtaken() -> None:  # after its first look
        bench.world.generations[ENDPOINT] = 99
        bench.specs(revision(1, {"blue": deployment()}))

    with pytest.raises(TaskFailed, match="Fenced"):
        async with asyncio.timeout(DEADLINE):
            await run(
                bench.settings, {"memory": memory}, bench.log, asyncio.Event(), overtaken, default_backend="memory"
            )
    assert bench.world.replicas == {}
    await memory.close(end_replicas=True)


@pytest.mark.parametrize("known", [True, False], ids=["known at once", "blind at first"])
async def test_an_owner_that_lost_its_data_takes_over_from_the_one_it_was(
    bench: Bench, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the log the generations of before are lost; the cluster still holds what was done with them."""
    real, sighted = MemoryBackend.observe, asyncio.Event()

    async def observe(self: MemoryBackend) -> AsyncIterator[Observation]:
        if not known:
            yield Observation(blind="nobody answers")
            await sighted.wait()
        async for one in real(self):
            yield one

    monkeypatch.setattr(MemoryBackend, "observe", observe)
    bench.world.generations[ENDPOINT] = 99
    async with bench.running():
        sighted.set()
        bench.specs(revision(1, {"blue": deployment()}))
        await bench.until("ready", bench.count(1, 1))
    assert bench.world.generations[ENDPOINT] == 100
    async with bench.running():
        bench.specs(revision(2, {"blue": deployment(instance_count=2)}))
        await bench.until("ready", bench.count(2, 2))
    assert bench.world.generations[ENDPOINT] > 100


async def test_a_backend_that_refuses_a_plan_gets_it_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = MemoryBackend.apply, [OSError("no room")]

    async def apply(self: MemoryBackend, plan: Any) -> None:
        if failures:
            raise failures.pop()
        await real(self, plan)

    monkeypatch.setattr(MemoryBackend, "apply", apply)
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment()}))
        await bench.until("ready", bench.count(1, 1))
    assert not failures


async def test_logs_and_health_over_the_socket(bench: Bench) -> None:
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment()}))
        await bench.until("ready", bench.count(1, 1))
        connector = aiohttp.UnixConnector(str(bench.settings.data.autoscaler_socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get("http://autoscaler/healthz") as reply:
                assert await reply.json() == {"status": "ok"}
            query = {"endpoint": ENDPOINT, "deployment": "Blue", "lines": "5"}
            async with session.get("http://autoscaler/logs", params=query) as reply:
                assert await reply.json() == {"content": "tides-blue-1: starting"}
            async with session.get("http://autoscaler/logs", params={**query, "deployment": "green"}) as reply:
                assert reply.status == 404
            async with session.get("http://autoscaler/logs", params={**query, "lines": "-1"}) as reply:
                assert reply.status == 400
    assert not bench.settings.data.autoscaler_socket.exists()


async def test_messages_nobody_can_read_are_skipped(bench: Bench) -> None:
    bench.log.append(SPECS, "older", b'{"schema": 999}')
    bench.log.append(DEMAND, ENDPOINT, b"\xff\xff")
    async with bench.running():
        bench.specs(revision(1, {"blue": deployment()}))
        await bench.until("ready", bench.count(1, 1))


async def test_what_a_backend_counts_is_among_the_metrics(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBackend, "figures", lambda _: (single("tidegate_clouds", "gauge", "Seen", 7),))
    async with bench.running():
        connector = aiohttp.UnixConnector(str(bench.settings.data.autoscaler_socket))
        session = aiohttp.ClientSession(connector=connector)
        async with session, session.get("http://autoscaler/metrics") as reply:
            assert 'tidegate_clouds{process="autoscaler"} 7' in (await reply.text()).splitlines()
