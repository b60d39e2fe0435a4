"""The process tree: restarted when it dies, ended in order, and never outliving its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.runtime.processes import identity
from router.supervision import Backoff, Role, StartFailed, Supervisor, ending, rotate, tail
from tests.support.cli_roles import marks, role, until

QUICK = Backoff(first_seconds=0.01, most_seconds=0.05, settled_seconds=3600)


class Running:
    """A supervisor at work."""

    def __init__(self, roles: list[Role], backoff: Backoff = QUICK) -> None:
        self.said: list[str] = []
        self.changes = 0
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(roles, notify=self.said.append, changed=self._changed, backoff=backoff)

    def _changed(self) -> None:
        self.changes += 1

    async def run(self) -> None:
        await self.supervisor.run(self.stop, self.ready.set)


@contextlib.asynccontextmanager
async def running(*roles: Role, backoff: Backoff = QUICK) -> AsyncIterator[Running]:
    run = Running(list(roles), backoff)
    task = asyncio.create_task(run.run())
    try:
        ready = asyncio.create_task(run.ready.wait())
        await asyncio.wait({task, ready}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        yield run
    finally:
        run.stop.set()
        await asyncio.wait_for(task, 60)


async def test_everyone_is_ready_before_the_tree_is(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a"), role(tmp_path, "b")) as run:
        assert run.ready.is_set()
        assert len(marks(tmp_path, "a", "ready")) == len(marks(tmp_path, "b", "ready")) == 1
        state = run.supervisor.state()
        assert {name: told["ready"] for name, told in state.items()} == {"a": True, "b": True}
        assert state["a"]["pid"] == marks(tmp_path, "a", "started")[0]
    assert run.said == []


async def test_a_killed_role_comes_back_and_the_others_stay(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a"), role(tmp_path, "b")) as run:
        (first,) = marks(tmp_path, "a", "started")
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(marks(tmp_path, "a", "ready")) == 2)
        await until(lambda: run.supervisor.state()["a"]["ready"])
        assert run.supervisor.state()["a"]["restarts"] == 1
        assert len(marks(tmp_path, "b", "started")) == 1
        assert len(run.said) == 1
        assert run.said[0].startswith("a ended (killed by SIGKILL), starting it again now; see ")


async def test_a_role_that_keeps_dying_is_started_again_with_growing_waits(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a", "fleeting"), role(tmp_path, "b")) as run:
        await until(lambda: len(run.said) >= 5)
    waits = [line.partition("starting it again ")[2].partition(";")[0] for line in run.said]
    assert waits[:5] == ["now", "in 0.01 s", "in 0.02 s", "in 0.04 s", "in 0.05 s"]
    assert all("(exit status 3)" in line for line in run.said)


async def test_a_role_that_was_ready_long_enough_starts_from_scratch(tmp_path: Path) -> None:
    patient = Backoff(first_seconds=3600, settled_seconds=0)
    async with running(role(tmp_path, "a"), backoff=patient):
        for count in range(1, 4):  # with back-off, the second restart would take an hour
            await until(lambda: len(marks(tmp_path, "a", "ready")) == count)  # noqa: B023 -- awaited at once
            os.kill(marks(tmp_path, "a", "started")[-1], signal.SIGKILL)
        await until(lambda: len(marks(tmp_path, "a", "ready")) == 4)


async def test_stages_end_one_after_the_other(tmp_path: Path) -> None:
    roles = [
        role(tmp_path, "control", stage=4),
        role(tmp_path, "autoscaler", stage=3, stop_signal=signal.SIGUSR1),
        role(tmp_path, "gateway", stage=1),
    ]
    for one in roles:  # one file for all, so that the order shows
        (tmp_path / f"{one.name}.mark").symlink_to(tmp_path / "all.mark")
    async with running(*roles) as run:
        pids = {name: told["pid"] for name, told in run.supervisor.state().items()}
    ended = [line.split() for line in (tmp_path / "all.mark").read_text().splitlines() if line.startswith("SIG")]
    assert ended == [
        ["SIGTERM", str(pids["gateway"])],
        ["SIGUSR1", str(pids["autoscaler"])],
        ["SIGTERM", str(pids["control"])],
    ]


async def test_a_deaf_role_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a", "deaf", grace_seconds=0.2)) as run:
        (pid,) = marks(tmp_path, "a", "ready")
    assert identity(pid) is None
    assert run.said == ["a has not ended by itself and is killed after 0.2 s"]


async def test_a_hurry_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a", "deaf", grace_seconds=3600, drains=True), role(tmp_path, "b")) as run:
        run.supervisor.hurry.set()
    assert run.said == ["a has not ended by itself and is killed at once, as asked"]
    assert len(marks(tmp_path, "b", "SIGTERM")) == 1


async def test_a_stopped_process_ends_too(tmp_path: Path) -> None:
    async with running(role(tmp_path, "a", grace_seconds=60)):
        (pid,) = marks(tmp_path, "a", "ready")
        os.kill(pid, signal.SIGSTOP)
    assert marks(tmp_path, "a", "SIGTERM") == [pid]


async def test_a_role_with_last_work_is_brought_back_to_do_it(tmp_path: Path) -> None:
    slow = Backoff(first_seconds=0.3, most_seconds=0.3, settled_seconds=3600)
    finishing = role(tmp_path, "a", finishes=True, grace_seconds=60)
    async with running(finishing, role(tmp_path, "b"), backoff=slow) as run:
        os.kill(marks(tmp_path, "a", "ready")[0], signal.SIGKILL)
        await until(lambda: len(marks(tmp_path, "a", "ready")) == 2)
        os.kill(marks(tmp_path, "a", "ready")[1], signal.SIGKILL)
        await until(lambda: run.supervisor.state()["a"]["pid"] is None)
    assert len(marks(tmp_path, "a", "ready")) == 3
    assert marks(tmp_path, "a", "SIGTERM") == marks(tmp_path, "a", "ready")[2:]


async def test_a_role_that_never_starts_fails_the_tree_with_its_last_words(tmp_path: Path) -> None:
    run = Running([role(tmp_path, "bad", "broken"), role(tmp_path, "good")])
    with pytest.raises(StartFailed, match=r"bad does not start \(exit status 1\)(.|\n)*cannot read the moon"):
        await asyncio.wait_for(run.run(), 60)
    assert len(marks(tmp_path, "bad", "started")) == QUICK.start_attempts
    assert not run.ready.is_set()
    for pid in marks(tmp_path, "good", "started"):
        assert identity(pid) is None


async def test_a_stop_while_starting_leaves_nothing(tmp_path: Path) -> None:
    run = Running([role(tmp_path, "a", "mute"), role(tmp_path, "b", "mute", stage=2)])
    task = asyncio.create_task(run.run())
    await until(lambda: marks(tmp_path, "a", "ready") and marks(tmp_path, "b", "ready"))
    run.stop.set()
    await asyncio.wait_for(task, 60)
    assert not run.ready.is_set()
    assert [identity(pid) for name in "ab" for pid in marks(tmp_path, name, "started")] == [None, None]


async def test_a_stop_at_the_very_start_leaves_nothing(tmp_path: Path) -> None:
    run = Running([role(tmp_path, "a"), role(tmp_path, "b", stage=2)])
    run.stop.set()
    await asyncio.wait_for(run.run(), 60)
    assert [identity(pid) for name in "ab" for pid in marks(tmp_path, name, "started")] == [
        None for name in "ab" for pid in marks(tmp_path, name, "started")
    ]


async def test_a_cancelled_tree_ends_its_roles(tmp_path: Path) -> None:
    run = Running([role(tmp_path, "a")])
    task = asyncio.create_task(run.run())
    await until(run.ready.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert identity(marks(tmp_path, "a", "started")[0]) is None


SUPERVISOR = """
import asyncio, pathlib, sys
from router.supervision import Supervisor
from tests.support.cli_roles import role
folder = pathlib.Path(sys.argv[1])
async def main():
    await Supervisor([role(folder, "a"), role(folder, "deaf", "deaf")]).run(asyncio.Event(), lambda: None)
