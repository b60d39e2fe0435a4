"""`make bench-log`: what the log promises, measured on a real Kafka on this machine.

The broker, the shipper, the autoscaler and the gateway are real and processes of their own; nothing is pinned to a
core but the consumer, which is to do with one. Exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.broker import Broker, missing, running_broker
from loadtests.log import bursts, folding, losing, outage, recording, shipping
from loadtests.log.machine import machine
from loadtests.scoreboard import Row, save, show

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

NAMES = ("burst", "record", "fold", "one", "many", "outage", "loss", "sync")
"""What `--row` may name."""
WITHOUT_BROKER = frozenset({"loss", "sync"})
PROGRAMS = ("nginx", "wrk", "taskset")


async def measure(folder: Path, names: Collection[str], say: Callable[[str], None], *, quick: bool) -> list[Row]:
    """Everything that `names` asks for, one after another."""
    rows: list[Row] = []
    if not WITHOUT_BROKER.issuperset(names):
        async with running_broker(folder / "broker") as broker:
            say(f"broker {broker.servers}")
            rows += await _with_broker(folder, broker, names, say, quick=quick)
    if "loss" in names:
        rows.append(losing.loss(folder / "loss", say, quick=quick))
    if "sync" in names:
        rows.append(await losing.window(folder / "sync", say, quick=quick))
    return rows


async def _with_broker(
    folder: Path, broker: Broker, names: Collection[str], say: Callable[[str], None], *, quick: bool
) -> list[Row]:
    rows: list[Row] = []
    if "burst" in names:
        rows += await bursts.rows(folder / "burst", broker.servers, say, quick=quick)
    rows += await _on_one_machine(folder, broker, names, say, quick=quick)
    if "many" in names:
        rows.append(await shipping.many(folder / "many", broker.servers, say, quick=quick))
    if "outage" in names:
        rows += await outage.rows(folder / "outage", broker, say, quick=quick)
    return rows


async def _on_one_machine(
    folder: Path, broker: Broker, names: Collection[str], say: Callable[[str], None], *, quick: bool
) -> list[Row]:
    """What shares a spool and its shipper; `fold` reads what `record` has written."""
    rows: list[Row] = []
    if not {"record", "fold", "one"} & set(names):
        return rows
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(machine(folder / "machine", f"kafka://{broker.servers}/machine"))
        if "one" in names:
            rows.append(await shipping.one(here, say, quick=quick))
        if {"record", "fold"} & set(names):
            recorded = await recording.row(here, say, quick=quick)
            rows[:0] = [recorded] if "record" in names else []
        if "fold" in names:
            rows[:0] = [await folding.row(here, say)]
    return rows


def _lacking() -> list[str]:
    """What a real run needs and is not here, in words."""
    reason = missing()
    absent = [f"there is no {name} on the path" for name in PROGRAMS if shutil.which(name) is None]
    return [*absent, *([reason] if reason else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, optionally write JSON."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.log", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--row", action="append", choices=NAMES, help="only this; may be repeated")
    parser.add_argument("--quick", action="store_true", help="few samples: whether it runs, not what it measures")
    options = parser.parse_args(arguments)
    names = options.row or NAMES
    if not WITHOUT_BROKER.issuperset(names) and (lacking := _lacking()):
        print("; ".join(lacking), file=sys.stderr)
        return 1
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it tells of every leader that is being elected
    started, load = time.monotonic(), os.getloadavg()[0]

    def say(words: str) -> None:
        print(f"  {time.monotonic() - started:4.0f} s  {words}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        rows = asyncio.run(measure(Path(folder), names, say, quick=options.quick))
    show("The log on a real Kafka on this machine", rows, beside="beside it")
    print(f"took {time.monotonic() - started:.0f} s; load average before: {load:.1f}")
    if options.json:
        save(options.json, rows)
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
