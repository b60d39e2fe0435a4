"""Sends spans to a collector: OTLP over HTTP in JSON, one connection, a bounded queue. `offer` never waits.

OTLP's JSON is as stable as its protobuf and taken by every collector; made here it costs a worker neither the threads nor the
tens of megabytes of the SDK and protobuf. What does not fit in the queue, or is not wanted, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping

from router.runtime.exposition import Family
from router.runtime.posting import BadAnswer, Posting, parse_target
from router.runtime.telemetry import Limited

PATH = "/v1/traces"
QUEUE_BYTES = 4 << 20
BATCH_BYTES = 256 << 10
GATHER_SECONDS = 0.5
"""A first span waits this long for others to go with it."""
DEADLINE_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
ANSWER_BYTES = 1 << 16
SAY_SECONDS = 30.0
_AGAIN = (429, 502, 503, 504)
"""Answers after which the same may be sent again (OTLP, retryable responses)."""
_LOG = logging.getLogger(__name__)


class Exporter:
    """The way to one collector. `open` in a running loop, then `offer` at will, then `close`."""

    def __init__(
        self, url: str, resource: Mapping[str, str], *, version: str, chance: Callable[[], float] = random.random
    ) -> None:
        """`url`: the collector's base, `http://host:port` or `https://host:port`; `resource`: attributes of this process.

        Raises `InvalidSpec` for a bad address.
        """
        target = parse_target(url, "otlp")
        tls = ssl.create_default_context() if target.tls else None
        self._posting = Posting(target, PATH, ANSWER_BYTES, tls=tls, content_type="application/json")
        attributes = [{"key": key, "value": {"stringValue": value}} for key, value in resource.items()]
        scope = json.dumps({"name": "tidegate.gateway", "version": version})
        self._front = f'{{"resourceSpans":[{{"resource":{json.dumps({"attributes": attributes})},"scopeSpans":[{{"scope":{scope},"spans":['
        self._chance = chance
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._say = Limited(_LOG, seconds=SAY_SECONDS)
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        """Tries since the last good answer."""
        self.sent = 0
        self.dropped = 0
        """Where the queue was full."""
        self.refused = 0
        """Where the collector did not want them."""

    def offer(self, span: bytes) -> None:
        """Send one span as OTLP's JSON has it, soon."""
        if self._queued_bytes + len(span) > QUEUE_BYTES:
            self.dropped += 1
            return
        self._queue.append(span)
        self._queued_bytes += len(span)
        self._filled.set()

    def families(self) -> list[Family]:
        """What became of the spans."""
        counts = {"sent": self.sent, "dropped": self.dropped, "refused": self.refused}
        words = "Spans by what became of them: dropped for a full queue, refused by the collector"
        return [Family("tidegate_spans_total", "counter", words, [({"result": name}, n) for name, n in counts.items()])]

    def open(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="span exporter")

    async def close(self, seconds: float) -> None:
        """Let what waits go out for at most `seconds`, if the collector answers at all; then stop."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(seconds):
                while self._queue and not self._failures:
                    await self._send()
        except TimeoutError:
            pass
        finally:
            self.dropped += len(self._queue)
            self._queue.clear()
            self._posting.hang_up()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            if self._queued_bytes < BATCH_BYTES:
                await asyncio.sleep(GATHER_SECONDS)
            await self._send()
            if not self._queue:
                self._filled.clear()
            if self._failures:
                await asyncio.sleep(self._pause())

    async def _send(self) -> None:
        """One batch; nothing that goes wrong with it reaches anybody else."""
        batch = self._take()
        kept = True
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                status, answer = await self._posting.send(self._front.encode() + b",".join(batch) + b"]}]}]}")
            kept = status in _AGAIN
            if kept:
                self._failed(f"it answers {status}")
            elif status != 200:
                self.refused += len(batch)
                self._failed(f"it answers {status}: {answer[:300].decode(errors='replace')}")
            else:
                self._failures = 0
                refused = min(_rejected(answer), len(batch))
                self.refused += refused
                self.sent += len(batch) - refused
        except (OSError, EOFError, BadAnswer) as error:  # a timeout is an OSError
            self._failed(repr(error))
        finally:
            if kept:  # also when this is cancelled in the middle
                self._queue.extendleft(reversed(batch))
                self._queued_bytes += sum(map(len, batch))

    def _take(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0]) <= BATCH_BYTES):
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        self._queued_bytes -= size
        return batch

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._say.warning("otlp", "spans could not be sent", why=why, dropped=self.dropped, refused=self.refused)

    def _pause(self) -> float:
        """Seconds until the next try: doubling, and not all gateways at the same moment."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * (1 << min(self._failures - 1, 16)))
        return longest * (0.5 + self._chance() / 2)


def _rejected(answer: bytes) -> int:
    """How many spans a good answer says were not taken (OTLP, partial success)."""
    try:
        return max(int(json.loads(answer)["partialSuccess"]["rejectedSpans"]), 0)
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0  # none said
