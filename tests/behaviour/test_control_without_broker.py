"""The control plane's live figures while no broker is to be had: they go on by what the autoscaler was handed, once each."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from autoscaler.control.passing import Passing
from router.contract import codec
from router.contract.events import DEMAND, DemandReport, DemandRow
from router.contract.handover import Handed
from router.control import direct
from router.runtime.log.base import Health
from router.runtime.log.embedded import EmbeddedLog
from tests.support.autoscaler_shared_log import SharedLog
from tests.support.control_plane import Running, running, until

SECOND = 10**9


class FarLog(SharedLog):
    """Its streams are at a broker that a test takes away."""

    async def health(self) -> Health:
        """See `Log`."""
        return Health(state="current" if self.in_reach.is_set() else "unreachable")


class Gateway:
    """Puts reports on the log, and hands those over that it is told to."""

    def __init__(self, log: EmbeddedLog) -> None:
        self.log = log
        self.passing = Passing()
        self.arrived = 0

    def say(self, in_flight: int, *, directly: bool = True, lost: bool = False) -> None:
        now = time.time_ns()
        row = DemandRow("blue", arrivals=1, completions=1, in_flight=in_flight)
        value = codec.encode_demand(DemandReport("shop-0", now - SECOND // 10, now, 1, 1, rows=(row,)))
        sequence = self.log.append(DEMAND, "shop-0", value)
        self.arrived += 1
        if directly and not lost:
            self.passing.put([Handed(self.log.writer, sequence, now, "shop-0", value)])


@pytest.fixture
async def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(direct, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(direct, "AWAY_SECONDS", 0.05)
    async with running(tmp_path, FarLog) as one:
        yield one


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    log = EmbeddedLog(tmp_path / "log")
    yield Gateway(log)
    await log.close()


@contextlib.asynccontextmanager
async def autoscaler(plane: Running, passing: Passing) -> AsyncIterator[None]:
    """The real site, over what was handed."""
    answers = Answers(lambda *_: None, lambda _: [], passed=passing.after)
    async with admin_site(plane.settings.data.autoscaler_socket, answers):
        yield


async def figures(plane: Running) -> tuple[int, float]:
    """(in flight now, arrivals ever)."""
    shop = (await plane.call("GET", "/v1/status")).json["endpoints"][0]
    text = (await plane.call("GET", "/metrics")).text
    line = next(line for line in text.splitlines() if line.startswith("tidegate_requests_total{"))
    return shop["in_flight"] or 0, float(line.rpartition(" ")[2])


async def test_figures_go_on_while_the_broker_is_away_and_nothing_counts_twice_when_it_is_back(
    plane: Running, gateway: Gateway
) -> None:
    await plane.endpoint("shop-0", "blue")
    log = plane.log
    assert isinstance(log, FarLog)
    async with autoscaler(plane, gateway.passing):
        gateway.say(1)

        async def shows(in_flight: int, arrived: int) -> Any:
            return await figures(plane) == (in_flight, arrived)

        await until("both ways at once", lambda: shows(1, 1))
        log.in_reach.clear()
        for number in range(2, 7):
            gateway.say(number)
        await until("it goes on without the broker", lambda: shows(6, 6))
        gateway.say(99, lost=True)
        gateway.say(7)
        await until("what got lost on its direct way is missing", lambda: shows(7, 7))
        log.in_reach.set()
        await until("the log brings what was missing, and that alone", lambda: shows(7, 8))
        gateway.say(8)
        await until("and it goes on", lambda: shows(8, 9))
    assert gateway.arrived == 9


async def test_an_autoscaler_that_is_not_there_or_restarts_is_simply_asked_again(
    plane: Running, gateway: Gateway
) -> None:
    await plane.endpoint("shop-0", "blue")
    log = plane.log
    assert isinstance(log, FarLog)
    log.in_reach.clear()
    for number in (1, 2):
        gateway.passing = Passing()
        async with autoscaler(plane, gateway.passing):
            gateway.say(number)

            async def shown(number: int = number) -> Any:
                return await figures(plane) == (number, number)

            await until("figures", shown)
    log.in_reach.set()
    gateway.say(3, directly=False)

    async def all_of_it() -> Any:
        return await figures(plane) == (3, 3)

    await until("the log alone", all_of_it)


async def test_handed_demand_is_shown_on_this_machine_alone(tmp_path: Path, gateway: Gateway) -> None:
    gateway.say(1)
    answers = Answers(lambda *_: None, lambda _: [], passed=gateway.passing.after)
    path = tmp_path / "s"
    async with admin_site(path, answers, ("127.0.0.1", 0)) as bound:
        assert bound is not None
        for connect, target, status in (
            (asyncio.open_unix_connection(str(path)), "/v1/demand?after=0", b"200"),
            (asyncio.open_unix_connection(str(path)), "/v1/demand?after=x", b"400"),
            (asyncio.open_unix_connection(str(path)), "/v1/demand", b"400"),
            (asyncio.open_connection(*bound), "/v1/demand?after=0", b"405"),
        ):
            reader, writer = await connect
            writer.write(f"GET {target} HTTP/1.1\r\n\r\n".encode())
            assert (await reader.read()).split(b" ")[1] == status
            writer.transport.abort()