asyncio.run(main())
"""


async def test_killing_the_supervisor_ends_its_roles(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)], cwd=root)
    try:
        await until(lambda: marks(tmp_path, "a", "ready") and marks(tmp_path, "deaf", "ready"))
        pids = [marks(tmp_path, name, "ready")[0] for name in ("a", "deaf")]
        assert all(identity(pid) for pid in pids)
    finally:
        process.kill()
        process.wait()
    await until(lambda: not any(identity(pid) for pid in pids))


def test_long_outputs_are_moved_aside(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    rotate(file)
    with file.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        rotate(file, 1000)
        assert file.stat().st_size == 100
        rotate(file, 50)
        writer.write(b"after")
    assert file.read_bytes() == b"after"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 100
    assert tail(file) == "after"
    assert tail(tmp_path / "none") == ""


def test_an_exit_status_reads_as_words() -> None:
    assert [ending(code) for code in (0, 3, -9, -64)] == [
        "exit status 0", "exit status 3", "killed by SIGKILL", "killed by SIGRTMAX",
    ]  # fmt: skip


def test_waits_grow_to_a_limit() -> None:
    waits = [Backoff().wait_seconds(count) for count in range(1, 10)]
    assert waits == [0, 0.25, 0.5, 1, 2, 4, 8, 10, 10]
