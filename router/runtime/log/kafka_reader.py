"""Reading stream topics from Kafka: one consumer with partitions of our own choice, replaced whenever it fails.

A task fetches ahead into a bounded shelf, so that the caller may be cancelled at any moment; the cursors move when
`next` hands messages out. A broker that is away is waited for: `next` then simply has nothing to give. A topic that was
deleted and made anew is read from its beginning: nothing goes on the shelf before it is sure which topic it is from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from router.contract.errors import TidegateError, Unavailable
from router.runtime.log.base import Message, Position, ReaderStats
from router.runtime.log.containing import CancelledInside, contained
from router.runtime.log.continuity import Continuity
from router.runtime.log.kafka_client import started, stopped
from router.runtime.log.kafka_messages import ForeignMessage, message_of
from router.runtime.log.kafka_shelf import Place, Shelf
from router.runtime.log.kafka_topic_ids import Vigil
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.telemetry import Limited

BATCH_RECORDS = 2_000
"""Records taken from the consumer at once: some milliseconds of the event loop."""
HAND_OUT = 2_000
"""Messages per `next`, for the same reason."""
OPEN_SECONDS = 15.0
"""How long a reader that starts at the end waits for the broker to say where that is."""
END_SECONDS = 5.0
"""For what waits here to be shipped, and for the broker's answer where the ends are."""
IDENTITY_SECONDS = 1.0
"""Longest time between two looks at whether the topics are still the same ones; a reason to doubt it comes sooner."""
LOOK_SECONDS = 1.0
"""For the answer to such a look."""
RETRY_SECONDS = 0.2
RETRY_LIMIT_SECONDS = 5.0

Shipped = Callable[[Collection[str]], Awaitable[bool]]
"""Topics → whether everything that this machine had accepted when a row of calls began has reached the broker."""
_LOG = logging.getLogger(__name__)


class _MadeAnew(Exception):
    """Topics are gone, or others have their names."""


