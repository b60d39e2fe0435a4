"""Tidegate's roles as processes of their own, started until they say that they are ready and ended by their process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from router.runtime.processes import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

READY_SECONDS = 60.0
"""Longest start of a role, unless told otherwise."""
_TAIL = 3000
"""Of what it said, in errors."""


@contextlib.contextmanager
def running(
    name: str,
    output: Path,
    *words: str,
    grace_seconds: float = 20,
    through: Sequence[str] = (),
    ready_seconds: float = READY_SECONDS,
) -> Iterator[int]:
    """`python -m WORDS… --ready-fd N`, what it says to `output`; yields its pid once it is ready. SIGTERM at the end.

    `through`: a program and its words that run the rest in their own place, such as taskset.
    """
    parent, (ready, says) = os.getpid(), os.pipe()
    with output.open("ab") as file:
        process = subprocess.Popen(
            [*through, sys.executable, "-m", *words, "--ready-fd", str(says)],
            pass_fds=[says], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),  # noqa: PLW1509 -- one call into libc
        )  # fmt: skip
    os.close(says)
    try:
        told, _, _ = select.select([ready], [], [], ready_seconds)
        if not told or not os.read(ready, 1):
            what = "ended before it was ready" if told else f"was not ready after {ready_seconds:g} s"
            raise RuntimeError(f"the {name} {what}:\n{output.read_text(errors='replace')[-_TAIL:]}")
        yield process.pid
    finally:
        os.close(ready)
        process.terminate()
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def role(
    name: str,
    data: Path,
    url: str,
    *flags: str,
    through: Sequence[str] = (),
    ready_seconds: float = READY_SECONDS,
) -> Iterator[int]:
    """One role of `router.app` on the data folder `data` and the log `url`; yields its pid. The rest: see `running`."""
    words = ["router.app", name, "--data", str(data), "--log", url, *flags]
    if name != "shipper":
        words.append("--no-shipper")
    with running(name, data / f"{name}.log", *words, through=through, ready_seconds=ready_seconds) as pid:
        yield pid


async def said_by(*words: str, core: int | None = None, deadline_seconds: float = 120) -> str:
    """The standard output of `python -m WORDS…`, on one core if asked for. Raises RuntimeError when it fails."""
    parent = os.getpid()
    pin = [] if core is None else ["taskset", "-c", str(core)]
    process = await asyncio.create_subprocess_exec(
        *pin, sys.executable, "-m", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),
    )  # fmt: skip
    try:
        async with asyncio.timeout(deadline_seconds):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: {err.decode(errors='replace')}")
    return out.decode()
