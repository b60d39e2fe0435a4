"""What a request record costs in the gateway's process: CPU of all its threads over a tight loop, with and without.

With: `Ledger.add` for every record, `Ledger.flush` and `Log.append` for every 1,250 of them (what a worker at 5,000
requests/s flushes every 250 ms), each message committed to the spool by the writer thread in a transaction of its own.
Without: the same loop over the same records, which does nothing with them and rests as often. The difference is the
figure. Run as a program it prints these as JSON; the shipper runs beside it and is measured from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.log.roles import said_by
from loadtests.measure import cpu_seconds
from loadtests.scoreboard import Row
from router.contract.events import REQUESTS
from router.gateway.records import Ledger, renew_clock
from router.gateway.state import Counters
from router.runtime.log.opening import open_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.log.machine import Machine
    from router.runtime.log.base import Log

    Record = tuple[int, int, int, int, int, int, int, int, int, int, int, str, str]

MESSAGE = 1250
"""Records per message: a worker at 5,000 requests/s that flushes four times a second, as `record_period_seconds` says."""
DISTINCT = 20_000
"""Records that differ, 1.1 MB packed: more than lz4 looks back, so that it finds no more to save than in real ones."""
REST_SECONDS = 0.0025
"""After every message: longer than the writer gathers, so that each one is committed alone, as in production."""
ENDPOINTS = 8


class _Deaf:
    """A log that takes no notice, to tell `Ledger` from what is behind it."""

    def append(self, topic: str, key: str, value: bytes) -> int:  # noqa: ARG002 -- the interface's
        return 0


def records() -> list[Record]:
    """Requests as a gateway sees them: 1 KB in, about 200 bytes out, some milliseconds."""
    chance, made = random.Random(4), []
    now = time.monotonic_ns()
    for sequence in range(DISTINCT):
        dispatched = now + chance.randrange(20_000, 90_000)
        first = dispatched + chance.randrange(500_000, 20_000_000)
        end = first + chance.randrange(5_000, 100_000)
        replica = f"blue-{chance.randrange(8)}"
        made.append(
            (sequence, now, 200, 200, 0, 0, 1200, chance.randrange(180, 260), dispatched, first, end, "blue", replica)
        )
        now += chance.randrange(1_000, 400_000)
    return made


def recorded(ledgers: list[Ledger], made: list[Record], rest_seconds: float) -> float:
    """CPU seconds of this process for recording `made` once, the log's threads included."""
    begun = time.process_time()
    for start in range(0, len(made), MESSAGE):
        ledger = ledgers[start // MESSAGE % len(ledgers)]
        add = ledger.add
        for a, b, c, d, e, f, g, h, i, j, k, m, n in made[start : start + MESSAGE]:
            add(a, b, c, d, e, f, g, h, i, j, k, m, n)
        renew_clock()
        ledger.flush()
        time.sleep(rest_seconds)
    return time.process_time() - begun


def unrecorded(made: list[Record], rest_seconds: float) -> float:
    """The same without a record."""
    begun = time.process_time()
    for start in range(0, len(made), MESSAGE):
        for _a, _b, _c, _d, _e, _f, _g, _h, _i, _j, _k, _m, _n in made[start : start + MESSAGE]:
            pass
        time.sleep(rest_seconds)
    return time.process_time() - begun


def rounds(log: Log, count: int, passes: int) -> dict[str, float]:
    """Microseconds per record, the least of `count` interleaved rounds of `passes` times all records.

    The least, because what others do to a core's caches and clock is no cost of ours, and nothing makes it cheaper than it is.
    """
    made = records()
    ours = [Ledger(log, f"recorded-{number}", Counters()) for number in range(ENDPOINTS)]
    deaf = [Ledger(_Deaf(), f"deaf-{number}", Counters()) for number in range(ENDPOINTS)]  # type: ignore[arg-type]  # append is all it needs
    full: list[float] = []
    bare: list[float] = []
    for turn in range(count + 1):
        spent = [0.0, 0.0, 0.0]
        for _ in range(passes):
            spent[0] += unrecorded(made, REST_SECONDS)
            spent[1] += recorded(ours, made, REST_SECONDS)
            spent[2] += recorded(deaf, made, 0.0) - unrecorded(made, 0.0)
        if turn:  # the first round warms up
            full.append((spent[1] - spent[0]) / passes / DISTINCT * 1e6)
            bare.append(spent[2] / passes / DISTINCT * 1e6)
    return {
        "all": min(full),
        "ledger": min(bare),
        "records": (count + 1) * passes * DISTINCT,
    }


async def row(machine: Machine, say: Callable[[str], None], *, quick: bool) -> Row:
    """Measure in a process of its own; its records stay on Kafka for `folding`."""
    count, passes = (2, 2) if quick else (5, 12)
    words = ["--spool", str(machine.spool), "--log", machine.log, "--rounds", str(count), "--passes", str(passes)]
    before = cpu_seconds([machine.shipper])
    said = json.loads(await said_by("loadtests.log.recording", *words))
    say(f"{said['records'] / 1e6:.1f} M records: {said['all']:.2f} µs each in the gateway's process")
    await machine.shipped((REQUESTS,))
    shipper = (cpu_seconds([machine.shipper]) - before) / said["records"] * 1e6
    beside = {"Ledger": said["ledger"], "shipper": shipper}
    work = "gateway: CPU per record, into the spool"
    return Row(work, "µs", said["all"], beside, None, "≤ 1", said["all"] <= 1)


async def _print(flags: argparse.Namespace) -> None:
    log = open_log(flags.log, spool=flags.spool, role="bench")
    try:
        print(json.dumps(rounds(log, flags.rounds, flags.passes)))
        if dropped := log.dropped():
            raise RuntimeError(f"the buffer was full: {dropped}")
    finally:
        await log.close()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.log.recording", description=__doc__)
    parser.add_argument("--spool", type=Path, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=12)
    asyncio.run(_print(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
