"""What is lost when: a process killed hard in the middle of its appends, and a machine without power.

Run as a program it appends a message every millisecond and notes each moment in a file that outlives it, until killed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import mmap
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.scoreboard import Row
from router.contract.events import DEMAND
from router.runtime.log.embedded import FILE, EmbeddedLog
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.opening import open_log
from router.runtime.log.shipper import ShipperSettings
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Syncing
from router.runtime.processes import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable

_MOMENT = struct.Struct("<q")
_MOST = 100_000
_GAP_SECONDS = 0.001
_MESSAGE = b"d" * 300
"""About as large as a report of demand."""
NOWHERE = "kafka://127.0.0.1:9"
"""The spool is there whether or not a broker is."""


def loss(folder: Path, say: Callable[[str], None], *, quick: bool) -> Row:
    """How much older than the kill the oldest lost message was, over many kills."""
    count = 3 if quick else 20
    ages = [_killed(folder / f"victim-{number}") for number in range(count)]
    say(f"{count} processes killed: at most the last {max(ages):.1f} ms were lost")
    beside = {"p50": statistics.median(ages)}
    return Row(f"kill -9: what the spool misses, worst of {count}", "ms", max(ages), beside, None, "watched", None)


def _killed(folder: Path) -> float:
    """Kill one process somewhere in its work: milliseconds of messages lost."""
    folder.mkdir(parents=True)
    moments, parent = folder / "moments", os.getpid()
    moments.write_bytes(bytes(_MOST * _MOMENT.size))
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.log.losing", "--folder", str(folder)], stdout=subprocess.PIPE,
        preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),  # noqa: PLW1509 -- one call into libc
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if not process.stdout.read(1):
            raise RuntimeError("the process that was to be killed ended before")
        time.sleep(random.uniform(0.15, 0.35))
    finally:
        process.kill()
        process.communicate()
    at = [moment for (moment,) in _MOMENT.iter_unpack(moments.read_bytes()) if moment]
    spool = Spool.open(folder / "spool" / FILE)
    try:
        kept = spool.size().rows
    finally:
        spool.close()
    if kept > len(at) + 1:
        raise RuntimeError(f"{kept} messages in the spool, but only {len(at)} were accepted")
    return (at[-1] - at[kept]) / 1e6 if kept < len(at) else 0.0


def _append(folder: Path) -> None:
    log = open_log(NOWHERE, spool=folder / "spool", role="bench")
    with (folder / "moments").open("r+b") as file, mmap.mmap(file.fileno(), 0) as moments:
        print("!", end="", flush=True)
        due = time.monotonic()
        for number in range(_MOST):
            log.append(DEMAND, "killed", _MESSAGE)
            _MOMENT.pack_into(moments, number * _MOMENT.size, time.monotonic_ns())
            due += _GAP_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
    asyncio.run(log.close())


class _Timed(Syncing):
    """Notes when each sync began and ended."""

    def __init__(self, folder: Path, pause_seconds: float) -> None:
        super().__init__(folder, pause_seconds)
        self.spans: list[tuple[int, int]] = []

    def _sync(self) -> None:
        begun = time.monotonic_ns()
        super()._sync()
        self.spans.append((begun, time.monotonic_ns()))


async def window(folder: Path, say: Callable[[str], None], *, quick: bool) -> Row:
    """From a commit to the end of the first sync that began after it: what a power cut may take."""
    log = EmbeddedLog(folder, settings=WriterSettings(outgoing=True))
    syncing, news, committed = _Timed(folder, ShipperSettings().sync_seconds), asyncio.Event(), list[int]()
    task = asyncio.create_task(syncing.run(news), name="sync")
    try:
        for _ in range(100 if quick else 500):
            log.append(DEMAND, "synced", _MESSAGE)
            await log.flush()
            committed.append(time.monotonic_ns())
            news.set()
            await asyncio.sleep(random.uniform(0.0, 0.01))
        while syncing.spans[-1][0] < committed[-1]:  # noqa: ASYNC110 -- a thread gets that far
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await log.close()
    windows = [_window(moment, syncing.spans) for moment in committed]
    took = statistics.median((end - begun) / 1e6 for begun, end in syncing.spans)
    say(f"synced within {max(windows):.0f} ms at most")
    beside = {"p50": statistics.median(windows), "fdatasync": took}
    return Row("power cut: commit → on the disk, worst", "ms", max(windows), beside, None, "watched", None)


def _window(moment: int, spans: list[tuple[int, int]]) -> float:
    return next((end - moment) / 1e6 for begun, end in spans if begun >= moment)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.log.losing", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    _append(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
