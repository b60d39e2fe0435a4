"""Each part is killed under load: only requests inside the killed gateway worker or replica may fail."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from loadtests.tree import CommandFailed
from tests.support.whole import Whole, processes_of, until, whole

CALLERS = 6


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def replaced(running: Whole, role: str, before: list[int]) -> list[int]:
    """Wait until as many of the role's processes are ready as before, the first of those before not among them."""

    async def look() -> list[int]:
        now = running.pids(role)
        return now if len(now) == len(before) and before[0] not in now else []

    found: list[int] = await until(f"a new {role}", look)
    return found


@pytest.mark.parametrize("role", ["mirror", "autoscaler", "control"])
async def test_killing_a_role_off_the_live_path_fails_no_request_and_it_comes_back(tmp_path: Path, role: str) -> None:
    async with whole(tmp_path) as running:
        await running.create("faults", {"blue": {}, "green": {}, "shadow": {}}, {"blue": 50, "green": 50})
        await running.tree.run("online-endpoint", "update", "-n", "faults", "--mirror-traffic", "shadow=50")
        async with running.load("faults", CALLERS) as load:
            for _ in range(3):
                before = running.pids(role)
                assert len(before) == 1
                await running.more(load, 100)
                kill(before[0])
                await replaced(running, role, before)
            await running.more(load, 300)
        assert load.failures == []
        assert load.answered == load.sent

        async def changed() -> bool:
            await running.tree.run("online-endpoint", "update", "-n", "faults", "--traffic", "blue=0 green=100")
            return True

        await until("a change after the restart", changed)

        async def all_green() -> bool:
            return {(await running.ask("faults"))[1] for _ in range(8)} == {"green"}

        await until("the change to reach the gateways", all_green)


async def test_stopping_the_mirror_changes_nothing_for_live_requests(tmp_path: Path) -> None:
    async with whole(tmp_path) as running:
        await running.create("faults", {"blue": {}, "shadow": {}}, {"blue": 100})
        await running.tree.run("online-endpoint", "update", "-n", "faults", "--mirror-traffic", "shadow=50")
        (mirror,) = running.pids("mirror")
        async with running.load("faults", CALLERS, {"echo": "x" * 20_000}) as load:
            await running.more(load, 100)
            os.kill(mirror, signal.SIGSTOP)
            try:
                await running.more(load, 2000)
            finally:
                os.kill(mirror, signal.SIGCONT)
            await running.more(load, 100)
        assert load.failures == []


async def test_killing_one_of_two_gateway_workers_fails_only_what_was_inside_it(tmp_path: Path) -> None:
    async with whole(tmp_path, workers=2) as running:
        await running.create("faults", {"blue": {}}, {"blue": 100})
        async with running.load("faults", CALLERS) as load:
            for _ in range(3):
                before = running.pids("gateway")
                assert len(before) == 2
                await running.more(load, 100)
                failed = len(load.failures)
                kill(before[0])
                await replaced(running, "gateway", before)
                # A caller can be cut off twice: in the worker, and in the backlog of its socket until the kernel
                # has taken that away.
                assert len(load.failures) - failed <= 2 * CALLERS
                failed = len(load.failures)
                await running.more(load, 300)
                assert len(load.failures) == failed
        assert load.answered + len(load.failures) == load.sent


async def test_killing_a_replica_fails_only_what_was_inside_it_and_it_is_replaced(tmp_path: Path) -> None:
    async with whole(tmp_path) as running:
        await running.create("faults", {"blue": {"instance_count": 2}}, {"blue": 100})
        async with running.load("faults", CALLERS) as load:
            for _ in range(3):
                servers = await two_servers(tmp_path / "data")
                await running.more(load, 100)
                failed = len(load.failures)
                kill(servers[0].pid)
                await two_servers(tmp_path / "data", without=servers[0].pid)
                await running.more(load, 200)
                assert len(load.failures) - failed <= CALLERS
        assert load.answered + len(load.failures) == load.sent

        async def both_ready() -> bool:
            return await running.counts("faults", "blue") == {"observed": 2, "ready": 2, "desired": 2}

        await until("two ready replicas", both_ready)


async def two_servers(data: Path, without: int = 0) -> list[psutil.Process]:
    """The model servers, once there are two and `without` is none of them."""

    async def look() -> list[psutil.Process]:
        found = [process for process in processes_of(data) if _is_server(process)]
        return found if len(found) == 2 and without not in [process.pid for process in found] else []

    servers: list[psutil.Process] = await until("two model servers", look)
    return servers


async def test_kill_of_everything_leaves_replicas_that_the_next_start_adopts_once(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):  # the tree under the first context manager ends by SIGKILL
        async with whole(tmp_path) as running:
            await running.create("faults", {"blue": {"instance_count": 2}}, {"blue": 100})
            revisions = await running.api("GET", "/v1/endpoints/faults/revisions")
            tree = psutil.Process(running.up.pid)
            roles = tree.children()
            kill(tree.pid)
            psutil.wait_procs(roles, timeout=30)
            async with whole(tmp_path) as again:
                again.keys.update(running.keys)
                await _served_by_two(again)
                await two_servers(tmp_path / "data")
                assert await again.api("GET", "/v1/endpoints/faults/revisions") == revisions


async def _served_by_two(running: Whole) -> None:
    async def answered() -> bool:
        return (await running.ask("faults"))[0] == 200

    await until("an answer after the restart", answered)

    async def two_ready() -> bool:
        return await running.counts("faults", "blue") == {"observed": 2, "ready": 2, "desired": 2}

    await until("two replicas", two_ready)


def _is_server(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()[1:2] == ["serve.py"]
    return False
