"""Spools with a broker behind them: machines that append, shippers that run, and what the broker has in the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition

from router.runtime.log import shipper
from router.runtime.log.base import Message, ReaderStats
from router.runtime.log.continuity import Continuity
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.folding import sequences_in
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_messages import message_of, partition_of
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.shipper import ShipperSettings
from router.runtime.log.shipping import ShippingSettings
from router.runtime.log.spool import Spool

DEADLINE_SECONDS = 120.0
QUICK = ShipperSettings(shipping=ShippingSettings(silence_seconds=0.5, retry_limit_seconds=0.5), standby_seconds=0.02)
"""Notices a broker that is back soon."""


class Machine:
    """One data folder: an appending process and its spool."""

    def __init__(self, url: KafkaUrl, folder: Path, **settings: Any) -> None:
        self.url = url
        self.folder = folder
        self.log = EmbeddedLog(folder, settings=WriterSettings(outgoing=True, **settings))
        self.spool = Spool.open(folder / "log.db")
        self.sent: dict[str, list[tuple[int, int, bytes]]] = defaultdict(list)

    def append(self, topic: str, key: str, value: bytes) -> int:
        partition = partition_of(key, self.url.partitions)
        sequence = self.log.append(topic, key, value, partition)
        if sequence >= 0:
            self.sent[topic].append((partition, sequence, value))
        return sequence

    async def shipped(self) -> None:
        """Return once nothing waits any more."""
        await self.log.flush()
        await until(lambda: self.spool.size().rows == 0)

    async def close(self) -> None:
        self.spool.close()
        await self.log.close()


@contextlib.asynccontextmanager
async def machine(url: KafkaUrl, folder: Path, **settings: Any) -> AsyncIterator[Machine]:
    one = Machine(url, folder, **settings)
    try:
        yield one
    finally:
        await one.close()


@contextlib.asynccontextmanager
async def shipping(
    url: KafkaUrl, folder: Path, settings: ShipperSettings = QUICK
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A shipper in this process; what is yielded ends it early. It must end well."""
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(shipper.run(url, folder, stop, ready.set, settings=settings, environ={}))

    async def end() -> None:
        stop.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await task

    waiting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield end
        await end()
    finally:
        waiting.cancel()
        task.cancel()
        await asyncio.wait({task, waiting})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def on_kafka(url: KafkaUrl, topic: str) -> list[Message]:
    """Everything that the broker has on `topic` now, by partition and offset."""
    consumer = AIOKafkaConsumer(**client_options(url, "test", {}), enable_auto_commit=False)
    name = url.topic(topic)
    found: list[Message] = []
    async with asyncio.timeout(DEADLINE_SECONDS):
        await consumer.start()
        try:
            places = [TopicPartition(name, number) for number in range(url.partitions)]
            ends, starts = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
            consumer.assign(places)
            for place, start in starts.items():
                consumer.seek(place, start)
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [
                        message_of(topic, one.partition, one.offset, one.key, one.value, one.headers) for one in records
                    ]
        finally:
            await consumer.stop()
    return sorted(found, key=lambda one: (one.partition, one.offset))


async def delete_topics(url: KafkaUrl, topics: Iterable[str]) -> None:
    """Return once the broker does not know them any more: until then it takes messages that go with them."""
    options = client_options(url, "test", {})
    admin = AIOKafkaAdminClient(
        bootstrap_servers=options["bootstrap_servers"], request_timeout_ms=options["request_timeout_ms"]
    )
    await admin.start()
    try:
        names = {url.topic(topic) for topic in topics}
        await admin.delete_topics(list(names))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while names := names & set(await admin.list_topics()):
                await asyncio.sleep(0.01)
    finally:
        await admin.close()


def ids(messages: Iterable[Message]) -> Counter[tuple[str, int, int]]:
    """(writer, partition, sequence) → how often it is there, also as a part of another message."""
    found: Counter[tuple[str, int, int]] = Counter()
    for message in messages:
        found[message.writer, message.partition, message.sequence] += 1
        for part in sequences_in(message.replaces):
            found.update((message.writer, message.partition, sequence) for sequence in part)
    return found


def check_complete(messages: Sequence[Message], sent: Sequence[Machine], topic: str) -> int:
    """Every message that was accepted is there, in order but for repetitions; how many came more than once."""
    wanted = {(one.log.writer, partition, sequence) for one in sent for partition, sequence, _ in one.sent[topic]}
    found = ids(messages)
    assert found.keys() == wanted
    stats = ReaderStats()
    books = Continuity(stats)
    fresh = [message for message in messages if books.saw(message)]
    assert stats.gaps == 0
    assert len(fresh) == len(wanted) or any(message.replaces for message in messages)
    order: dict[tuple[str, int], int] = defaultdict(lambda: -1)
    for message in fresh:
        assert message.sequence > order[message.writer, message.partition]
        order[message.writer, message.partition] = message.sequence
    return sum(found.values()) - len(wanted)


def kafka_url(servers: str, prefix: str, partitions: int = 3) -> KafkaUrl:
    return dataclasses.replace(KafkaUrl((servers,)), prefix=prefix, partitions=partitions)
