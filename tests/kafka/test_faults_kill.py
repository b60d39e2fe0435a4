"""`kill -9` in loops: what a killed process had committed is read and counts once, and nothing else is missing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

pytest.importorskip("aiokafka")

from loadtests.waiting import free_port
from router.runtime.log.opening import open_log
from tests.support.gateway_rig import Publisher, deployment, replica
from tests.support.gateway_upstream import caller, post, scripted
from tests.support.log_faults import Child, Machine, machine, until

if TYPE_CHECKING:
    from loadtests.broker import Broker
    from router.runtime.log.embedded import EmbeddedLog

KILLS = 10


@pytest.fixture
async def here(kafka_broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path, kafka_broker.servers, prefix) as one:
        yield one


async def test_a_shipper_that_is_killed_again_and_again_sends_everything(here: Machine) -> None:
    shipper = await here.shipper()
    writer, reader = await here.writer(), await here.reader()
    for _ in range(KILLS):
        await reader.further(200)
        await shipper.kill()
        shipper = await here.shipper()
    await reader.further(200)
    await here.settle(reader, writer)
    assert writer.told.dropped == {}


async def test_a_writer_that_is_killed_loses_nothing_that_was_committed(here: Machine) -> None:
    await here.shipper()
    reader = await here.reader()
    killed = []
    for turn in range(KILLS):
        writer = await here.writer()
        await writer.further(100 * turn)
        await writer.kill()
        killed.append(writer.told)
    await here.settle(reader, *killed, await here.writer())


class Gateway:
    """One worker after the other on the same port, and the ids of the requests that it answered."""

    def __init__(self, here: Machine) -> None:
        self._here = here
        self.port = free_port()
        self.answered: dict[str, set[int]] = {}
        """First digits of the boot id → sequences of its requests."""

    async def start(self) -> Child:
        flags = ("--no-shipper", "--autoscaler=none", f"--port={self.port}", "--drain-seconds=5")
        return await self._here.role("gateway", *flags)

    async def load(self, requests: int, callers: int = 8) -> None:
        """So many answers at least; or the worker's end."""

        async def call() -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with caller(self.port) as connection:
                    for _ in range(requests // callers + 1):
                        connection.send(post(b"x"))
                        got = await connection.answer()
                        assert got.status == 200
                        self._note(got.headers["x-request-id"])

        await asyncio.gather(*(call() for _ in range(callers)))

    def _note(self, request_id: str) -> None:
        digits = request_id.replace("-", "")
        self.answered.setdefault(digits[:20], set()).add(int(digits[20:], 16))

    @property
    def count(self) -> int:
        """Requests answered by all workers."""
        return sum(map(len, self.answered.values()))

    async def further(self, requests: int) -> None:
        """Wait until so many more are answered than now."""
        target = self.count + requests

        async def look() -> bool:
            return self.count >= target

        await until(f"{requests} more answers", look)


async def publish(here: Machine, port: int) -> None:
    """An endpoint with one replica that listens on `port`, into the machine's spool."""
    publisher = Publisher(here.folder / "unused")
    await publisher.log.close()
    log = open_log(here.url, spool=here.spool)
    publisher.log = cast("EmbeddedLog", log)
    publisher.endpoint("demo", {"blue": deployment()}, {"blue": 100})
    publisher.replicas("demo", {"blue": [replica(port)]})
    await log.close()


async def test_a_gateway_worker_that_is_killed_under_load_loses_only_what_it_had_not_committed(here: Machine) -> None:
    gateway = Gateway(here)
    async with scripted() as upstream:
        await publish(here, upstream.port)
        await here.shipper()
        reader = await here.reader()
        safe: dict[str, set[int]] = {}
        for _ in range(3):
            worker = await gateway.start()
            before, had = await reader.records(), gateway.count
            await gateway.load(300)
            # Everything answered so far has been read, so whatever the kill takes came after.
            await reader.further(before + gateway.count - had - await reader.records())
            safe |= {boot: set(answered) for boot, answered in gateway.answered.items() if boot not in safe}
            loading = asyncio.create_task(gateway.load(100_000))
            await gateway.further(300)
            await worker.kill()
            await loading
        worker = await gateway.start()
        await gateway.load(300)
        worker.process.send_signal(signal.SIGTERM)
        assert await worker.ended() == 0
        seen = await reader.end()
    assert len(gateway.answered) == 4
    assert (seen.stats.gaps, seen.disorder) == (0, [])
    read = {writer[:20]: (numbers, writer) for (writer, _), numbers in seen.numbers.items()}
    assert read.keys() == gateway.answered.keys()
    for boot, answered in gateway.answered.items():
        ranges, writer = read[boot]
        numbers = {number for start, stop in ranges for number in range(start, stop)}
        assert len(numbers) == sum(stop - start for start, stop in ranges), "a record counts twice"
        accounts = [one for source, one in seen.audit.accounts.items() if source.writer == writer]
        assert [one.sequences for one in accounts] == [set(range(len(accounts[0].sequences)))]
        assert safe.get(boot, answered) <= numbers
        if boot not in safe:
            assert numbers == answered