class KafkaReader:
    """Implements `Reader` for some partitions of stream topics. Used by one task at a time, in one event loop."""

    def __init__(
        self,
        url: KafkaUrl,
        options: Mapping[str, Any],
        topics: Sequence[str],
        partitions: Iterable[int],
        stats: ReaderStats,
        *,
        shipped: Callable[[], Shipped],
    ) -> None:
        """`shipped` makes a mark of what the spool holds now, and says later whether that has left it."""
        self.stats = stats
        self._url = url
        self._options = options
        self._topics = tuple(topics)
        self._assigned = [TopicPartition(url.topic(topic), one) for topic in topics for one in sorted(partitions)]
        self._continuity = Continuity(stats)
        self._new_mark = shipped
        self._mark: Shipped | None = None
        self._goal: dict[TopicPartition, Place] | None = None
        self._shelf = Shelf(self._assigned)
        self._vigil: Vigil | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._reports = Limited(_LOG, seconds=10.0)

    async def open(self, start: Sequence[Position] | str) -> None:
        """Find the start and begin to fetch. Raises `Unavailable` when it is the end and no broker can name it."""
        self._shelf.start({} if isinstance(start, str) else self._places_of(start))
        if start == "latest":
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    ends = await contained("log reader's start at the end", self._find_the_end())
            except (_MadeAnew, TimeoutError, KafkaError, OSError, CancelledInside) as error:
                raise Unavailable(
                    f"no broker of {','.join(self._url.servers)} says where {', '.join(self._topics)} end: "
                    f"{error or 'it does not answer'}; check that it runs and can be reached"
                ) from error
            self._shelf.start(ends)
        elif isinstance(start, str) and start != "earliest":
            raise ValueError(f"start is 'earliest', 'latest' or positions, not {start!r}")
        self._task = asyncio.create_task(self._keep_fetching(), name=f"kafka reader of {'+'.join(self._topics)}")

    def _places_of(self, positions: Sequence[Position]) -> dict[TopicPartition, Place]:
        found = {TopicPartition(self._url.topic(one.topic), one.partition): one for one in positions}
        return {one: Place(found[one].offset, found[one].incarnation) for one in self._assigned if one in found}

    async def _find_the_end(self) -> dict[TopicPartition, Place]:
        shipped = self._new_mark()
        self._consumer = await started(self._connect())
        self._connected.set()
        return await self._ends(shipped)

    # fetching --------------------------------------------------------------------------------------------------

    async def _connect(self) -> AIOKafkaConsumer:
        await ensure_topics(
            self._url, self._options
        )  # before any broker makes them by itself, with settings of its own
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a place that retention has overtaken, or a topic that was made anew
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=4 << 20,
            check_crcs=True,
        )
        try:
            await consumer.start()
            self._vigil = Vigil(consumer._client, {one.topic for one in self._assigned}, IDENTITY_SECONDS)
            await self._vigil.begin()
            self._identify(self._vigil.ids)
            consumer.assign(self._assigned)
            # At once, or the client finds a place of its own in the background and goes there after us.
            self._seek(consumer)
        except BaseException:
            await stopped(consumer)
            raise
        return consumer

    def _identify(self, ids: Mapping[str, str]) -> None:
        """Go to the beginning of what is another topic than before."""
        anew = {one.topic for one in self._assigned if one.topic in ids and self._shelf.identify(one, ids[one.topic])}
        if anew:
            self._reports.error(
                "log_topic_made_anew", f"made anew and read from its beginning: {', '.join(sorted(anew))}"
            )

    def _seek(self, consumer: AIOKafkaConsumer) -> None:
        for one, place in self._shelf.ahead.items():
            consumer.seek(one, place.offset)

    async def _keep_fetching(self) -> None:
        pause = RETRY_SECONDS
        while True:
            try:
                consumer: Any = self._consumer
                if consumer is None:
                    consumer = self._consumer = await contained("log reader's start", started(self._connect()))
                self._seek(consumer)
                pause = RETRY_SECONDS
                self._connected.set()
                await contained("log reader", self._fetch(consumer))
            except _MadeAnew:
                pause = RETRY_SECONDS
            except (KafkaError, TidegateError, OSError, CancelledInside) as error:
                self._reports.warning("log_read_failed", f"the log cannot be read and is tried again: {error!r}")
            except Exception as error:
                # aiokafka has internal states that it does not get out of: a new consumer does.
                self._reports.error("log_read_broke", "the log's consumer broke and is replaced", error=error)
            finally:
                self._connected.clear()
                old, self._consumer = self._consumer, None
                if old is not None:
                    await stopped(old)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, RETRY_LIMIT_SECONDS)

    async def _fetch(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            await self._shelf.room.wait()
            found = await consumer.getmany(timeout_ms=1000, max_records=BATCH_RECORDS)
            await self._make_sure(found.keys())
            for partition, records in found.items():
                place = self._shelf.ahead[partition]
                if records[0].offset < place.offset:  # of a broker that tells no ids, or that lost what it had
                    self._goal = None
                    self._shelf.begin_anew(partition, place.incarnation)
                messages = [message for record in records if (message := self._message(partition, record))]
                self._shelf.put(partition, messages, records[-1].offset + 1)

    async def _make_sure(self, fetched: Collection[TopicPartition]) -> None:
        """Raise `_MadeAnew` when a topic is not the one any more that was fetched from, as far as there is a doubt.

        With something in our hands only those are asked who gave it, and until they answer: another broker, dead or
        frozen, must not hold it up.
        """
        assert self._vigil is not None
        while self._vigil.due:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    changed = await self._vigil.changed(fetched or None)
            except (KafkaError, TimeoutError) as error:
                self._reports.warning("log_topic_unsure", f"no broker says whether topics are the same: {error!r}")
                if not fetched:
                    return
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if changed:
                    raise _MadeAnew(changed)
                return

    def _message(self, partition: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> Message | None:
        topic = self._url.topic_of(partition.topic)
        try:
            return message_of(topic, partition.partition, record.offset, record.key, record.value, record.headers)
        except ForeignMessage as error:
            self.stats.skipped += 1
            words = f"a message of somebody else on {partition.topic} is skipped: {error}"
            self._reports.warning("log_foreign_message", words)
            return None

    # reading ---------------------------------------------------------------------------------------------------

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """See `Reader.next`. What is sent twice (a broker died between taking a message and saying so) comes once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not self._closed:
                    if self._shelf.empty:
                        self._shelf.news.clear()
                        await self._shelf.news.wait()
                    elif messages := self._hand_out():
                        return messages
        return () if self._closed else self._hand_out()

    def _hand_out(self) -> Sequence[Message]:
        return [message for message in self._shelf.take(HAND_OUT) if self._continuity.saw(message)]

    def positions(self) -> Sequence[Position]:
        """See `Reader.positions`."""
        places = self._shelf.cursors.items()
        return tuple(Position(self._url.topic_of(one.topic), one.partition, *place) for one, place in places)

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`: for what had been appended when the first of a row of calls was made."""
        if self._goal is None or not self._shelf.is_about(self._goal):
            self._mark = self._mark or self._new_mark()
            try:
                async with asyncio.timeout(END_SECONDS):
                    self._goal = await contained("ends of the log", self._ends(self._mark))
            except (_MadeAnew, TimeoutError, KafkaError, OSError, CancelledInside):
                return False
        if not self._shelf.reached(self._goal):
            return False
        self._goal = self._mark = None
        return True

    async def _ends(self, shipped: Shipped) -> dict[TopicPartition, Place]:
        """Where the partitions end, once what this machine had accepted is there. Raises `_MadeAnew` besides."""
        while not await shipped(self._topics):  # noqa: ASYNC110 -- another process ships, and says so in a file
            await asyncio.sleep(0.01)
        await self._connected.wait()
        if self._consumer is None or self._vigil is None:  # lost again in the meantime
            raise TimeoutError
        vigil, ends = self._vigil, await self._consumer.end_offsets(self._assigned)
        if await vigil.changed() or any(end < self._shelf.ahead[one].offset for one, end in ends.items()):
            raise _MadeAnew
        return {one: Place(end, vigil.ids.get(one.topic, "")) for one, end in ends.items()}

    def lag(self) -> dict[str, int]:
        """Topic → messages that the broker has and `next` has not handed out, as of the last fetch."""
        behind = dict.fromkeys(self._topics, 0)
        for one, place in self._shelf.cursors.items():
            end = self._consumer.highwater(one) if self._consumer is not None else None
            behind[self._url.topic_of(one.topic)] += max(0, (end or place.offset) - place.offset)
        return behind

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """See `Reader.close`. May be repeated."""
        self._closed = True
        self._shelf.news.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        elif self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await stopped(consumer)
