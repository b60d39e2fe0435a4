"""Processes of this machine, told apart by (pid, start time), because the kernel hands out pids again.

Everything is read from `/proc`; a zombie counts as dead, because it runs nothing and holds nothing. One whose first thread
has ended while others go on looks like a zombie, but is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02
"""How often a group that was asked to end is looked at; nothing tells when somebody else's child ends."""

# Loaded at import, not at first use: `set_parent_death_signal` may run between fork and exec, where importing can hang.
_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """One process, for good: the pair is never given out twice during one boot of the machine."""

    pid: int
    start_ticks: int
    """Clock ticks from boot to the process's start."""


class _Stat(NamedTuple):
    """The few fields of `/proc/PID/stat` that matter here (proc(5))."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    threads: int
    """That are there; a first thread that has ended stays until the last has."""
    start_ticks: int

    @property
    def runs(self) -> bool:
        """Whether any of its threads does."""
        return self.state not in "ZX" or self.threads > 1


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself: read on after the last one.
    fields = line[line.rindex(b")") + 2 :].split()
    parent, group, session, threads, start_ticks = (int(fields[at]) for at in (1, 2, 3, 17, 19))
    return _Stat(pid, fields[0].decode(), parent, group, session, threads, start_ticks)


def _running() -> list[_Stat]:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    stats = [stat for pid in pids if (stat := _stat(pid)) is not None]
    return [stat for stat in stats if stat.runs]


def identity(pid: int) -> Identity | None:
    """Who has `pid` now; None when nobody does or only a zombie."""
    stat = _stat(pid)
    return Identity(pid, stat.start_ticks) if stat is not None and stat.runs else None


def alive(who: tuple[int, int] | None) -> bool:
    """Whether that very process still runs. Takes any (pid, start_ticks) pair; None is never alive."""
    return who is not None and identity(who[0]) == tuple(who)


def descendants(pid: int) -> list[int]:
    """Running children of `pid`, their children and so on, parents first. A child that left the tree is not found."""
    children: dict[int, list[int]] = {}
    for stat in _running():
        children.setdefault(stat.parent, []).append(stat.pid)
    found = list(children.get(pid, ()))
    for child in found:  # grows while it is walked
        found.extend(children.get(child, ()))
    return found


def group_members(pgid: int) -> list[int]:
    """Running processes of one process group."""
    return [stat.pid for stat in _running() if stat.group == pgid]


def session_members(sid: int) -> list[int]:
    """Running processes of one session: the leader's children stay in it even when they change their group."""
    return [stat.pid for stat in _running() if stat.session == sid]


def signal_group(pgid: int, sig: int) -> bool:
    """Send `sig` to a process group; False when it is gone. Refuses 0 and 1, which would mean more than one group."""
    if pgid <= 1:
        raise ValueError(f"process group {pgid} is not one that may be signalled")
    try:
        os.killpg(pgid, sig)
    except ProcessLookupError:
        return False
    return True


async def end_group(pgid: int, grace_seconds: float) -> bool:
    """End a process group: SIGTERM, then SIGKILL for what still runs after `grace_seconds`.

    Returns True when the grace was enough. Safe for a group that is gone already; the caller makes sure that the
    number still means the group it knows (`alive` on the leader). Zombies are left to whoever is their parent.
    When it is cancelled, the group is killed at once.
    """
    signal_group(pgid, signal.SIGTERM)
    # A stopped process takes SIGTERM only once it runs again.
    signal_group(pgid, signal.SIGCONT)
    deadline = time.monotonic() + grace_seconds
    try:
        while group_members(pgid):
            if time.monotonic() >= deadline:
                await _kill_group(pgid)
                return False
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:
        signal_group(pgid, signal.SIGKILL)
        raise
    return True


async def _kill_group(pgid: int) -> None:
    while group_members(pgid):  # again and again: a member may fork while the signal is on its way
        signal_group(pgid, signal.SIGKILL)
        await asyncio.sleep(_POLL_SECONDS)


def kill(who: tuple[int, int], sig: int = signal.SIGKILL) -> bool:
    """Send `sig` to that very process; False when it no longer runs. Never hits a later owner of the pid."""
    try:
        handle = os.pidfd_open(who[0])
    except ProcessLookupError:
        return False
    try:
        # The handle is fixed to one process: checked after it was opened, the signal cannot go astray.
        if not alive(who):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, sig)
            return True
        return False
    finally:
        os.close(handle)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")


def set_parent_death_signal(sig: int, parent: int | None = None) -> None:
    """Ask the kernel to send `sig` to this process when its parent ends.

    The *thread* that started this process counts as the parent, so start processes from a thread that lives on.
    With `parent` (the pid that is expected) a parent that died before this call is noticed too: the signal is
    sent at once. Forgotten by the kernel at fork and when a set-uid program is executed, kept over a plain exec.
    """
    _prctl(_PR_SET_PDEATHSIG, sig)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), sig)


def set_child_subreaper() -> None:
    """Become the parent of every descendant whose own parent ends, instead of the machine's first process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
