"""A background task restarts, ends the process or ends well; and everything ends with its owner."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import subprocess
import sys

import pytest

from router.runtime.clock import ManualClock
from router.runtime.tasks import (
    HEALTHY_SECONDS,
    RESTART_LIMIT_SECONDS,
    RESTART_SECONDS,
    OnFailure,
    Supervisor,
    TaskFailed,
    stop_event,
)
from tests.support.log_writing import ROOT


async def asleep(clock: ManualClock) -> None:
    async with asyncio.timeout(30):
        while not clock.sleepers:
            await asyncio.sleep(0)


async def test_a_failed_task_starts_again_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    starts: list[float] = []

    async def work() -> None:
        starts.append(clock.monotonic())
        raise ValueError("broken")

    async with Supervisor("gateway", clock=clock) as tasks:
        tasks.start("flaky", work, on_failure=OnFailure.RESTART)
        for _ in range(400):
            await asleep(clock)
            clock.advance(0.1)
            await asyncio.sleep(0)
        tasks.check()
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[:5] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    record = caplog.records[0]
    assert (record.levelno, vars(record)["task"], bool(record.exc_info)) == (logging.ERROR, "gateway.flaky", True)


async def test_pauses_are_bounded_and_start_over_after_a_healthy_run() -> None:
    clock = ManualClock()
    runs: asyncio.Queue[float] = asyncio.Queue()
    healthy = False

    async def work() -> None:
        runs.put_nowait(clock.monotonic())
        if healthy:
            await clock.sleep(HEALTHY_SECONDS)
        raise ValueError("broken")

    async with Supervisor(clock=clock) as tasks:
        tasks.start("flaky", work, on_failure=OnFailure.RESTART)
        for _ in range(12):
            await runs.get()
            await asleep(clock)
            clock.advance(RESTART_LIMIT_SECONDS)
        healthy = True
        await runs.get()
        await asleep(clock)
        clock.advance(HEALTHY_SECONDS)
        await asyncio.sleep(0)  # fails after a healthy run
        await asleep(clock)
        clock.advance(RESTART_SECONDS)
        async with asyncio.timeout(30):
            await runs.get()


async def test_a_task_the_process_needs_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise KeyError("lost")

    async with Supervisor() as tasks:
        tasks.start("vital", work)
        with pytest.raises(TaskFailed, match="vital: KeyError: 'lost'") as caught:
            await tasks.until(asyncio.Event())
        assert isinstance(caught.value.__cause__, KeyError)
    assert "the process ends" in caplog.text


async def test_until_returns_when_it_is_time_to_stop() -> None:
    stop = asyncio.Event()
    async with Supervisor() as tasks:
        tasks.start("endless", asyncio.Event().wait)  # type: ignore[arg-type]
        waiting = asyncio.create_task(tasks.until(stop))
        await asyncio.sleep(0)
        stop.set()
        async with asyncio.timeout(30):
            await waiting


async def test_a_task_that_returns_has_ended_well_and_frees_its_name() -> None:
    async def work() -> None:
        pass

    async with Supervisor() as tasks:
        await tasks.start("once", work, on_failure=OnFailure.RESTART)
        await asyncio.sleep(0)
        assert tasks.running == ()
        await tasks.start("once", work)
        tasks.check()


async def test_names_are_unique_and_a_closed_supervisor_starts_nothing() -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    tasks = Supervisor()
    tasks.start("one", endless)
    with pytest.raises(ValueError, match="'one'"):
        tasks.start("one", endless)
    await tasks.close()
    with pytest.raises(RuntimeError, match="closed"):
        tasks.start("two", endless)


async def test_close_ends_the_last_started_first_and_waits_for_each() -> None:
    ended: list[str] = []
    tasks = Supervisor()

    def work(name: str) -> None:
        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(name)

        tasks.start(name, run)

    for name in ("log", "routes", "server"):
        work(name)
    await asyncio.sleep(0)
    assert list(tasks.running) == ["log", "routes", "server"]
    await tasks.close()
    assert ended == ["server", "routes", "log"]
    assert not tasks.running


async def test_cancel_ends_one_task_also_while_it_waits_to_start_again() -> None:
    clock = ManualClock()

    async def work() -> None:
        raise ValueError("broken")

    async with Supervisor(clock=clock) as tasks:
        tasks.start("flaky", work, on_failure=OnFailure.RESTART)
        await asleep(clock)
        await tasks.cancel("flaky")
        await tasks.cancel("flaky")
        assert tasks.running == ()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_stop_event(number: signal.Signals) -> None:
    stop = stop_event()
    try:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(30):
            await stop.wait()
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(one)


_IMPATIENT = """
import asyncio
from router.runtime.tasks import stop_event
async def main():
    stop = stop_event()
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_second_interrupt_ends_at_once_and_a_second_sigterm_does_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _IMPATIENT], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "stopping\n"
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "KeyboardInterrupt" in errors
    assert process.returncode not in {0, -signal.SIGTERM}
