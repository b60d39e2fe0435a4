"""One producer, supervised: whatever goes wrong with it, it is thrown away, a new one is made, and the spool sends again.

aiokafka's idempotent producer has states that it never leaves: a batch that failed unsent still takes its sequence
numbers, so that every later one is out of order; a sender task that died fails everything for ever; a broker that is
frozen is waited for without end. So nothing is repaired here. Any failure of any batch ends the producer
(`ProducerFailed`, with the state's name); readers tell by the message's id what came twice.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    KafkaError,
    ProducerClosed,
)

from router.contract.errors import TidegateError, Unavailable
from router.runtime.log.containing import CancelledInside, contained
from router.runtime.log.kafka_client import stopped
from router.runtime.log.kafka_messages import Outgoing, headers_of
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.producing_failures import (
    Batch,
    Lessons,
    Place,
    ProducerFailed,
    error_of,
    missing_partition,
)
from router.runtime.log.spool_link import REFUSED, UNREACHABLE


@dataclass(frozen=True, slots=True)
class ProducingSettings:
    """How messages are sent. Unit, default and why under each field."""

    batch_bytes: int = 768 << 10
    """Most bytes of one batch before compression: one goes to each partition per wave, so small ones cap the speed at
    one per round trip; below Kafka's own limit of 1 MiB, so that it fits whatever the topic says."""
    start_seconds: float = 25.0
    """For a new producer to know the brokers and have its number; above two request time-outs."""
    wave_seconds: float = 60.0
    """For the acknowledgements of one wave. A frozen broker that thaws within it costs no duplicate."""
    straggler_seconds: float = 1.0
    """For the rest of a wave after one of its batches failed: what is acknowledged still is not sent twice."""
    stop_seconds: float = 2.0
    """For a producer to end by itself; then its tasks are cancelled."""
    strikes: int = 3
    """How often a broker may refuse a batch for an unclear reason before its messages are sent one by one, and then
    how often such a single one before it counts as one that can never be sent."""


