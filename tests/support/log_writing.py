"""A process that writes to a log: `python -m tests.support.log_writing URL SPOOL TOPIC KEYS COUNT`.

It appends COUNT messages (0 = without end) in rounds, commits each round and reports `<writer> <messages committed>`
per round on stdout. The value of a message is its number in decimal; keys take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from router.runtime.log.opening import open_log

ROOT = Path(__file__).resolve().parents[2]
ROUND = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where a log is: its URL, and the folder of the spool in front of one on Kafka."""

    url: str
    spool: Path | None = None


@contextlib.asynccontextmanager
async def shipping(place: Place) -> AsyncIterator[None]:
    """A shipper for the log's spool, if it has one, in this process and loop."""
    if place.spool is None:
        yield
        return
    from router.runtime.log.kafka_url import parse
    from router.runtime.log.shipper import ShipperSettings, run

    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(
        run(parse(place.url), place.spool, stop, ready.set, settings=ShipperSettings()), name="shipper"
    )
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(60):
            await running


async def _write(place: Place, topic: str, keys: int, count: int) -> None:
    log = open_log(place.url, spool=place.spool)
    written = 0
    while not count or written < count:
        for _ in range(min(ROUND, count - written) if count else ROUND):
            assert log.append(topic, f"key-{written % keys}", str(written).encode()) >= 0
            written += 1
        await log.flush()
        print(log.writer, written, flush=True)  # noqa: T201 -- the report
    await log.close()


@contextlib.asynccontextmanager
async def writing(
    place: Place, topic: str, *, keys: int = 3, count: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the process; it is killed at the end if it still runs."""
    arguments = ["-m", "tests.support.log_writing", place.url, str(place.spool or ""), topic, str(keys), str(count)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def report(process: asyncio.subprocess.Process) -> tuple[str, int]:
    """The next report: the writer's id and how many of its messages are committed."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = await process.stdout.readline()
    assert line, "the writing process ended early"
    writer, committed = line.split()
    return writer.decode(), int(committed)


if __name__ == "__main__":
    _, _url, _spool, _topic, _keys, _count = sys.argv
    asyncio.run(_write(Place(_url, Path(_spool) if _spool else None), _topic, int(_keys), int(_count)))
