"""A process that reads streams and keeps the account of them: `python -m tests.support.log_faults_reader URL SPOOL`.

On stdin: `count` → a line with the number of records and of messages seen so far; `level` → reads until everything that
was appended on this machine before has been read, then the same line; `ids` → reads all of it once more past the reader, and
counts what stands there twice; `end` (or its end) → the account (`log_faults_account.Seen`), pickled, in base64, and the
process ends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import pickle
import sys
from collections import Counter, defaultdict
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from router.contract.events import DEMAND, NOTICES, REQUESTS
from router.runtime.log.base import Message, Reader
from router.runtime.log.folding import sequences_in
from router.runtime.log.kafka_connection import client_options
from router.runtime.log.kafka_messages import ForeignMessage, message_of
from router.runtime.log.kafka_url import KafkaUrl, parse
from router.runtime.log.opening import open_log
from tests.support.log_faults_account import Seen
from tests.support.log_faults_writer import commands

TOPICS = (REQUESTS, DEMAND, NOTICES)


class Ids:
    """Which sequences stand in Kafka how often."""

    def __init__(self) -> None:
        self.twice: Counter[str] = Counter()
        self._known: dict[tuple[str, int, str], set[int]] = defaultdict(set)

    def take(self, message: Message) -> None:
        """Enter one message as it stands there."""
        known = self._known[message.topic, message.partition, message.writer]
        sequences = {message.sequence}.union(*sequences_in(message.replaces))
        if again := len(sequences & known):
            self.twice[message.topic] += again
        known |= sequences


class Reading:
    """One reader, used by whoever holds the lock."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.seen = Seen(reader.stats)
        self._turn = asyncio.Lock()

    async def on(self) -> None:
        """Read for ever."""
        while True:
            async with self._turn:
                await self._some()
            await asyncio.sleep(0)

    async def _some(self) -> None:
        for message in await self._reader.next(0.05):
            self.seen.take(message)

    async def level(self) -> None:
        """Read until everything is read that was appended before."""
        async with self._turn:
            while not await self._reader.caught_up():
                await self._some()

    def count(self) -> str:
        return f"{self.seen.audit.records()} {self.seen.stats.messages}"


async def ids(url: KafkaUrl) -> Ids:
    """Everything that the topics hold now, as Kafka has it."""
    found = Ids()
    consumer = AIOKafkaConsumer(**client_options(url, "test"), enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(url.topic(topic), number) for topic in TOPICS for number in range(url.partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(places)
        while [place for place in places if await consumer.position(place) < ends[place]]:
            for place, records in (await consumer.getmany(timeout_ms=100)).items():
                topic = url.topic_of(place.topic)
                for one in records:
                    with contextlib.suppress(ForeignMessage):
                        found.take(message_of(topic, place.partition, one.offset, one.key, one.value, one.headers))
    finally:
        await consumer.stop()
    return found


async def _answer(reading: Reading, url: KafkaUrl) -> None:
    orders = await commands()
    while (word := (await orders.readline()).strip().decode()) not in {"", "end"}:
        if word == "level":
            await reading.level()
        elif word == "ids":
            reading.seen.twice = (await ids(url)).twice
        print(reading.count(), flush=True)  # noqa: T201 -- the answer
    print(base64.b64encode(pickle.dumps(reading.seen)).decode(), flush=True)  # noqa: T201 -- the answer


async def _main(url: str, spool: str) -> None:
    log = open_log(url, spool=Path(spool))
    reading = Reading(await log.reader(TOPICS))
    going = asyncio.create_task(reading.on())
    answering = asyncio.create_task(_answer(reading, parse(url)))
    await asyncio.wait({going, answering}, return_when=asyncio.FIRST_COMPLETED)
    going.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await going
    await answering
    await log.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2]))
