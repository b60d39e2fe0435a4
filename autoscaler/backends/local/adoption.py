"""Ownership of a data folder's replicas: one owner at a time, what it finds at its start, what it must clean up.

A replica's processes carry its folder in their environment, so that nothing else is ever touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path

from autoscaler.backends.local.environments import write_whole
from autoscaler.backends.local.folder import Record, lives, read_record
from autoscaler.backends.local.shim import MARK
from router.contract.errors import Conflict, Fenced
from router.runtime import processes

ENDED = "ended"
"""Folder of replicas that are over, kept for their logs."""
GENERATIONS = "generations.json"
"""Endpoint → the newest ownership generation that acted for it on the replicas of this folder."""
ENDED_KEPT = 3
"""Per deployment."""

_shelving = threading.Lock()  # replicas that end together are put away by several threads


class Ownership:
    """The lock on a folder of replicas, and the newest ownership generation that acted for each endpoint on it."""

    def __init__(self, replicas: Path) -> None:
        self._folder = replicas
        self._fd = -1
        self._generations: dict[str, int] = {}

    async def take(self, patience_seconds: float) -> None:
        """Become the owner. Raises `Conflict` when another process stays it for `patience_seconds`."""
        fd = os.open(self._folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience_seconds
        try:
            while not _flock(fd):
                if time.monotonic() >= deadline:
                    holder = os.pread(fd, 64, 0).decode(errors="replace").strip() or "unknown"
                    raise Conflict(f"the replicas in {self._folder} belong to another process (pid {holder})")
                await asyncio.sleep(0.05)
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            found = json.loads((self._folder / GENERATIONS).read_text())
            self._generations = {str(endpoint): int(generation) for endpoint, generation in found.items()}

    def check(self, generation: int, endpoints: Collection[str]) -> None:
        """Let a plan of `generation` act for `endpoints`. Raises `Fenced`, changing nothing, when a newer one has acted
        for any of them; remembers it over restarts.
        """
        for endpoint in sorted(endpoints):
            if generation < self._generations.get(endpoint, 0):
                newest = self._generations[endpoint]
                raise Fenced(f"generation {generation} for {endpoint} has been followed by {newest}")
        if any(generation > self._generations.get(endpoint, 0) for endpoint in endpoints):
            self._generations.update(dict.fromkeys(endpoints, generation))
            write_whole(self._folder / GENERATIONS, json.dumps(self._generations))

    @property
    def generations(self) -> dict[str, int]:
        """Endpoint → the newest ownership generation that acted for it."""
        return dict(self._generations)

    def release(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def survivors(replicas: Path) -> list[tuple[Path, Record]]:
    """The replicas that run on; what is left of all others is ended and put away. For the owner only."""
    found: list[tuple[Path, Record]] = []
    for folder in sorted(replicas.iterdir()):
        if not folder.is_dir() or folder.name == ENDED:
            continue
        record = read_record(folder)
        if record is not None and lives(folder):
            found.append((folder, record))
        else:
            end_processes(folder)
            put_away(folder, record)
    return found


def end_processes(folder: Path, patience_seconds: float = 5.0) -> int:
    """Kill every process of a replica, however deep; returns how many were found."""
    found: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while members := _members(folder):
        for who in members:
            found.add(who.pid)
            processes.kill(who, signal.SIGKILL)
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return len(found)


def _members(folder: Path) -> list[processes.Identity]:
    mark = f"{MARK}={folder}".encode()
    members = []
    for name in os.listdir("/proc"):
        # Identity first: what is read afterwards can only belong to that process or to nobody.
        who = processes.identity(int(name)) if name.isdigit() else None
        if who is None:
            continue
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                members.append(who)
    return members


def put_away(folder: Path, record: Record | None) -> None:
    """Keep the logs of a replica that is over; the oldest of its deployment go for good."""
    if record is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    shelf = folder.parent / ENDED / record.endpoint / record.deployment
    shelf.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(folder / "work", ignore_errors=True)
    for part in ("lock", "control.sock", "replica.json"):  # the last may hold secrets
        (folder / part).unlink(missing_ok=True)
    os.utime(folder)
    with _shelving:
        folder.rename(shelf / folder.name)
        kept = sorted(shelf.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in kept[ENDED_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
