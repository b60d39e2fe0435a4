"""The way from the spool to Kafka: the oldest rows first, wave by wave, gone from the spool once they are acknowledged.

A row that cannot be sent at all is set aside, and a topic that is closed to us is passed over for a while, both loudly:
neither holds up the rest. Without a broker everything simply waits.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.contract.errors import Unavailable
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_disk import Ballast
from router.runtime.log.spool_link import CURRENT, REFUSED, UNREACHABLE
from router.runtime.log.telling import Telling
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.runtime.log.producing import Producing
    from router.runtime.log.producing_failures import ProducerFailed

SIDE = "shipping"
"""What this part is called in `Telling`."""


@dataclass(frozen=True, slots=True)
class ShippingSettings:
    """How rows are sent. Unit, default and why under each field."""

    rows: int = 4_000
    """Most rows that are read at once, and so sent twice after a failure."""
    bytes: int = 8 << 20
    """Most bytes of them: what the shipper needs of memory, a few times over. Never more than an eighth of the spool,
    because what was sent and not acknowledged cannot be folded."""
    poll_seconds: float = 1.0
    """The net under lost wake-ups."""
    silence_seconds: float = 3.0
    """How long a wave may be under way before the broker counts as unreachable."""
    retry_seconds: float = 0.1
    """First pause after a failure; each further one in a row doubles it."""
    retry_limit_seconds: float = 5.0
    """Longest pause: a broker that is back is noticed within it."""
    closed_seconds: float = 30.0
    """How long a topic is passed over that takes no message of ours."""


class Shipping:
    """One task runs it, for the life of the shipper."""

    def __init__(
        self, producing: Producing, desk: Desk, telling: Telling, ballast: Ballast, settings: ShippingSettings
    ) -> None:
        self.news = asyncio.Event()
        """Set when there may be rows to ship."""
        self._producing = producing
        self._desk = desk
        self._telling = telling
        self._ballast = ballast
        self._settings = settings
        self._reports = Limited(logging.getLogger(__name__))
        self._next = 0
        self._acknowledged: list[Outgoing] = []
        self._closed: dict[str, float] = {}
        self._closed_reason = ""
        self._pause_seconds = settings.retry_seconds

    async def run(self, ending: asyncio.Event) -> None:
        """Ship until cancelled, or, once `ending` is set, until nothing is left."""
        while True:
            self.news.clear()
            self._open_topics_again()
            # Nothing is taken that cannot be sent: what was taken counts as sent, and is not folded any more.
            connected = await self._connected()
            try:
                rows, left = await self._turn(self._settings.rows if connected else 0)
            except Unavailable as error:
                self._reports.error("spool_unreadable", error.message)
                await self._rest(self._settings.poll_seconds)
                continue
            if rows:
                await self._ship(rows)
            elif ending.is_set() and not left:
                return
            elif connected:
                await self._rest(self._settings.poll_seconds)

    def from_the_start(self) -> None:
        """Rows that were passed already may wait again."""
        self._next = 0
        self.news.set()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.news.wait()
        except TimeoutError:
            return

    async def _connected(self) -> bool:
        """Whether there is a producer now; when not, after a little wait."""
        from router.runtime.log.producing_failures import ProducerFailed

        if self._producing.producer is None:
            try:
                await self._producing.start()
            except ProducerFailed as failure:
                await self._after(failure)
                return False
            self._well()
        return True

    # the spool's side ----------------------------------------------------------------------------------------------

    async def _turn(self, max_rows: int) -> tuple[list[Outgoing], bool]:
        """Note what was acknowledged, take what is to be sent next, and say whether anything is left at all.

        Raises `Unavailable`.
        """
        done, start, without = self._acknowledged, self._next, tuple(self._closed)

        def work(spool: Spool) -> tuple[bool, list[Outgoing], bool]:
            noted = not done or self._note(spool, done)
            rows = spool.outgoing(max_rows, self._settings.bytes, start=start, without=without) if max_rows else []
            if rows:
                self._announce(spool, rows)
            return noted, rows, bool(rows) or not noted or spool.size().rows > 0

        noted, rows, left = await self._desk.ask(work)
        if noted:
            self._acknowledged = []
            if not rows:
                self._next = 0
        return rows, left

    def _note(self, spool: Spool, rows: Sequence[Outgoing]) -> bool:
        """In the desk's thread. A full disk must not keep the spool from getting smaller."""
        try:
            spool.acknowledged(rows)
        except Unavailable as error:
            self._reports.error("spool_full_disk", f"{error.message}; what was shipped is removed as soon as possible")
            return self._ballast.drop_and(lambda: self._note_in_pieces(spool, rows))
        return True

    @staticmethod
    def _note_in_pieces(spool: Spool, rows: Sequence[Outgoing]) -> bool:
        try:
            for start in range(0, len(rows), 100):
                spool.checkpoint()
                spool.acknowledged(rows[start : start + 100])
            spool.checkpoint()
        except Unavailable:
            return False
        return True

    def _announce(self, spool: Spool, rows: Sequence[Outgoing]) -> None:
        """In the desk's thread. That they may be on the broker soon is needed for folding alone, which needs a disk too."""
        try:
            spool.attempt(rows)
        except Unavailable as error:
            self._reports.warning("spool_attempt_unwritten", error.message)

    # the broker's side ---------------------------------------------------------------------------------------------

    async def _ship(self, rows: Sequence[Outgoing]) -> None:
        from router.runtime.log.producing_failures import ProducerFailed

        wave = asyncio.create_task(self._producing.ship(rows), name="wave")
        try:
            done, _ = await asyncio.wait({wave}, timeout=self._settings.silence_seconds)
            if not done:
                message = f"no acknowledgement for {self._settings.silence_seconds:g} s"
                self._telling.side(SIDE, UNREACHABLE, message)
            await wave
        except ProducerFailed as failure:
            self._telling.link.restarts[failure.state] += 1
            self._count(failure.acknowledged)
            await self._after(failure)
        except asyncio.CancelledError:
            wave.cancel()
            await asyncio.wait({wave})
            raise
        else:
            self._count(rows)
            self._next = rows[-1].offset + 1
            self._well()

    def _count(self, rows: Sequence[Outgoing]) -> None:
        link = self._telling.link
        self._acknowledged = [*self._acknowledged, *rows]
        for row in rows:
            link.shipped[row.topic] += 1
            link.shipped_bytes += len(row.value)

    def _well(self) -> None:
        self._pause_seconds = self._settings.retry_seconds
        self._telling.side(SIDE, *((REFUSED, self._closed_reason) if self._closed else (CURRENT, "")))

    async def _after(self, failure: ProducerFailed) -> None:
        """Learn from a failure, and wait a little."""
        self._reports.error("producer_failed", failure.message, state=failure.state)
        self._telling.side(SIDE, failure.link, failure.message)
        if failure.impossible:
            await self._set_aside(failure.impossible)
        for topic, reason in failure.closed_topics.items():
            self._closed[topic] = time.monotonic() + self._settings.closed_seconds
            self._closed_reason = reason
        learned = bool(failure.impossible or failure.closed_topics)
        await asyncio.sleep(0 if learned else self._pause_seconds * random.uniform(0.5, 1.0))
        if not learned:
            self._pause_seconds = min(2 * self._pause_seconds, self._settings.retry_limit_seconds)

    async def _set_aside(self, impossible: Sequence[tuple[Outgoing, str]]) -> None:
        for row, reason in impossible:
            self._reports.error(
                "message_set_aside",
                "a message can never be sent as it is and is set aside in the spool",
                topic=row.topic,
                endpoint=row.key,
                writer=row.writer,
                sequence=row.sequence,
                bytes=len(row.value),
                reason=reason,
            )

        def set_aside(spool: Spool) -> None:
            for row, reason in impossible:
                spool.set_aside([row], reason, time.time_ns())

        try:
            await self._desk.ask(set_aside)
        except Unavailable as error:
            self._reports.error("spool_unwritable", error.message)

    def _open_topics_again(self) -> None:
        now = time.monotonic()
        again = [topic for topic, until in self._closed.items() if until <= now]
        for topic in again:
            del self._closed[topic]
        if again:
            self._next = 0
