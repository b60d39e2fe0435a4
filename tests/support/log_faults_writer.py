"""A process that writes as a gateway does: `python -m tests.support.log_faults_writer URL SPOOL RECORDS BUFFER_BYTES`.

In rounds: RECORDS request records and one demand report for each endpoint, then a flush and one line about everything
that is committed by then (`log_faults_account.Written`). On stdin: `hold` (no further round), `go`, `end` (or its end).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from router.contract.codec import decode_requests, encode_demand
from router.contract.errors import Unavailable
from router.contract.events import DEMAND, REQUESTS, DemandReport, DemandRow, Outcome
from router.gateway.records import Ledger
from router.gateway.state import Counters
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.kafka import KafkaLog
from router.runtime.log.kafka_url import parse
from router.runtime.log.opening import spool_bytes
from tests.support.log_faults_account import Numbers, Tally, Written, note

if TYPE_CHECKING:
    from router.runtime.log.base import Log

ENDPOINTS = tuple(f"endpoint-{number}" for number in range(6))
DEPLOYMENTS = ("blue", "green", "")
OUTCOMES = (Outcome.OK, Outcome.OK, Outcome.MODEL_ERROR, Outcome.OK, Outcome.TIMEOUT)
PAUSE_SECONDS = 0.02
"""Between two rounds: the load of a busy machine, which leaves the rest of it to the broker."""


class Books:
    """Stands before the log and notes what it accepts."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._messages: Counter[str] = Counter()
        self._numbers: dict[str, Numbers] = {}
        self._arrivals: Counter[str] = Counter()
        self._tally = Tally()
        self.told = Written(writer=log.writer)

    def append(self, topic: str, key: str, value: bytes) -> int:
        before = time.perf_counter()
        sequence = self._log.append(topic, key, value)
        self.told.slowest_ms = max(self.told.slowest_ms, 1000 * (time.perf_counter() - before))
        self.told.appends += 1
        if sequence < 0:
            return sequence
        place = f"{topic}/{self._log.partition_of(key)}"
        assert sequence == self._messages[place]
        self._messages[place] += 1
        if topic == REQUESTS:
            for one in decode_requests(value):
                note(self._numbers.setdefault(key, []), one.sequence)
            self._tally.add(key, value)
        return sequence

    def report(self, endpoint: str, arrivals: int) -> None:
        now_ns = time.time_ns()
        row = DemandRow("blue", arrivals=arrivals, completions=arrivals, busy_seconds=0.25)
        value = encode_demand(DemandReport(endpoint, now_ns - 1, now_ns, 1, 1, rows=(row,)))
        if self.append(DEMAND, endpoint, value) >= 0:
            self._arrivals[endpoint] += arrivals

    async def flush(self) -> None:
        """Tell what is committed."""
        try:
            await self._log.flush()
        except Unavailable:
            self.told.unflushed += 1
            self.told.final = False
        else:
            self.told.committed = dict(self._messages)
            self.told.numbers = self._numbers
            self.told.arrivals = dict(self._arrivals)
        self.told.dropped = dict(self._log.dropped())
        if self.told.final:
            self.told.tally = self._tally.rows
        print(self.told.encode(), flush=True)  # noqa: T201 -- the report


class Load:
    """The rounds."""

    def __init__(self, books: Books, records: int) -> None:
        self._books = books
        self._records = records
        self._ledgers = {endpoint: Ledger(cast("Log", books), endpoint, Counters()) for endpoint in ENDPOINTS}
        self._next = 0

    async def round(self) -> None:
        now = time.monotonic_ns()
        for endpoint, ledger in self._ledgers.items():
            for number in range(self._next, self._next + self._records):
                outcome = OUTCOMES[number % len(OUTCOMES)]
                size, took = 100 + number % 50, 1_000_000 + number % 7 * 1000
                deployment = DEPLOYMENTS[number % len(DEPLOYMENTS)]
                ledger.add(
                    number, now, 200, 200, outcome, 0, size, 2 * size, now, now, now + took, deployment, "replica-1"
                )
            ledger.flush()
            self._books.report(endpoint, self._records)
        self._next += self._records
        await self._books.flush()


async def commands() -> asyncio.StreamReader:
    """Lines from stdin."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _obey(going: asyncio.Event, ending: asyncio.Event) -> None:
    orders = await commands()
    while (word := (await orders.readline()).strip().decode()) not in {"", "end"}:
        if word == "go":
            going.set()
        else:
            going.clear()
    ending.set()
    going.set()


async def _main(url: str, spool: Path, records: int, buffer_bytes: int) -> None:
    going, ending = asyncio.Event(), asyncio.Event()
    going.set()
    obeying = asyncio.create_task(_obey(going, ending))
    settings = WriterSettings(outgoing=True, spool_bytes=spool_bytes(os.environ), buffer_bytes=buffer_bytes)
    log = KafkaLog(parse(url), spool, settings=settings)
    books = Books(log)
    load = Load(books, records)
    while not ending.is_set() and not obeying.done():
        await load.round()
        await asyncio.sleep(PAUSE_SECONDS)
        if not going.is_set():
            books.told.rests += 1
            await books.flush()
            await going.wait()
    await obeying
    while not books.told.final:
        books.told.final = True
        await books.flush()
    await log.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
