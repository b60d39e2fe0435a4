"""Bytes of a dead machine's spool are damaged: what can be read is shipped, what cannot is told, and that is everything."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from loadtests.waiting import free_port
from router.contract.events import DEMAND, REQUESTS
from router.runtime.log.embedded import FILE
from tests.support.log_faults import machine
from tests.support.log_faults_topics import holes

if TYPE_CHECKING:
    from loadtests.broker import Broker

FILE_BYTES = 6 << 20
"""Up to 4 MiB of it are in the write-ahead log too."""
FRAMES = range(400, 800)
"""In the write-ahead log since it began anew; it does so at a thousand."""
FRAME_BYTES = 24 + 4096


def frames(spool: Path) -> int:
    """Of the write-ahead log, as far as they are not of an earlier round of it."""
    wal = (spool / f"{FILE}-wal").read_bytes()
    count = 0
    while wal[(at := 32 + count * FRAME_BYTES) + 8 : at + 16] == wal[16:24]:
        count += 1
    return count


def overwrite(path: Path, start: int, size: int) -> None:
    """With bytes that mean nothing."""
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(size).randbytes(size))


def in_the_file(spool: Path) -> None:
    overwrite(spool / FILE, FILE_BYTES // 5, 30_000)


def at_its_end(spool: Path) -> None:
    os.truncate(spool / FILE, FILE_BYTES // 5)


def in_the_write_ahead_log(spool: Path) -> None:
    overwrite(spool / f"{FILE}-wal", frames(spool) // 2 * FRAME_BYTES, 30_000)


def in_both(spool: Path) -> None:
    in_the_file(spool)
    in_the_write_ahead_log(spool)


@pytest.mark.parametrize("damage", [at_its_end, in_both])
async def test_what_is_left_of_a_damaged_spool_and_what_the_notice_counts_is_all_that_was_written(
    kafka_broker: Broker, prefix: str, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    async with (
        machine(tmp_path / "here", kafka_broker.servers, prefix) as here,
        machine(tmp_path / "watcher", kafka_broker.servers, prefix) as watcher,
    ):
        reader = await watcher.reader()
        dead = await here.writer(records=400)
        size = (here.spool / FILE).stat
        await dead.until(lambda _: size().st_size > FILE_BYTES and frames(here.spool) in FRAMES)
        await dead.hold()
        await dead.kill()
        damage(here.spool)

        flags = ("--no-shipper", "--autoscaler=none", f"--port={free_port()}")
        await asyncio.gather(here.shipper(), here.role("gateway", *flags), here.role("autoscaler", "--no-shipper"))
        alive = await here.writer()
        await alive.further(1000)
        written = await alive.end()
        await here.shipped()
        seen = await reader.end()

        lost = sum(len(hole) for topic in (REQUESTS, DEMAND) for hole in holes(seen, dead.told, topic))
        (notice,) = seen.damaged
        assert notice.lost == lost > 0
        assert notice.waiting == sum(dead.told.committed.values()) - lost
        assert (Path(notice.moved_to) / FILE).exists()
        assert [hole for topic in (REQUESTS, DEMAND) for hole in holes(seen, written, topic)] == []
        read = seen.audit.accounts
        assert all(
            one.records == 400 * len(one.sequences) for source, one in read.items() if source.writer == dead.told.writer
        )
        assert sum(one.records for source, one in read.items() if source.writer == written.writer) == written.records()
        assert (seen.disorder, seen.repeated, seen.unreadable) == ([], {}, {})
