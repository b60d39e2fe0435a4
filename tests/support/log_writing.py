"""A process that writes to a log: `python -m tests.support.log_writing URL TOPIC KEYS COUNT`.

It appends COUNT messages (0 = without end) in rounds, commits each round and reports `<writer> <messages committed>`
per round on stdout. The value of a message is its sequence in decimal; keys take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from router.runtime.log.opening import open_log

ROOT = Path(__file__).resolve().parents[2]
ROUND = 50


async def _write(url: str, topic: str, keys: int, count: int) -> None:
    log = open_log(url)
    written = 0
    while not count or written < count:
        for _ in range(min(ROUND, count - written) if count else ROUND):
            sequence = log.append(topic, f"key-{written % keys}", str(written).encode())
            assert sequence == written
            written += 1
        await log.flush()
        print(log.writer, written, flush=True)  # noqa: T201 -- the report
    await log.close()


@contextlib.asynccontextmanager
async def writing(url: str, topic: str, *, keys: int = 3, count: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the process; it is killed at the end if it still runs."""
    arguments = ["-m", "tests.support.log_writing", url, topic, str(keys), str(count)]
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
    asyncio.run(_write(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
