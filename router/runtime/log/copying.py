"""Keeps this machine's copy of Kafka's compacted topics: what other machines wrote on them goes into the spool's file.

Where to read on is stored together with what was read, so nothing is left out and nothing comes twice. A topic that was
deleted and made anew, by whomever, is noticed by its offsets or its absence; then it is read from its beginning, and
what this machine had written there is shipped again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from router.contract.errors import TidegateError, Unavailable
from router.contract.events import COMPACTED
from router.runtime.log.base import Message, Position
from router.runtime.log.containing import CancelledInside, contained
from router.runtime.log.kafka_messages import ForeignMessage, message_of
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
    """Between two questions to the broker where its topics end: how long a silent broker counts as there."""
    answer_seconds: float = 5.0
    """For the answer to such a question."""
    stop_seconds: float = 2.0
    """For a consumer to end by itself."""
    retry_seconds: float = 0.2
    """First pause after a failure; each further one doubles it."""
    retry_limit_seconds: float = 5.0
    """Longest pause."""


class _MadeAnew(Exception):
    """Topics are gone or begin again; `topics` are their names without the prefix."""

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
            await self._follow(consumer, await self._take_place(consumer))
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._settings.stop_seconds):
                    await consumer.stop()

    async def _take_place(self, consumer: AIOKafkaConsumer) -> dict[TopicPartition, int]:
        """Go where the copy stopped; returns where the topics end now."""
        ends = await self._ends(consumer)
        async with asyncio.timeout(self._settings.answer_seconds):
            starts = await consumer.beginning_offsets(self._places)
        stored = {
            TopicPartition(self._url.topic(topic), partition): offset
            for topic, partition, offset in await self._desk.ask(Spool.copied)
        }
        anew = self._lost | {
            self._url.topic_of(place.topic) for place, end in ends.items() if stored.get(place, 0) > end
        }
        if anew:
            await self._begin_anew(anew)
            stored = {place: at for place, at in stored.items() if self._url.topic_of(place.topic) not in anew}
        self._positions = {place: max(starts[place], stored.get(place, 0)) for place in self._places}
        # In one go: a place that is assigned and not known is looked for, and not found.
        consumer.assign(self._places)
        for place, offset in self._positions.items():
            consumer.seek(place, offset)
        return ends

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

    async def _follow(self, consumer: AIOKafkaConsumer, goal: Mapping[TopicPartition, int]) -> None:
        loop = asyncio.get_running_loop()
        checked = loop.time()
        missing = dict(goal)
        while True:
            missing = {place: end for place, end in missing.items() if await consumer.position(place) < end}
            if not missing:
                self._telling.link.copied_once = True
                self._telling.side(SIDE, CURRENT)
            found = await consumer.getmany(
                timeout_ms=round(1000 * self._settings.look_seconds), max_records=self._settings.batch_records
            )
            if found:
                await self._take(found)
            gone = {topic for topic in COMPACTED if not consumer.partitions_for_topic(self._url.topic(topic))}
            if gone:
                raise _MadeAnew(gone)
            if loop.time() - checked >= self._settings.check_seconds:
                ends = await self._ends(consumer)
                if anew := {self._url.topic_of(p.topic) for p, end in ends.items() if self._positions[p] > end}:
                    raise _MadeAnew(anew)
                checked = loop.time()

    async def _take(self, found: Mapping[TopicPartition, Sequence[ConsumerRecord[bytes, bytes]]]) -> None:
        messages: list[Message] = []
        for place, records in found.items():
            messages.extend(filter(None, (self._message(place, record) for record in records)))
            self._positions[place] = records[-1].offset + 1
        positions = [
            Position(self._url.topic_of(place.topic), place.partition, self._positions[place]) for place in found
        ]

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
