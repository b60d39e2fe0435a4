"""Sharing the endpoints by partition: a Kafka consumer group whose members own partitions and read nothing by it.

The group says whose a partition is; what is on it is read by a reader of its own. A share changes in one place, when the
group has dealt anew: until then ours stays ours, because nobody else gets it before we have joined again or were given
up as dead, and then the higher generation decides. So a broker that is away takes nobody's share.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from router.contract.errors import TidegateError
from router.contract.events import DEMAND
from router.runtime.log.base import Share
from router.runtime.log.containing import CancelledInside, contained
from router.runtime.log.kafka_client import started, stopped
from router.runtime.log.kafka_topics import ensure_topics
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.telemetry import Limited

SESSION_SECONDS = 6.0
"""A member silent this long is given up and its partitions are dealt anew: the least that brokers accept by default."""
HEARTBEAT_SECONDS = 1.5
"""Four may be lost before the session ends."""
CHECK_SECONDS = 1.0
"""How often the consumer is asked whether it is still well."""
RETRY_SECONDS = 0.2
RETRY_LIMIT_SECONDS = 5.0
_NEVER_MS = 2**31 - 1
"""Being idle is no reason to leave: this consumer reads nothing by design."""
_LOG = logging.getLogger(__name__)


class KafkaMember(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types for it
    """Implements `Member`."""

    def __init__(self, url: KafkaUrl, options: Mapping[str, Any], group: str, instance: str | None) -> None:
        """`instance` names this member over its restarts, so that one of these costs nobody a share."""
        self.share = Share(frozenset(), 0)
        self.reachable = False
        self._url = url
        self._options = options
        self._group = f"{url.prefix}.{group}"
        self._instance = instance
        self._told: Share = self.share
        self._news = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._reports = Limited(_LOG, seconds=10.0)
        self._task = asyncio.create_task(self._belong(), name=f"member of {self._group}")

    async def changed(self) -> Share:
        """See `Member.changed`."""
        while self.share == self._told:
            self._news.clear()
            await self._news.wait()
        self._told = self.share
        return self.share

    async def _belong(self) -> None:
        pause = RETRY_SECONDS
        while True:
            try:
                consumer: Any = await contained("member's start", started(self._connect()))
                self._consumer = consumer
                consumer.subscribe([self._url.topic(DEMAND)], listener=self)
                while True:
                    # Nothing is ever returned, because everything is paused; what the group could not bear is raised.
                    await contained("member", consumer.getmany(timeout_ms=0))
                    pause = RETRY_SECONDS if self.reachable else pause
                    await asyncio.sleep(CHECK_SECONDS)
            except (KafkaError, TidegateError, OSError, CancelledInside) as error:
                self._reports.warning("share_unknown", f"the group of {self._group} cannot be reached: {error!r}")
            except Exception as error:
                self._reports.error("share_broke", "the group's consumer broke and is replaced", error=error)
            finally:
                await self._leave()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, RETRY_LIMIT_SECONDS)

    async def _connect(self) -> AIOKafkaConsumer:
        await ensure_topics(self._url, self._options)
        consumer = AIOKafkaConsumer(
            **self._options,
            group_id=self._group,
            group_instance_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=round(SESSION_SECONDS * 1000),
            heartbeat_interval_ms=round(HEARTBEAT_SECONDS * 1000),
            max_poll_interval_ms=_NEVER_MS,
            rebalance_timeout_ms=round(SESSION_SECONDS * 1000),
        )
        try:
            await consumer.start()
        except BaseException:
            await stopped(consumer)
            raise
        return consumer

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """The group is about to deal anew: what is ours stays so until it has."""

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The group has dealt: this is ours from now on."""
        consumer = self._consumer
        if consumer is None:
            return
        consumer.pause(*assigned)
        self.reachable = True
        self.share = Share(frozenset(one.partition for one in assigned), int(consumer._coordinator.generation))
        self._news.set()

    async def _leave(self) -> None:
        self.reachable = False
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stopped(consumer)

    async def close(self) -> None:
        """See `Member.close`. May be repeated."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self.share = Share(frozenset(), self.share.generation)
