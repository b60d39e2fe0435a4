"""Spools with something in them."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from router.contract.codec import encode_demand, encode_requests
from router.contract.events import DEMAND, REQUESTS, DemandReport, DemandRow
from router.contract.packed_requests import REQUEST_RECORD
from router.runtime.log.buffer import Row
from router.runtime.log.spool import Spool

WRITER = b"w" * 16
NOW = 1_700_000_000_000_000_000


def rows_of(
    topic: str, values: Iterable[bytes], *, key: str = "e", first: int = 0, partition: int = 0, time_ns: int = NOW
) -> list[Row]:
    return [Row(topic, key, value, first + n, time_ns + n, partition) for n, value in enumerate(values)]


def fill(spool: Spool, rows: Sequence[Row], writer: bytes = WRITER) -> None:
    spool.store.insert(writer, rows, outgoing=True)


def opened(path: Path) -> Spool:
    return Spool.open(path / "log.db")


def requests_message(first: int, count: int, *, start_ns: int = NOW) -> bytes:
    """Requests of one second, sent to `blue`."""
    packed = b"".join(
        REQUEST_RECORD.pack(first + n, start_ns, 200, 200, 0, 0, 0, 10, 20, 1, 2, 3, 1, 2) for n in range(count)
    )
    return encode_requests(["", "blue", "blue-1"], packed)


def demand_message(number: int, *, endpoint: str = "e") -> bytes:
    start = NOW + number * 100_000_000
    row = DemandRow("blue", arrivals=number + 1, completions=number, in_flight=number, latency=(1,) * 64)
    return encode_demand(DemandReport(endpoint, start, start + 100_000_000, 1, 1, rows=(row,)))


def fill_with_traffic(spool: Spool, seconds: int, *, writer: bytes = WRITER, key: str = "e") -> None:
    """Ten messages of fifty records and ten reports per second."""
    for second in range(seconds):
        requests = [
            requests_message(50 * n, 50, start_ns=NOW + second * 10**9 + n)
            for n in range(10 * second, 10 * second + 10)
        ]
        reports = [demand_message(n, endpoint=key) for n in range(10 * second, 10 * second + 10)]
        fill(spool, rows_of(REQUESTS, requests, key=key, first=10 * second), writer)
        fill(spool, rows_of(DEMAND, reports, key=key, first=10 * second), writer)


def number(value: int) -> bytes:
    return struct.pack("<q", value)


def now_ns() -> int:
    return time.time_ns()
