"""The consumer: request records read from Kafka and counted, as the control plane does it, in one process on one core.

Run as a program it reads everything on `requests` and prints JSON: seconds for fetching, decoding and folding together,
and for folding alone the same messages once they are in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.log.roles import said_by
from loadtests.scoreboard import Row
from router.contract.codec import REQUEST_RECORD, split_requests
from router.contract.events import REQUESTS
from router.control.fleet import MAX_TARGETS
from router.control.traffic import TrafficCounts
from router.runtime.log.opening import open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtests.log.machine import Machine
    from router.runtime.log.base import Log, Message

CORE = 0


async def _read(log: Log) -> tuple[list[Message], float, float]:
    """Everything there is, folded as it comes: (messages, seconds, CPU seconds)."""
    found: list[Message] = []
    traffic = TrafficCounts(MAX_TARGETS)
    wall, cpu = time.perf_counter(), time.process_time()
    reader = await log.reader((REQUESTS,), "earliest")
    try:
        while not await reader.caught_up():
            for message in await reader.next(0.05):
                traffic.note(message.key, message.value)
                found.append(message)
        traffic.settle()
        return found, time.perf_counter() - wall, time.process_time() - cpu
    finally:
        await reader.close()


def _fold(messages: Sequence[Message]) -> float:
    """Seconds to count them."""
    traffic = TrafficCounts(MAX_TARGETS)
    begun = time.perf_counter()
    for message in messages:
        traffic.note(message.key, message.value)
    traffic.settle()
    return time.perf_counter() - begun


async def _print(flags: argparse.Namespace) -> None:
    log = open_log(flags.log, spool=flags.spool, role="bench")
    try:
        read = [await _read(log) for _ in range(flags.rounds)]
    finally:
        await log.close()
    messages = read[0][0]
    records = sum(len(split_requests(one.value)[1]) // REQUEST_RECORD.size for one in messages)
    print(
        json.dumps(
            {
                "records": records,
                "messages": len(messages),
                "seconds": statistics.median(seconds for _, seconds, _ in read),
                "cpu": statistics.median(cpu for _, _, cpu in read),
                "fold": statistics.median(_fold(messages) for _ in range(5)),
            }
        )
    )


async def row(machine: Machine, say: Callable[[str], None]) -> Row:
    """Read what `recording` has left on Kafka."""
    words = ["--spool", str(machine.spool), "--log", machine.log]
    said = json.loads(await said_by("loadtests.log.folding", *words, core=CORE))
    read, spent, fold = (said["records"] / said[name] / 1e6 for name in ("seconds", "cpu", "fold"))
    say(f"{said['records'] / 1e6:.1f} M records in {said['messages']} messages: {read:.2f} M/s read and folded")
    beside = {"per CPU s": spent, "fold alone": fold}
    work = "consumer: records fetched, decoded, folded"
    return Row(work, "M rec/s", read, beside, None, "≥ 1", read >= 1)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.log.folding", description=__doc__)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    asyncio.run(_print(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
