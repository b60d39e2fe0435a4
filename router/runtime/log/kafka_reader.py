"""Reading stream topics from Kafka: one consumer with partitions of our own choice, replaced whenever it fails.

A task fetches ahead into a bounded shelf, so that the caller may be cancelled at any moment; the cursors move when
`next` hands messages out. A broker that is away is waited for: `next` then simply has nothing to give.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
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
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.telemetry import Limited

SHELF_BYTES = 16 << 20
"""Fetched and not handed out yet: bounds the memory of a reader that falls behind."""
BATCH_RECORDS = 2_000
"""Records taken from the consumer at once: some milliseconds of the event loop."""
HAND_OUT = 2_000
"""Messages per `next`, for the same reason."""
OPEN_SECONDS = 15.0
"""How long a reader that starts at the end waits for the broker to say where that is."""
END_SECONDS = 5.0
"""For what waits here to be shipped, and for the broker's answer where the ends are."""
RETRY_SECONDS = 0.2
RETRY_LIMIT_SECONDS = 5.0

Shipped = Callable[[Collection[str]], Awaitable[bool]]
"""Topics → whether everything that this machine had accepted when a row of calls began has reached the broker."""
_LOG = logging.getLogger(__name__)


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
        self._goal: dict[TopicPartition, int] | None = None
        self._cursors = dict.fromkeys(self._assigned, 0)
        self._fetched = dict(self._cursors)
        self._shelf: deque[Message] = deque()
        self._shelf_bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._consumer: AIOKafkaConsumer | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._reports = Limited(_LOG, seconds=10.0)

    async def open(self, start: Sequence[Position] | str) -> None:
        """Find the start and begin to fetch. Raises `Unavailable` when it is the end and no broker can name it."""
        if not isinstance(start, str):
            self._start_at(start)
        elif start == "latest":
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await contained("log reader's start at the end", self._find_the_end())
            except (TimeoutError, KafkaError, OSError, CancelledInside) as error:
                raise Unavailable(
                    f"no broker of {','.join(self._url.servers)} says where {', '.join(self._topics)} end: "
                    f"{error or 'it does not answer'}; check that it runs and can be reached"
                ) from error
        elif start != "earliest":
            raise ValueError(f"start is 'earliest', 'latest' or positions, not {start!r}")
        self._fetched = dict(self._cursors)
        self._task = asyncio.create_task(self._keep_fetching(), name=f"kafka reader of {'+'.join(self._topics)}")

    def _start_at(self, positions: Sequence[Position]) -> None:
        for topic, partition, offset in positions:
            place = TopicPartition(self._url.topic(topic), partition)
            if place in self._cursors:
                self._cursors[place] = offset

    async def _find_the_end(self) -> None:
        shipped = self._new_mark()
        self._consumer = await started(self._connect())
        self._connected.set()
        self._cursors = await self._ends(shipped)

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
            consumer.assign(self._assigned)
            # At once, or the client finds a place of its own in the background and goes there after us.
            for place, offset in self._fetched.items():
                consumer.seek(place, offset)
        except BaseException:
            await stopped(consumer)
            raise
        return consumer

    async def _keep_fetching(self) -> None:
        pause = RETRY_SECONDS
        while True:
            try:
                consumer: Any = self._consumer
                if consumer is None:
                    consumer = self._consumer = await contained("log reader's start", started(self._connect()))
                for place, offset in self._fetched.items():
                    consumer.seek(place, offset)
                pause = RETRY_SECONDS
                self._connected.set()
                await contained("log reader", self._fetch(consumer))
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
            await self._room.wait()
            found = await consumer.getmany(timeout_ms=1000, max_records=BATCH_RECORDS)
            for place, records in found.items():
                for record in records:
                    self._shelve(place, record)
                self._fetched[place] = records[-1].offset + 1
            if found:
                self._news.set()

    def _shelve(self, place: TopicPartition, record: ConsumerRecord[bytes, bytes]) -> None:
        topic = self._url.topic_of(place.topic)
        try:
            message = message_of(topic, place.partition, record.offset, record.key, record.value, record.headers)
        except ForeignMessage as error:
            self.stats.skipped += 1
            self._reports.warning(
                "log_foreign_message", f"a message of somebody else on {place.topic} is skipped: {error}"
            )
            return
        self._shelf.append(message)
        self._shelf_bytes += len(message.value)
        if self._shelf_bytes >= SHELF_BYTES:
            self._room.clear()

    # reading ---------------------------------------------------------------------------------------------------

    async def next(self, timeout_seconds: float | None = None) -> Sequence[Message]:
        """See `Reader.next`. What is sent twice (a broker died between taking a message and saying so) comes once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not self._closed:
                    if not self._shelf:
                        self._news.clear()
                        await self._news.wait()
                    elif messages := self._hand_out():
                        return messages
        return () if self._closed else self._hand_out()

    def _hand_out(self) -> Sequence[Message]:
        messages = []
        for _ in range(min(HAND_OUT, len(self._shelf))):
            message = self._shelf.popleft()
            self._shelf_bytes -= len(message.value)
            self._cursors[TopicPartition(self._url.topic(message.topic), message.partition)] = message.offset + 1
            if self._continuity.saw(message):
                messages.append(message)
        if not self._shelf:
            # Also past what was skipped: nothing that was fetched is left to hand out.
            self._cursors.update(self._fetched)
        if self._shelf_bytes < SHELF_BYTES // 2:
            self._room.set()
        return messages

    def positions(self) -> Sequence[Position]:
        """See `Reader.positions`."""
        return tuple(Position(self._url.topic_of(p.topic), p.partition, offset) for p, offset in self._cursors.items())

    async def caught_up(self) -> bool:
        """See `Reader.caught_up`: for what had been appended when the first of a row of calls was made."""
        if self._goal is None:
            self._mark = self._mark or self._new_mark()
            try:
                async with asyncio.timeout(END_SECONDS):
                    self._goal = await contained("ends of the log", self._ends(self._mark))
            except (TimeoutError, KafkaError, OSError, CancelledInside):
                return False
        if not self._shelf:
            self._cursors.update(self._fetched)
        if any(self._cursors[place] < end for place, end in self._goal.items()):
            return False
        self._goal = self._mark = None
        return True

    async def _ends(self, shipped: Shipped) -> dict[TopicPartition, int]:
        """Where the partitions end, once what this machine had accepted is there."""
        while not await shipped(self._topics):  # noqa: ASYNC110 -- another process ships, and says so in a file
            await asyncio.sleep(0.01)
        await self._connected.wait()
        if self._consumer is None:  # lost again in the meantime
            raise TimeoutError
        return dict(await self._consumer.end_offsets(self._assigned))

    def lag(self) -> dict[str, int]:
        """Topic → messages that the broker has and `next` has not handed out, as of the last fetch."""
        behind = dict.fromkeys(self._topics, 0)
        for place, cursor in self._cursors.items():
            end = self._consumer.highwater(place) if self._consumer is not None else None
            behind[self._url.topic_of(place.topic)] += max(0, (end or cursor) - cursor)
        return behind

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def close(self) -> None:
        """See `Reader.close`. May be repeated."""
        self._closed = True
        self._news.set()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        elif self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await stopped(consumer)
