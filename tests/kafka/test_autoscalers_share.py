"""Two autoscalers on a real Kafka: they share the endpoints, one takes over from the other, and a zombie is refused."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from autoscaler.control import service
from loadtests.broker import Broker
from router.contract.codec import decode_replicas, encode_demand, encode_specs
from router.contract.events import DEMAND, REPLICAS, SPECS, DemandReport, EndpointReplicas
from router.runtime.log.base import Log
from router.runtime.log.kafka import KafkaLog
from router.runtime.log.kafka_member import SESSION_SECONDS, KafkaMember
from router.runtime.log.opening import open_log
from router.runtime.settings import AutoscalerSettings, DataLayout
from tests.support.autoscaler_fleet import SECOND
from tests.support.autoscaler_group import specs
from tests.support.autoscaler_shared_log import until
from tests.support.log_writing import Place, shipping

ENDPOINTS = tuple(f"tides-{number}" for number in range(8))


class Scaler:
    """One autoscaler of several: its data folder, its spool with a shipper, and the backend that all of them use."""

    def __init__(self, root: Path, url: str, name: str, world: MemoryWorld) -> None:
        self.data = DataLayout(root / name)
        self.data.create()
        self.place = Place(url, self.data.spool)
        self.settings = AutoscalerSettings(self.data, root / "cache", tick_seconds=0.2, drain_acknowledge_seconds=2)
        self.world = world
        self._name = name
        self._made: list[service.Autoscaler] = []
        self._tasks = contextlib.AsyncExitStack()

    @property
    def autoscaler(self) -> service.Autoscaler:
        return self._made[-1]

    def acts_for(self) -> set[str]:
        territory = self.autoscaler.reconciler.territory if self._made else None
        return {one for one in ENDPOINTS if territory is not None and territory.acts_for(one)}

    @property
    def member(self) -> KafkaMember:
        (member,) = self.log._members
        assert isinstance(member, KafkaMember)
        return member

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scaler]:
        """The service; it ends without leaving its group, as a killed one does."""
        self.shipper = contextlib.AsyncExitStack()
        await self.shipper.enter_async_context(shipping(self.place))
        log = open_log(self.place.url, spool=self.place.spool, role="autoscaler", instance=self._name)
        assert isinstance(log, KafkaLog)
        self.log = log
        backend = MemoryBackend(world=self.world, name="memory")
        stop = asyncio.Event()
        backends = {"memory": backend}
        running = asyncio.create_task(
            service.run(
                self.settings, backends, log, stop, lambda: None, default_backend="memory", on_made=self._made.append
            )
        )
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.wait({running})
            await backend.close(end_replicas=False)
            await log.close()
            await self.shipper.aclose()


class Rest:
    """Control plane and gateway in one: writes specs and demand, and routes by what `replicas` says."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.words: dict[str, EndpointReplicas] = {}

    async def watch(self) -> None:
        reader = await self.log.reader((REPLICAS,))
        try:
            while True:
                for message in await reader.next(None):
                    word = decode_replicas(message.value)
                    known = self.words.get(word.endpoint)
                    if known is None or (word.generation, word.version) > (known.generation, known.version):
                        self.words[word.endpoint] = word
        finally:
            await reader.close()

    async def talk(self) -> None:
        while True:
            now = time.time_ns()
            for endpoint in ENDPOINTS:
                word = self.words.get(endpoint)
                report = DemandReport(endpoint, now - SECOND // 5, now, 1, word.version if word else 0)
                self.log.append(DEMAND, endpoint, encode_demand(report))
            await asyncio.sleep(0.2)

    def published(self) -> set[str]:
        return {name for name, word in self.words.items() if any(one.replicas for one in word.deployments.values())}


@pytest.fixture
async def rest(kafka_broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Rest]:
    place = Place(f"kafka://{kafka_broker.servers}/{prefix}?partitions=4", tmp_path / "rest")
    async with shipping(place):
        made = Rest(open_log(place.url, spool=place.spool))
        for endpoint in ENDPOINTS:
            made.log.append(SPECS, endpoint, encode_specs(specs(endpoint, instance_count=1)))
        tasks = [asyncio.create_task(made.watch()), asyncio.create_task(made.talk())]
        yield made
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.log.close()


@pytest.fixture
def scaler(kafka_broker: Broker, prefix: str, tmp_path: Path) -> Callable[[str], Scaler]:
    url, world = f"kafka://{kafka_broker.servers}/{prefix}?partitions=4", MemoryWorld()
    return lambda name: Scaler(tmp_path, url, name, world)


def shared(first: Scaler, second: Scaler) -> bool:
    """Whether every endpoint has exactly one owner, and each owner some."""
    ours, theirs = first.acts_for(), second.acts_for()
    return bool(ours and theirs) and not ours & theirs and ours | theirs == set(ENDPOINTS)


async def test_they_share_and_when_one_dies_the_other_takes_over(rest: Rest, scaler: Callable[[str], Scaler]) -> None:
    first, second = scaler("first"), scaler("second")
    async with second.running():
        async with first.running():
            await until("everything is shared", lambda: shared(first, second))
            await until("everything runs", lambda: rest.published() == set(ENDPOINTS))
            before, lost = dict(rest.words), first.acts_for()
            ids = set(first.world.replicas)
        died = time.monotonic()
        await until("all is taken over", lambda: second.acts_for() == set(ENDPOINTS))
        # Given up after the session, dealt anew at the next heartbeat of the one that is left.
        assert time.monotonic() - died < 10 * SESSION_SECONDS
        await until("said so", lambda: all(rest.words[one].generation > before[one].generation for one in lost))
        assert set(second.world.replicas) == ids, "the same replicas serve on, none was started or ended for it"

        again = scaler("first")
        async with again.running():
            await until("shared again", lambda: shared(again, second))


async def test_what_a_zombie_does_is_refused_by_its_generation(
    rest: Rest, scaler: Callable[[str], Scaler], monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie, other = scaler("zombie"), scaler("other")
    async with zombie.running(), other.running():
        await until("everything is shared", lambda: shared(zombie, other))
        await until("everything runs", lambda: rest.published() == set(ENDPOINTS))
        # It hears nothing any more, and the group hears nothing of it.
        await zombie.shipper.aclose()
        consumer = zombie.member._consumer
        assert consumer is not None

        async def silent() -> bool:
            await asyncio.get_running_loop().create_future()
            return False

        monkeypatch.setattr(consumer._coordinator, "_do_heartbeat", silent)
        await until("the other has everything", lambda: other.acts_for() == set(ENDPOINTS))
        kept = zombie.acts_for()
        assert kept, "it does not know"
        await until("said so", lambda: all(rest.words[one].generation == other_generation(other, one) for one in kept))
        endpoint = min(kept)
        before = set(zombie.world.replicas)
        victim = next(one.id for one in zombie.world.replicas.values() if one.endpoint == endpoint)
        # The zombie is told to act: its deployment is to have another size.
        zombie.autoscaler.reconciler.take_specs(specs(endpoint, 2, instance_count=3))
        await until("it is refused", lambda: endpoint not in zombie.acts_for())
        assert zombie.autoscaler.intake.stats.fenced >= 1
        assert set(zombie.world.replicas) == before
        assert victim in zombie.world.replicas


def other_generation(scaler: Scaler, endpoint: str) -> int:
    """The generation with which `scaler` acts for `endpoint`."""
    return scaler.autoscaler.reconciler.territory.generation(endpoint)
