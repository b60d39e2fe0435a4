"""What a test does to topics past Tidegate: deletes them, and produces what nobody of us would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from router.contract.events import TOPICS
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_topic_ids import topic_ids
from router.runtime.log.kafka_url import KafkaUrl
from tests.support.log_faults_account import Seen, Written

DEADLINE_SECONDS = 120.0


@contextlib.asynccontextmanager
async def administration(url: KafkaUrl) -> AsyncIterator[AIOKafkaAdminClient]:
    """An administrator's client."""
    options = client_options(url, "test", {})
    admin = AIOKafkaAdminClient(
        bootstrap_servers=options["bootstrap_servers"], request_timeout_ms=options["request_timeout_ms"]
    )
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete(url: KafkaUrl, topics: Iterable[str] = TOPICS) -> None:
    """Return once none of the topics is the one any more that it was: gone, or already made anew by somebody."""
    names = [url.topic(topic) for topic in topics]
    async with administration(url) as admin, asyncio.timeout(DEADLINE_SECONDS):
        before = await topic_ids(admin._client, names)
        assert sorted(before) == sorted(names)
        await admin.delete_topics(names)
        while before.items() & (await topic_ids(admin._client, names)).items():
            await asyncio.sleep(0.01)


async def back(url: KafkaUrl, topics: Iterable[str] = TOPICS) -> None:
    """Wait until all of the topics are there."""
    names = {url.topic(topic) for topic in topics}
    async with administration(url) as admin, asyncio.timeout(DEADLINE_SECONDS):
        while (await topic_ids(admin._client, names)).keys() != names:
            await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A record as it is to stand on a topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    partition: int = 0


async def produce(url: KafkaUrl, topic: str, records: Iterable[Foreign]) -> None:
    """Put them there, in order."""
    options = client_options(url, "test", {})
    async with asyncio.timeout(DEADLINE_SECONDS), AIOKafkaProducer(**options, acks="all") as producer:
        for one in records:
            await producer.send_and_wait(
                url.topic(topic), one.value, key=one.key, headers=list(one.headers), partition=one.partition
            )


def holes(seen: Seen, written: Written, topic: str) -> list[range]:
    """Sequences of a writer that was told everything which the reader never saw: those of each partition, in ranges."""
    found: list[range] = []
    for partition, count in written.messages(topic).items():
        missing = sorted(set(range(count)) - seen.sequences(topic, partition, written.writer))
        found += [] if not missing else _ranges(missing)
    return found


def _ranges(numbers: Sequence[int]) -> list[range]:
    found = [range(numbers[0], numbers[0] + 1)]
    for number in numbers[1:]:
        if number == found[-1].stop:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found
