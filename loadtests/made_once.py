"""Something big that is made once, kept in Tidegate's cache and reused ever after.

The folder appears whole or not at all, and a lock lets parallel runs wait for one. Its name should hold the hash of what
it is made from. Making is work beside the machine's real work: the programs run at the lowest priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from router.runtime.processes import end_group, set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

LOWEST_PRIORITY = 19


class Unmade(RuntimeError):
    """It could not be made; the message holds the words of what failed."""


def say(text: str) -> None:
    """A line of progress for a person who waits."""
    print(f"\033[2m› {text}\033[0m", file=sys.stderr, flush=True)


async def made_once(home: Path, make: Callable[[Path], Awaitable[None]], *, deadline_seconds: float) -> Path:
    """`home`, which `make(scratch)` has filled, now or earlier. Raises what `make` raises, or TimeoutError."""
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    async with alone(home.with_name(f".{home.name}.lock"), deadline_seconds=deadline_seconds):
        if not home.exists():
            for left in home.parent.glob(f".{home.name}.*/"):  # of a run that was killed: the lock is ours
                shutil.rmtree(left)
            scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
            try:
                made = scratch / "made"
                made.mkdir()
                async with asyncio.timeout(deadline_seconds):
                    await make(made)
                made.rename(home)
            finally:
                shutil.rmtree(scratch)
    return home


@contextlib.asynccontextmanager
async def alone(lock: Path, *, deadline_seconds: float) -> AsyncIterator[None]:
    """Hold the lock file, which the kernel releases when this process dies."""
    number = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locked(number):
            say(f"waiting for another run that makes {lock.name[1:].removesuffix('.lock')}")
            async with asyncio.timeout(deadline_seconds):
                while not locked(number):  # noqa: ASYNC110 -- nothing tells when another process lets go of a lock
                    await asyncio.sleep(0.1)
        yield
    finally:
        os.close(number)


def locked(number: int) -> bool:
    """Take the lock of an open file, if nobody else has it."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def run(
    *command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None, nice: bool = True
) -> str:
    """Run a program to its end and return what it said. Raises Unmade with its words when it fails.

    It is a process group of its own that ends with this process, and with the caller's cancellation.
    """
    parent = os.getpid()

    def leave() -> None:
        os.setpgid(0, 0)  # here, because uvloop knows no process_group
        set_parent_death_signal(signal.SIGKILL, parent)
        if nice:
            os.nice(LOWEST_PRIORITY)

    words = [str(word) for word in command]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=leave,
    )  # fmt: skip
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            await end_group(process.pid, 1)
            await process.wait()
    text = said.decode(errors="replace")
    if process.returncode != 0:
        raise Unmade(f"{_shown(words)} ended with {process.returncode}:\n{text[-4000:]}")
    return text


def _shown(words: Sequence[str]) -> str:
    return " ".join(words[:6]) + (" …" if len(words) > 6 else "")
