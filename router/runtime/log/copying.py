"""Keeps this machine's copy of Kafka's compacted topics: what other machines wrote on them goes into the spool's file.

Where to read on is stored together with what was read, so nothing is left out and nothing comes twice. A topic that was
deleted and made anew, by whomever, is noticed by its id, or, where brokers tell none, by its offsets or its absence; then
it is read from its beginning, and what this machine had written there is shipped again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from router.contract.errors import TidegateError, Unavailable
from router.contract.events import COMPACTED
from router.runtime.log.base import Message, Position
from router.runtime.log.containing import CancelledInside, contained
from router.runtime.log.kafka_client import stopped
from router.runtime.log.kafka_messages import ForeignMessage, message_of
from router.runtime.log.kafka_topic_ids import Vigil
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_link import CONNECTING, CURRENT, REFUSED, UNREACHABLE
from router.runtime.log.telling import Telling
from router.runtime.telemetry import Limited

SIDE = "copy"
"""What this part is called in `Telling`."""


@dataclass(frozen=True, slots=True)
class CopyingSettings:
    """How the copy is kept. Unit, default and why under each field."""

    batch_records: int = 2_000
    """Most records of one transaction: tens of milliseconds, so that shipping gets its turn."""
    look_seconds: float = 0.5
    """Longest wait for records before it looks whether the topics are still there."""
    check_seconds: float = 5.0
    """Longest time between two questions to the broker, which topics it has and where they end: how long a silent broker
    counts as there."""
    answer_seconds: float = 5.0
    """For the answer to such a question."""
    stop_seconds: float = 2.0
    """For a consumer to end by itself."""
    retry_seconds: float = 0.2
    """First pause after a failure; each further one doubles it."""
    retry_limit_seconds: float = 5.0
    """Longest pause."""


class _MadeAnew(Exception):
    """Topics are gone or others have their names; `topics` are those without the prefix."""

    def __init__(self, topics: Collection[str]) -> None:
        super().__init__(", ".join(sorted(topics)))
        self.topics = topics


class Copying:
    """One task runs it, for the life of the shipper."""

    def __init__(
        self,
        url: KafkaUrl,
        options: Mapping[str, Any],
        desk: Desk,
        telling: Telling,
        settings: CopyingSettings,
        *,
        shipping_again: Callable[[], None],
    ) -> None:
        """`shipping_again` is called when rows that had been shipped wait once more."""
        self._url = url
        self._options = options
        self._desk = desk
        self._telling = telling
        self._settings = settings
        self._shipping_again = shipping_again
        self._reports = Limited(logging.getLogger(__name__))
        self._names = {url.topic(topic) for topic in COMPACTED}
        self._lost: set[str] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._places = [
            TopicPartition(url.topic(topic), number) for topic in sorted(COMPACTED) for number in range(url.partitions)
        ]

    async def run(self) -> None:
        """Copy until cancelled."""
        pause = self._settings.retry_seconds
        while True:
            try:
                await contained("copy consumer", self._once())
            except _MadeAnew as news:
                self._lost |= set(news.topics)
            except TidegateError as error:
                state = UNREACHABLE if isinstance(error, Unavailable) else REFUSED
                self._failed(state, error.message)
            except (KafkaError, OSError, TimeoutError, CancelledInside) as error:
                self._failed(UNREACHABLE, f"the broker does not answer: {error!r}")
            except Exception as error:
                # aiokafka has internal states that it does not get out of: a new consumer does.
                self._reports.error("copy_broke", "the copy's consumer broke and is replaced", error=error)
                self._failed(CONNECTING, f"the copy's consumer broke: {error!r}")
            if self._telling.was_current(SIDE):
                pause = self._settings.retry_seconds
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._settings.retry_limit_seconds)

    def _failed(self, state: str, message: str) -> None:
        self._reports.warning("copy_failed", f"the compacted topics cannot be copied and are tried again: {message}")
        self._telling.side(SIDE, state, message)

    async def _once(self) -> None:
        """One consumer's life."""
        await ensure_topics(self._url, self._options)
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a place that is not there must be noticed here
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=4 << 20,
        )
        try:
            await consumer.start()
            vigil = Vigil(consumer._client, self._names, self._settings.check_seconds)
            await self._follow(consumer, vigil, await self._take_place(consumer, vigil))
        finally:
            await stopped(consumer, self._settings.stop_seconds)

    async def _take_place(self, consumer: AIOKafkaConsumer, vigil: Vigil) -> dict[TopicPartition, int]:
        """Go where the copy stopped; returns where the topics end now."""
        async with asyncio.timeout(self._settings.answer_seconds):
            await vigil.begin()
            starts = await consumer.beginning_offsets(self._places)
        ends = await self._ends(consumer)
        if vigil.ids:
            self._lost.clear()  # may have been gone for a moment; the ids know
        stored = {
            TopicPartition(self._url.topic(one.topic), one.partition): one for one in await self._desk.ask(Spool.copied)
        }
        anew = self._lost | {
            self._url.topic_of(place.topic)
            for place, one in stored.items()
            if place in ends
            and (one.offset > ends[place] or _is_other(one.incarnation, vigil.ids.get(place.topic, "")))
        }
        if anew:
            await self._begin_anew(anew)
            stored = {place: one for place, one in stored.items() if one.topic not in anew}
        self._positions = {
            place: max(starts[place], stored[place].offset if place in stored else 0) for place in self._places
        }
        # Also of topics with nothing in them yet: what we ship there next may go with them before it was read back.
        await self._desk.ask(lambda spool: spool.copy((), self._stored(self._places, vigil)))
        # In one go: a place that is assigned and not known is looked for, and not found.
        consumer.assign(self._places)
        for place, offset in self._positions.items():
            consumer.seek(place, offset)
        return ends

    def _stored(self, places: Iterable[TopicPartition], vigil: Vigil) -> list[Position]:
        return [
            Position(self._url.topic_of(one.topic), one.partition, self._positions[one], vigil.ids.get(one.topic, ""))
            for one in places
        ]

    async def _begin_anew(self, topics: Collection[str]) -> None:
        def again(spool: Spool) -> int:
            spool.forget_copied(topics)
            return spool.ship_again(topics)

        count = await self._desk.ask(again)
        self._lost.clear()
        self._reports.error(
            "topic_made_anew",
            f"topics were deleted and made anew: {', '.join(sorted(topics))}; what this machine had published is sent again",
            messages=count,
        )
        self._shipping_again()

    async def _ends(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        async with asyncio.timeout(self._settings.answer_seconds):
            return dict(await consumer.end_offsets(self._places))

    async def _follow(self, consumer: AIOKafkaConsumer, vigil: Vigil, goal: Mapping[TopicPartition, int]) -> None:
        missing = dict(goal)
        while True:
            missing = {place: end for place, end in missing.items() if await consumer.position(place) < end}
            if not missing:
                self._telling.link.copied_once = True
                self._telling.side(SIDE, CURRENT)
            found = await consumer.getmany(
                timeout_ms=round(1000 * self._settings.look_seconds), max_records=self._settings.batch_records
            )
            if vigil.due:
                await self._look(consumer, vigil)
            if found:
                await self._take(found, vigil)

    async def _look(self, consumer: AIOKafkaConsumer, vigil: Vigil) -> None:
        """Raise `_MadeAnew` unless the topics are still the ones that were found. Raises `KafkaError`, `TimeoutError`."""
        async with asyncio.timeout(self._settings.answer_seconds):
            others = {self._url.topic_of(name) for name in await vigil.changed()}
        if not vigil.ids:
            others = {topic for topic in COMPACTED if not consumer.partitions_for_topic(self._url.topic(topic))}
        ends = await self._ends(consumer)
        others |= {self._url.topic_of(place.topic) for place, end in ends.items() if self._positions[place] > end}
        if others:
            raise _MadeAnew(others)

    async def _take(self, found: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]], vigil: Vigil) -> None:
        messages: list[Message] = []
        for place, records in found.items():
            messages.extend(filter(None, (self._message(place, record) for record in records)))
            self._positions[place] = records[-1].offset + 1
        positions = self._stored(found, vigil)

        def copy(spool: Spool) -> int:
            counts = spool.copy(messages, positions)
            self._desk.ring(counts)
            return counts.total()

        self._telling.link.copied += await self._desk.ask(copy)

    def _message(self, place: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> Message | None:
        topic = self._url.topic_of(place.topic)
        try:
            return message_of(topic, place.partition, record.offset, record.key, record.value, record.headers)
        except ForeignMessage as error:
            self._telling.link.foreign += 1
            self._reports.warning("foreign_message", f"a record on {place.topic} that is not ours is skipped: {error}")
            return None


def _is_other(known: str, now: str) -> bool:
    return bool(known and now and known != now)
