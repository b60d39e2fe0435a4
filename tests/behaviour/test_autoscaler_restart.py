"""The whole service forgets nothing and counts nothing twice, wherever it was killed; what past the log came, neither."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from autoscaler.control import keeping, service
from autoscaler.policy.demand import DemandState, Heard, fold, set_width
from router.contract.codec import decode_demand, decode_replicas, encode_demand, encode_specs
from router.contract.events import DEMAND, SNAPSHOTS, SPECS, DemandReport, DemandRow
from router.contract.handover import PATH, Handed, decode_told, encode_handed
from router.runtime.log.base import Message
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import AutoscalerSettings, DataLayout
from tests.support.autoscaler_fleet import ENDPOINT, SECOND, deployment, load, revision
from tests.support.autoscaler_known import known, sorted_text
from tests.support.autoscaler_shared_log import until


@dataclass
class Folder:
    """A data folder whose autoscaler can be stopped and killed, and a gateway that writes."""

    settings: AutoscalerSettings
    log: EmbeddedLog
    world: MemoryWorld = field(default_factory=MemoryWorld)
    made: list[service.Autoscaler] = field(default_factory=list)
    said: list[Handed] = field(default_factory=list)

    @property
    def autoscaler(self) -> service.Autoscaler:
        return self.made[-1]

    @contextlib.asynccontextmanager
    async def running(self, *, kill: bool = False) -> AsyncIterator[service.Autoscaler]:
        """The service, ready. It has a log of its own, as a process has."""
        backend = MemoryBackend(world=self.world)
        log = EmbeddedLog(self.log.folder)
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            service.run(
                self.settings,
                {"memory": backend},
                log,
                stop,
                ready.set,
                default_backend="memory",
                on_made=self.made.append,
            )
        )
        try:
            await until("ready", lambda: ready.is_set() or task.done())
            yield self.autoscaler
            if kill:
                task.cancel()
        finally:
            stop.set()
            await asyncio.gather(task, return_exceptions=kill)
            await backend.close(end_replicas=False)
            await log.close()

    def say(self, *rows: DemandRow, log: bool = True, endpoint: str = ENDPOINT) -> Handed:
        """One report, now; without `log` it will reach that later."""
        now = time.time_ns()
        report = DemandReport(endpoint, now - SECOND // 20, now, 1, 0, rows=rows)
        value = encode_demand(report)
        sequence = self.log.append(DEMAND, endpoint, value) if log else -1
        one = Handed(self.log.writer, sequence, now, endpoint, value)
        self.said.append(one)
        return one

    async def everything(self, topic: str) -> list[Message]:
        """All that is on a topic."""
        await self.log.flush()
        reader, found = await self.log.reader((topic,)), list[Message]()
        try:
            while not await reader.caught_up():
                found += await reader.next(1.0)
        finally:
            await reader.close()
        return found

    async def whole(self) -> DemandState:
        """What one who had never ended would know."""
        state = DemandState()
        set_width(state, (ENDPOINT, "blue"), SECOND)
        for one in await self.everything(DEMAND):
            state = fold(state, [Heard(one.writer, one.sequence, decode_demand(one.value))])
        return state

    def folded(self) -> bool:
        """Whether everything said has been counted."""
        ids = self.autoscaler.reconciler.demand.ids.get(ENDPOINT, {}).get(self.log.writer)
        return not self.said or (ids is not None and ids.until >= self.said[-1].sequence)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Folder]:
    data = DataLayout(tmp_path / "data")
    data.create()
    log = EmbeddedLog(data.log)
    log.append(SPECS, ENDPOINT, encode_specs(revision(1, {"blue": deployment(tidegate={"max_instances": 9})})))
    yield Folder(AutoscalerSettings(data, tmp_path / "cache", tick_seconds=0.05), log)
    await log.close()


def same(one: DemandState, other: DemandState) -> None:
    """Whether both know the same, to the bit."""
    now = time.time_ns()
    mine, theirs = known(one, now), known(other, now)
    for part in mine:
        assert sorted_text(mine[part]) == sorted_text(theirs[part]), part


async def test_killed_at_many_points_it_knows_what_one_would_that_never_ended(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_NS", SECOND // 10)
    restored = held = 0
    for round_ in range(12):
        async with folder.running(kill=round_ % 3 != 2) as autoscaler:
            for number in range(round_ + 3):
                folder.say(load(in_flight=number % 4, arrivals=number, completions=number, busy_seconds=0.01 * number))
                await asyncio.sleep(0.02)
            # In every third round it is killed with some of it unread.
            if round_ % 3:
                await until("everything is counted", folder.folded)
                same(autoscaler.reconciler.demand, await folder.whole())
        for number in range(3):
            folder.say(load(in_flight=1, arrivals=number))
        stats = autoscaler.intake.stats
        assert (stats.duplicates, stats.gaps, stats.skipped, stats.snapshots_skipped) == (0, 0, 0, 0)
        restored, held = restored + stats.restored, held + stats.held
    assert restored == 11, "every restart but the first began with a snapshot"
    assert held == 0, "and read on where that ended: there is one endpoint only"
    async with folder.running() as autoscaler:
        await until("everything is counted", folder.folded)
        same(autoscaler.reconciler.demand, await folder.whole())


async def test_of_two_endpoints_the_older_snapshot_says_where_reading_begins(folder: Folder) -> None:
    other = revision(1, {"blue": deployment()})
    folder.log.append(SPECS, "winds", encode_specs(type(other)("winds", 1, 0, {"name": "winds"}, {})))
    async with folder.running(kill=True):
        folder.say(load(in_flight=1, arrivals=4))
        await until("everything is counted", folder.folded)
        folder.say(endpoint="winds")
        await until("counted", lambda: "winds" in folder.autoscaler.reconciler.demand.ids)
        folder.autoscaler._keeper.keep(time.time_ns(), everything=True)
        for _ in range(20):
            folder.say(load(in_flight=1, arrivals=4))
        await until("everything is counted", folder.folded)
        folder.autoscaler._keeper.keep(time.time_ns(), everything=True)
    async with folder.running() as autoscaler:
        stats = autoscaler.intake.stats
        assert (stats.restored, stats.held, stats.duplicates) == (2, 20, 0)
        same(autoscaler.reconciler.demand, await folder.whole())


async def test_a_stop_in_good_order_leaves_nothing_to_read_again(folder: Folder) -> None:
    async with folder.running():
        for _ in range(10):
            folder.say(load(in_flight=2, arrivals=1))
        await until("everything is counted", folder.folded)
    async with folder.running() as autoscaler:
        assert autoscaler.intake.stats.messages == 0
        assert autoscaler.intake.stats.restored == 1
        same(autoscaler.reconciler.demand, await folder.whole())


async def test_history_survives(folder: Folder) -> None:
    def desired() -> int:
        folder.say(load(in_flight=5, arrivals=5))
        return folder.autoscaler.reconciler.fleet.desired((ENDPOINT, "blue"))

    async with folder.running(kill=True) as autoscaler:
        await until("scaled out", lambda: desired() > 1)
    before = autoscaler.reconciler.fleet.histories_of(ENDPOINT)["blue"]
    async with folder.running() as autoscaler:
        after = autoscaler.reconciler.fleet.histories_of(ENDPOINT)["blue"]
        # It may have grown again by now, but has forgotten no growth of before.
        assert after.desired >= before.desired > 1
        assert after.grown_ns >= before.grown_ns > 0
        assert (after.turns, after.turned_ns, after.rising) == (before.turns, before.turned_ns, True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: b"{",
        lambda one: json.dumps({**json.loads(one), "schema": 99}).encode(),
        lambda one: json.dumps({**json.loads(one), "state": {**json.loads(one)["state"], "shape": 99}}).encode(),
        lambda one: json.dumps({**json.loads(one), "state": {**json.loads(one)["state"], "writers": 7}}).encode(),
        lambda one: json.dumps({**json.loads(one), "partition": 3}).encode(),
    ],
)
async def test_a_snapshot_that_cannot_be_read_is_counted_and_the_log_read_instead(
    folder: Folder, spoil: Callable[[bytes], bytes]
) -> None:
    async with folder.running():
        for _ in range(10):
            folder.say(load(in_flight=2, arrivals=1))
        await until("everything is counted", folder.folded)
    kept = [one for one in await folder.everything(SNAPSHOTS) if one.key == ENDPOINT]
    folder.log.append(SNAPSHOTS, ENDPOINT, spoil(kept[-1].value))
    async with folder.running() as autoscaler:
        assert autoscaler.intake.stats.snapshots_skipped == 1
        same(autoscaler.reconciler.demand, await folder.whole())


async def hand(folder: Folder, messages: Sequence[Handed]) -> dict[str, int]:
    """`POST /v1/demand`; endpoint → version of what the answer tells."""
    body = encode_handed(messages)
    reader, writer = await asyncio.open_unix_connection(str(folder.settings.data.autoscaler_socket))
    writer.write(
        f"POST {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    writer.write(body)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    size = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    told = decode_told(await reader.readexactly(size))
    writer.close()
    await writer.wait_closed()
    return {key: decode_replicas(value).version for key, value in told}


async def test_what_comes_both_ways_counts_once_over_a_restart_too(folder: Folder) -> None:
    async with folder.running(kill=True) as autoscaler:
        said = [folder.say(load(in_flight=1, arrivals=number)) for number in range(10)]
        await hand(folder, said)
        await until("everything is counted", folder.folded)
        ahead = [one._replace(sequence=100 + number) for number, one in enumerate(said)]
        await hand(folder, ahead)
        await until("counted", lambda: len(autoscaler.reconciler.demand.ids[ENDPOINT][folder.log.writer].beyond) == 10)
        assert autoscaler.intake.stats.direct == 20
        autoscaler._keeper.keep(time.time_ns(), everything=True)
    async with folder.running() as again:
        await hand(folder, [*ahead, *said])
        await until("counted", lambda: again.intake.stats.echoes + again.intake.stats.duplicates == 20)
        same(again.reconciler.demand, autoscaler.reconciler.demand)


async def test_who_hands_demand_over_hears_what_to_route_by(folder: Folder) -> None:
    async with folder.running() as autoscaler:
        await until("ready", lambda: ENDPOINT in autoscaler.reconciler.planner.published)
        await until("ready", lambda: "ready" in str(autoscaler.reconciler.planner.published[ENDPOINT].deployments))
        one = folder.say(load())
        told = await hand(folder, [one])
        version = autoscaler.reconciler.planner.published[ENDPOINT].version
        assert told == {ENDPOINT: version}
        report = decode_demand(one.value)
        current = DemandReport(report.endpoint, report.start_ns, report.end_ns, 1, version)
        assert await hand(folder, [one._replace(value=encode_demand(current))]) == {}
        skipped = autoscaler.intake.stats.skipped
        assert await hand(folder, [one._replace(value=b"\xff"), one._replace(key="winds")]) == {}
        assert autoscaler.intake.stats.skipped == skipped + 2


async def test_somebody_who_waits_is_helped_at_once_also_past_the_log(folder: Folder) -> None:
    body = deployment(instance_count=0, tidegate={"min_instances": 0})
    folder.log.append(SPECS, ENDPOINT, encode_specs(revision(2, {"blue": body})))
    folder.settings = AutoscalerSettings(folder.settings.data, folder.settings.cache, tick_seconds=3600)
    async with folder.running() as autoscaler:
        await until("known", lambda: ENDPOINT in autoscaler.reconciler.planner.published)
        one = folder.say(load(queued=1, arrivals=1), log=False)
        await hand(folder, [one._replace(sequence=7)])
        await until("awake", lambda: autoscaler.reconciler.fleet.desired((ENDPOINT, "blue")) == 1)


async def test_the_first_start_on_a_log_of_before_reads_the_last_minutes(folder: Folder) -> None:
    for number in range(20):
        folder.say(load(in_flight=1, arrivals=number))
    async with folder.running() as autoscaler:
        assert autoscaler.intake.stats.restored == 0
        same(autoscaler.reconciler.demand, await folder.whole())
