"""A spool that has no room: on a full disk nothing that was accepted is lost, and beyond its cap nothing is uncounted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from router.contract.events import DEMAND, REQUESTS
from tests.support.log_faults import Machine, machine, until

if TYPE_CHECKING:
    from loadtests.broker import Broker

DISK_BYTES = 24 << 20
CAP_BYTES = 1 << 20


@pytest.fixture
async def absent_broker(kafka_here: None, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that has an address and does not run yet."""
    from loadtests.broker import Broker

    broker = Broker(tmp_path / "kafka")
    yield broker
    await broker.kill()


@contextlib.asynccontextmanager
async def small_disk(folder: Path) -> AsyncIterator[tuple[Path, list[str]]]:
    """A tmpfs in `folder` that only the processes see which are started behind the words; and where we see it."""
    script = f"mount -t tmpfs -o size={DISK_BYTES} none {folder} && echo mounted && exec cat"
    holder = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "sh", "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert await holder.stdout.readline() == b"mounted\n"
        words = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wd={os.getcwd()}"]
        yield Path(f"/proc/{holder.pid}/root{folder}"), words
    finally:
        holder.stdin.close()
        await holder.wait()


def may_mount() -> str:
    """Why not; empty when we may."""
    if os.geteuid() or not (shutil.which("unshare") and shutil.which("nsenter")):
        return "only root can give processes a small disk of their own"
    return ""


@pytest.mark.skipif(bool(may_mount()), reason=may_mount())
async def test_a_full_disk_loses_nothing_that_was_accepted(absent_broker: Broker, tmp_path: Path) -> None:
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    async with small_disk(spool) as (inside, words), machine(tmp_path, absent_broker.servers, words=words) as here:
        here.seen_spool = inside
        shipper = await here.shipper()
        await until_kept(inside)
        writer, reader = await here.writer(records=400, buffer_bytes=4 << 20), await here.reader()
        await writer.until(lambda told: told.unflushed > 3)
        await writer.until(lambda told: told.dropped.get(REQUESTS, 0) > 20)
        assert (shipper.process.returncode, writer.process.returncode) == (None, None)
        await absent_broker.start()
        await reader.further(10_000)
        await writer.further(10_000)
        await here.settle(reader, writer)
        assert writer.told.dropped.keys() <= {REQUESTS, DEMAND}


async def until_kept(folder: Path) -> None:
    """Wait until the shipper has put some of the disk aside."""

    async def look() -> bool:
        return (folder / "ballast").exists()

    await until("a ballast", look)


async def folded(here: Machine, topic: str) -> float:
    return (await here.health()).counters.get(("log_folded_messages", topic), 0.0)


async def test_a_spool_beyond_its_cap_keeps_count_of_everything(absent_broker: Broker, tmp_path: Path) -> None:
    async with machine(tmp_path, absent_broker.servers, spool_bytes=CAP_BYTES) as here:
        await here.shipper()
        writer, reader = await here.writer(records=40), await here.reader()

        async def both_folded() -> bool:
            return await folded(here, REQUESTS) > 1000 and await folded(here, DEMAND) > 1000

        await until("records and reports that are folded", both_folded)
        await writer.hold()
        assert (await here.health()).gauges["spool_bytes", ""] < CAP_BYTES
        await absent_broker.start()
        await reader.level()
        await writer.go()
        await writer.further(1000)
        seen = await here.settle(reader, writer, folded=True)
        told = [one for one in seen.notices if one.writer == writer.told.writer]
        messages: Counter[tuple[str, str]] = Counter()
        for one in told:
            messages[one.topic, one.endpoint] += one.messages
        assert messages == seen.merged
        assert sum(one.records for one in told) == sum(one.folded for one in seen.audit.accounts.values())
        assert seen.audit.records() > sum(one.folded for one in seen.audit.accounts.values()) > 0