class Producing:
    """Ships rows. Used by one task at a time."""

    def __init__(
        self,
        url: KafkaUrl,
        options: Mapping[str, Any],
        settings: ProducingSettings | None = None,
        *,
        make: Callable[..., AIOKafkaProducer] = AIOKafkaProducer,
    ) -> None:
        """`options`: of `client_options`. Nothing is connected yet."""
        self._url = url
        self._options = options
        self._settings = settings or ProducingSettings()
        self._make = make
        self._producer: AIOKafkaProducer | None = None
        self._lessons = Lessons(self._settings.strikes)

    @property
    def producer(self) -> AIOKafkaProducer | None:
        """The one in use; None before `start` and after a failure."""
        return self._producer

    async def start(self) -> None:
        """Make a producer unless there is one, with its topics. Raises `ProducerFailed`."""
        if self._producer is None:
            await self._contained(self._start())

    async def _contained(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await contained("producer", work)
        except CancelledInside as error:
            await self.close()
            raise ProducerFailed("Cancelled", str(error), UNREACHABLE) from error

    async def _start(self) -> None:
        try:
            await ensure_topics(self._url, self._options)
        except TidegateError as error:
            link = UNREACHABLE if isinstance(error, Unavailable) else REFUSED
            raise ProducerFailed(type(error).__name__, error.message, link) from error
        producer = self._make(
            **self._options,
            enable_idempotence=True,
            acks="all",
            compression_type=None if self._url.compression == "none" else self._url.compression,
            max_batch_size=self._settings.batch_bytes,
            max_request_size=2**31 - 1,  # the broker and the topic have the say
            linger_ms=0,
        )
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                await producer.start()
        except BaseException as error:
            await self._discard(producer)
            if isinstance(error, (KafkaError, OSError, TimeoutError)):
                is_answer = isinstance(error, BrokerResponseError) and not error.retriable
                message = f"no producer could be started: {error!r}"
                raise ProducerFailed(type(error).__name__, message, REFUSED if is_answer else UNREACHABLE) from error
            raise
        self._producer = producer

    async def ship(self, rows: Sequence[Outgoing]) -> None:
        """Return when the broker has acknowledged all `rows`, given in order. Raises `ProducerFailed`."""
        await self.start()
        await self._contained(self._ship(rows))

    async def _ship(self, rows: Sequence[Outgoing]) -> None:
        waiting: dict[Place, deque[Outgoing]] = defaultdict(deque)
        for row in rows:
            waiting[row.topic, row.partition].append(row)
        acknowledged: list[Outgoing] = []
        try:
            while waiting:
                wave = await self._send_wave(waiting)
                await self._answered(wave, acknowledged)
                waiting = {place: left for place, left in waiting.items() if left}
        except ProducerFailed as failure:
            failure.acknowledged = acknowledged
            await self.close()
            raise
        except BaseException:
            await self.close()
            raise

    async def _send_wave(self, waiting: Mapping[Place, deque[Outgoing]]) -> list[Batch]:
        """Hand the next batch of every place to the producer. Takes its rows out of `waiting`."""
        assert self._producer is not None
        wave: list[Batch] = []
        try:
            for place, rows in waiting.items():
                name = self._url.topic(place[0])
                async with asyncio.timeout(self._settings.wave_seconds):
                    partitions = await self._producer.partitions_for(name)
                    if place[1] not in partitions:
                        raise missing_partition(self._url, place, len(partitions))
                    taken, batch = self._fill(rows)
                    answer = await self._producer.send_batch(batch, name, partition=place[1])
                answer.add_done_callback(_look_at)
                wave.append(Batch(place, taken, answer))
        except Exception as error:
            raise self._lessons.failed(self._url, [(Batch(place, [], asyncio.Future()), error)]) from error
        return wave

    def _fill(self, rows: deque[Outgoing]) -> tuple[list[Outgoing], Any]:
        """One batch of the first of `rows`, as many as fit."""
        assert self._producer is not None
        batch = self._producer.create_batch()
        topic, partition = rows[0].topic, rows[0].partition
        now_ms = time.time_ns() // 1_000_000
        alone = self._lessons.strikes[topic, partition] >= self._settings.strikes
        room = 0 if alone else self._lessons.topic_bytes.get(topic, self._settings.batch_bytes)
        taken: list[Outgoing] = []
        while rows:
            row = rows[0]
            room -= len(row.value)
            if taken and room < 0:
                break
            # A broker refuses what claims to be from far in the future, as messages of a machine with a wrong clock do.
            stamp_ms = min(row.time_ns // 1_000_000, now_ms)
            if batch.append(timestamp=stamp_ms, key=row.key.encode(), value=row.value, headers=headers_of(row)) is None:
                break
            taken.append(rows.popleft())
        batch.close()
        return taken, batch

    async def _answered(self, wave: Sequence[Batch], acknowledged: list[Outgoing]) -> None:
        """Wait until every batch is acknowledged; add what is. Raises `ProducerFailed` when one is not."""
        answers = {batch.answer for batch in wave}
        done, pending = await asyncio.wait(
            answers, timeout=self._settings.wave_seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        if pending and any(error_of(answer) for answer in done):
            await asyncio.wait(pending, timeout=self._settings.straggler_seconds)
        failures: list[tuple[Batch, BaseException]] = []
        for batch in wave:
            error = error_of(batch.answer)
            if error is None:
                acknowledged.extend(batch.rows)
                self._lessons.strikes.pop(batch.place, None)
            else:
                failures.append((batch, error))
        if failures:
            raise self._lessons.failed(self._url, failures)

    # the end of a producer ---------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Throw the producer away, in bounded time. May be repeated; `ship` makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._discard(producer)

    async def _discard(self, producer: AIOKafkaProducer) -> None:
        _let_go_of_batches(producer)
        await stopped(producer, self._settings.stop_seconds)


def _let_go_of_batches(producer: AIOKafkaProducer) -> None:
    """Fail what it still holds: `stop` would wait for that for ever, and the spool has it."""
    accumulator = producer._message_accumulator
    batches = [*itertools.chain(*accumulator._batches.values()), *accumulator._pending_batches]
    accumulator.fail_all(ProducerClosed())
    for batch in batches:
        _look_at(batch.future)
        _look_at(batch._drain_waiter)


def _look_at(answer: asyncio.Future[Any]) -> None:
    """So that nobody complains about an error that nobody waits for any more."""
    if answer.done() and not answer.cancelled():
        answer.exception()
