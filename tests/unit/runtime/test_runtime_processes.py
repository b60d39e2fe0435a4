"""Processes are known by pid and start time, and groups end whole."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from router.runtime.processes import (
    Identity,
    alive,
    descendants,
    end_group,
    group_members,
    identity,
    kill,
    session_members,
    signal_group,
)
from tests.support.log_writing import ROOT

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs Python code in a session of its own; ends the whole session afterwards."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text
    return text.strip()


def state(pid: int) -> str:
    """Of a process's first thread, by its letter; names without parentheses."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split(")")[1].split()[0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


PARENT = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(600)
"""
DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(600)
"""


def test_a_process_knows_itself() -> None:
    me = identity(os.getpid())
    assert me is not None
    assert me.pid == os.getpid()
    assert alive(me)
    assert alive((me.pid, me.start_ticks))


def test_another_start_time_is_another_process() -> None:
    me = identity(os.getpid())
    assert me is not None
    other = Identity(me.pid, me.start_ticks - 1)
    assert not alive(other)
    assert not kill(other, signal.SIGKILL)
    assert not alive(None)


def test_a_zombie_is_dead(start: Start) -> None:
    process = start("print('up', flush=True); import time; time.sleep(600)")
    line(process)
    who = identity(process.pid)
    assert who is not None
    assert kill(who, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    assert identity(process.pid) is None
    assert not alive(who)
    process.wait()
    assert not kill(who)


async def test_a_process_lives_on_without_its_first_thread(start: Start) -> None:
    process = start("""
        import ctypes, threading, time
        def stay():
            print("up", flush=True)
            time.sleep(600)
        threading.Thread(target=stay).start()
        ctypes.CDLL(None).pthread_exit(None)
    """)
    line(process)
    await until(lambda: state(process.pid) == "Z")
    who = identity(process.pid)
    assert who is not None
    assert alive(who)
    assert group_members(process.pid) == session_members(process.pid) == [process.pid]
    assert process.pid in descendants(os.getpid())
    async with asyncio.timeout(60):
        assert await end_group(process.pid, grace_seconds=60)
    assert not alive(who)


def test_a_name_with_spaces_and_parentheses_is_read(start: Start) -> None:
    process = start("""
        import time
        open("/proc/self/comm", "w").write("a) R 1 (b")
        print("up", flush=True)
        time.sleep(600)
    """)
    line(process)
    assert identity(process.pid) is not None
    assert process.pid in descendants(os.getpid())


def test_descendants_groups_and_sessions(start: Start) -> None:
    process = start(PARENT)
    child = int(line(process))
    assert descendants(process.pid) == [child]
    found = descendants(os.getpid())
    assert found.index(process.pid) < found.index(child)
    assert sorted(group_members(process.pid)) == sorted([process.pid, child])
    assert sorted(session_members(process.pid)) == sorted([process.pid, child])


async def test_a_group_that_obeys_ends_within_its_grace(start: Start) -> None:
    process = start(PARENT)
    line(process)
    async with asyncio.timeout(60):
        assert await end_group(process.pid, grace_seconds=60)
    assert group_members(process.pid) == []


async def test_a_stopped_group_ends_too(start: Start) -> None:
    process = start(PARENT)
    line(process)
    signal_group(process.pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert await end_group(process.pid, grace_seconds=60)


async def test_a_group_that_does_not_hear_is_killed_after_the_grace(start: Start) -> None:
    process = start(DEAF)
    line(process)
    before = time.monotonic()
    async with asyncio.timeout(60):
        assert not await end_group(process.pid, grace_seconds=0.2)
    assert time.monotonic() - before >= 0.2
    assert process.wait() == -signal.SIGKILL


async def test_a_cancelled_end_kills_at_once(start: Start) -> None:
    process = start(DEAF)
    line(process)
    ending = asyncio.create_task(end_group(process.pid, grace_seconds=600))
    await asyncio.sleep(0)
    ending.cancel()
    assert isinstance((await asyncio.gather(ending, return_exceptions=True))[0], asyncio.CancelledError)
    assert process.wait(60) == -signal.SIGKILL


async def test_ending_a_group_that_is_gone_is_no_error(start: Start) -> None:
    process = start("pass")
    process.wait(60)
    assert await end_group(process.pid, grace_seconds=60)
    assert not signal_group(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("pgid", [-1, 0, 1])
async def test_numbers_that_mean_more_than_one_group_are_refused(pgid: int) -> None:
    with pytest.raises(ValueError, match="group"):
        await end_group(pgid, 1)


async def test_a_child_dies_with_its_parent(start: Start) -> None:
    process = start("""
        import os, signal, subprocess, sys, time
        from router.runtime.processes import set_parent_death_signal
        me = os.getpid()
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
            stdout=subprocess.PIPE, preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, me),
        )
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    child = identity(int(line(process)))
    assert alive(child)
    process.kill()
    await until(lambda: not alive(child))


def test_a_parent_that_was_dead_already_is_noticed(start: Start) -> None:
    process = start("""
        import signal
        from router.runtime.processes import set_parent_death_signal
        set_parent_death_signal(signal.SIGTERM, 1 << 30)
    """)
    assert process.wait(60) == -signal.SIGTERM


async def test_a_subreaper_inherits_orphans(start: Start) -> None:
    process = start("""
        import os, subprocess, sys, time
        from router.runtime.processes import set_child_subreaper
        set_child_subreaper()
        orphan = "import time; time.sleep(600)"
        middle = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {orphan!r}], stdout=-3).pid)"
        print(subprocess.run([sys.executable, "-c", middle], stdout=-1, text=True).stdout.strip(), flush=True)
        time.sleep(600)
    """)
    orphan = int(line(process))
    assert descendants(process.pid) == [orphan]
