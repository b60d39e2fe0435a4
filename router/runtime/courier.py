"""Hands demand to the autoscaler past the log, so that scaling goes on while the broker is away. `hand` never waits.

Each target has a bounded queue, one task, one connection and at most one request on it; what gathers meanwhile goes
with the next one. A target that is away costs the oldest of its queue, counted, and a try every two seconds. What may
have arrived already is handed again: the autoscaler counts by id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.contract.codec import Malformed, UnknownSchema
from router.contract.handover import ANSWER_BYTES, PATH, Handed, decode_told, encode_handed, handed_bytes
from router.runtime.credentials import NONE, Credentials, check_posting
from router.runtime.posting import BadAnswer, Posting, Target, parse_target
from router.runtime.telemetry import Limited

_LOG = logging.getLogger(__name__)

QUEUE_BYTES = 2 << 20
"""Waiting per target: minutes of a few endpoints, seconds of hundreds."""
BATCH_BYTES = 1 << 20
"""Of messages in one request; a longer message is not handed at all."""
DEADLINE_SECONDS = 2.0
"""For one request and its answer, connecting included: a target that takes longer is as good as away."""
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 5.0
"""Away for less is a start or a restart, and nothing to tell."""
SAY_SECONDS = 30.0
"""Between two lines about the same trouble."""

_OK, _BUSY = 200, 503


@dataclass(slots=True)
class Counts:
    """What became of the messages, summed over the targets."""

    handed: int = 0
    delivered: int = 0
    dropped: int = 0
    """Where the queue was full and they were the oldest."""
    refused: int = 0
    """Where the autoscaler did not want them: another version, or one without this route."""
    failures: int = 0
    """Requests, not messages: those without a good answer in time."""


class Courier:
    """Hands messages to every target. `open` in a running loop, then `hand` at will, then `close`."""

    def __init__(
        self,
        targets: Sequence[str],
        take_replicas: Callable[[bytes], None],
        *,
        credentials: Credentials | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`take_replicas` gets each `replicas` message that an answer brings.

        Raises `InvalidSpec` for a bad target, or one that would be told without `credentials`.
        """
        self.counts = Counts()
        parsed = [parse_target(one) for one in dict.fromkeys(targets)]
        shown = credentials or NONE
        check_posting(parsed, shown)
        self._lanes = [_Lane(one, take_replicas, self.counts, shown, chance) for one in parsed]
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to deliver."""
        self._tasks = [asyncio.create_task(lane.run(), name=f"courier to {lane.target.text}") for lane in self._lanes]

    def hand(self, writer: str, sequence: int, key: str, value: bytes) -> None:
        """Send one demand message to every target, soon. Never waits. `writer` and `sequence` are those of the log."""
        if not self._lanes:
            return
        message = Handed(writer, sequence, time.time_ns(), key, value)
        for lane in self._lanes:
            lane.put(message)

    def waiting_bytes(self) -> int:
        """What is queued, over all targets."""
        return sum(lane.waiting_bytes for lane in self._lanes)

    async def close(self, seconds: float) -> None:
        """Let what waits go out for at most `seconds`, to those who answer at all; then stop."""
        if not self._tasks:
            return
        leaving = [asyncio.create_task(lane.settled(), name="courier's last way") for lane in self._lanes]
        await asyncio.wait(leaving, timeout=seconds)
        tasks = [*leaving, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []


class _Lane:
    """One target: its queue, its connection, its task."""

    def __init__(
        self,
        target: Target,
        take_replicas: Callable[[bytes], None],
        counts: Counts,
        credentials: Credentials,
        chance: Callable[[], float],
    ) -> None:
        self.target = target
        self.waiting_bytes = 0
        self._take_replicas = take_replicas
        self._counts = counts
        self._chance = chance
        self._posting = Posting(target, PATH, ANSWER_BYTES, token=credentials.token, tls=credentials.tls)
        self._say = Limited(_LOG, seconds=SAY_SECONDS)
        self._queue: deque[Handed] = deque()
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._failures = 0
        """Tries since the last good answer."""
        self._failing_since = 0.0

    def put(self, message: Handed) -> None:
        """Queue one message; the oldest go when there is no room."""
        self._counts.handed += 1
        if handed_bytes(message) > BATCH_BYTES:
            self._counts.dropped += 1
            return
        self._queue.append(message)
        self.waiting_bytes += handed_bytes(message)
        self._trim()
        self._settled.clear()
        self._filled.set()

    async def settled(self) -> None:
        """Return once everything that was put has been answered, or the target turns out to be away."""
        if not self._failures:
            await self._settled.wait()

    async def run(self) -> None:
        """Deliver until cancelled; nothing that happens here reaches anybody else."""
        try:
            while True:
                await self._filled.wait()
                batch = self._take_batch()
                try:
                    await self._deliver(batch)
                except (OSError, EOFError, BadAnswer) as error:  # a timeout is an OSError
                    self._put_back(batch)
                    self._failed(repr(error))
                except Exception as error:  # our own fault must not become the gateway's end
                    self._say.error("courier", "demand could not be handed over", error=error)
                    self._failed("see above")
                if self._failures or not self._queue:
                    self._settled.set()
                if self._failures:
                    await asyncio.sleep(self._pause())
        finally:
            self._posting.hang_up()

    async def _deliver(self, batch: list[Handed]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            status, body = await self._posting.send(encode_handed(batch))
        if status == _OK:
            self._counts.delivered += len(batch)
            self._succeeded()
            self._tell(body)
        elif status == _BUSY:
            self._put_back(batch)
            self._failed("it says that it is busy")
        else:
            self._counts.refused += len(batch)
            self._failed(f"it answers {status}: {body[:300].decode(errors='replace')}")

    def _tell(self, body: bytes) -> None:
        """Pass on what the answer brought; one message that makes no sense does not keep back the others."""
        try:
            told = decode_told(body)
        except (Malformed, UnknownSchema) as error:
            self._say.warning("answer", "an answer to demand makes no sense", target=self.target.text, error=str(error))
            return
        for _, value in told:
            try:
                self._take_replicas(value)
            except Exception as error:  # whoever takes it: its fault must not end the way of demand
                self._say.error("replicas", "replicas could not be taken", error=error, target=self.target.text)

    def _take_batch(self) -> list[Handed]:
        batch: list[Handed] = []
        size = 0
        while self._queue and (size := size + handed_bytes(self._queue[0])) <= BATCH_BYTES:
            batch.append(self._queue.popleft())
            self.waiting_bytes -= handed_bytes(batch[-1])
        if not self._queue:
            self._filled.clear()
        return batch

    def _put_back(self, batch: list[Handed]) -> None:
        self._queue.extendleft(reversed(batch))
        self.waiting_bytes += sum(map(handed_bytes, batch))
        self._trim()
        self._filled.set()

    def _trim(self) -> None:
        while self.waiting_bytes > QUEUE_BYTES:
            self.waiting_bytes -= handed_bytes(self._queue.popleft())
            self._counts.dropped += 1

    def _pause(self) -> float:
        """Seconds until the next try: doubling, and not all gateways at the same moment."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * (1 << min(self._failures - 1, 16)))
        return longest * (0.5 + self._chance() / 2)

    def _failed(self, why: str) -> None:
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._counts.failures += 1
        if now - self._failing_since >= PATIENCE_SECONDS:
            message = "the autoscaler does not take demand; it has it from the log alone"
            self._say.warning("away", message, target=self.target.text, why=why, dropped=self._counts.dropped)

    def _succeeded(self) -> None:
        if self._failures and time.monotonic() - self._failing_since >= PATIENCE_SECONDS:
            _LOG.info("the autoscaler takes demand again", extra={"target": self.target.text})
        self._failures = 0
