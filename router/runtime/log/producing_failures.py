"""What the failure of a batch means: for the producer, for the messages in it, for their topic, and for the next batches."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka.errors import (
    BrokerResponseError,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownProducerId,
)

from router.runtime.log.containing import CancelledInside
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.spool_link import CONNECTING, REFUSED, UNREACHABLE

Place = tuple[str, int]
"""(topic without prefix, partition)."""

_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
_CLOSED_TOPIC = (TopicAuthorizationFailedError, InvalidTopicError)
_OF_THE_PRODUCER = (
    OutOfOrderSequenceNumber,
    ProducerFenced,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    UnknownProducerId,
)
"""Answers about the producer, not about what it sent."""


class ProducerFailed(Exception):
    """The producer is gone. What was not acknowledged is to be sent again, in order."""

    def __init__(self, state: str, message: str, link: str = CONNECTING) -> None:
        """`state`: what it failed of, one word for counting. `link`: what that says about the way to the broker."""
        super().__init__(message)
        self.state = state
        self.message = message
        self.link = link
        self.acknowledged: list[Outgoing] = []
        self.impossible: list[tuple[Outgoing, str]] = []
        """Messages that can never be sent as they are, and why."""
        self.closed_topics: dict[str, str] = {}
        """Topics that take no message of ours until somebody changes something → why."""


class Batch(NamedTuple):
    """One batch on its way."""

    place: Place
    rows: list[Outgoing]
    answer: asyncio.Future[Any]


@dataclass(slots=True)
class Lessons:
    """What earlier refusals have taught. Kept over producers."""

    most_strikes: int
    """See `ProducingSettings.strikes`."""
    topic_bytes: dict[str, int] = field(default_factory=dict)
    """Topic → most bytes of one batch."""
    strikes: Counter[Place] = field(default_factory=Counter)
    """Refusals for unclear reasons since the last success."""

    def failed(self, url: KafkaUrl, failures: Sequence[tuple[Batch, BaseException]]) -> ProducerFailed:
        """What these failures of batches mean, and what is to be learnt from them."""
        # One that says why is worth more than the silence or the cascade around it.
        _, worst = min(failures, key=lambda one: isinstance(one[1], TimeoutError))
        if isinstance(worst, ProducerFailed):
            return worst
        failed = ProducerFailed(_state(worst), f"the producer failed: {worst!r}", _link(worst))
        for batch, error in failures:
            self._judge(url, batch, error, failed)
        return failed

    def _judge(self, url: KafkaUrl, batch: Batch, error: BaseException, failed: ProducerFailed) -> None:
        """Learn from one batch's failure, and name what can never be sent or where nothing can be."""
        topic, rows = batch.place[0], batch.rows
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, _CLOSED_TOPIC):
            failed.closed_topics[topic] = f"topic {url.topic(topic)} takes no message of ours ({reason})"
        elif isinstance(error, _TOO_LARGE):
            if len(rows) == 1:
                failed.impossible.append((rows[0], reason))
            else:
                self.topic_bytes[topic] = sum(len(row.value) for row in rows) // 2
        elif isinstance(error, BrokerResponseError) and not error.retriable and not isinstance(error, _OF_THE_PRODUCER):
            self.strikes[batch.place] += 1
            if len(rows) == 1 and self.strikes[batch.place] >= 2 * self.most_strikes:
                failed.impossible.append((rows[0], reason))
                self.strikes.pop(batch.place)


def missing_partition(url: KafkaUrl, place: Place, partitions: int) -> ProducerFailed:
    """There is no such place on the broker."""
    message = f"topic {url.topic(place[0])} has {partitions} partitions, but messages wait for number {place[1]}"
    failure = ProducerFailed("MissingPartition", message, REFUSED)
    failure.closed_topics[place[0]] = message
    return failure


def error_of(answer: asyncio.Future[Any]) -> BaseException | None:
    """What went wrong with one batch; None when it is acknowledged."""
    if not answer.done():
        return TimeoutError("no answer")
    return CancelledInside("the batch was given up") if answer.cancelled() else answer.exception()


def _state(error: BaseException) -> str:
    """One word for counting."""
    if isinstance(error, TimeoutError):
        return "Stalled"
    return "SenderDied" if type(error) is KafkaError else type(error).__name__


def _link(error: BaseException) -> str:
    if isinstance(error, _CLOSED_TOPIC):
        return REFUSED
    if isinstance(error, TimeoutError) or (isinstance(error, KafkaError) and error.retriable):
        return UNREACHABLE
    return CONNECTING
