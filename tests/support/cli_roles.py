"""Tiny roles for the supervisor: real processes that do nothing but what a test needs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

from router.supervision import Role

ROLE = """
import os, signal, sys, time
what, mark, fd = sys.argv[1], sys.argv[2], int(sys.argv[-1])

def note(word):
    with open(mark, "a") as file:
        file.write(f"{word} {os.getpid()}\\n")

def end(number, frame):
    note(signal.Signals(number).name)
    sys.exit(0)

for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN if what == "deaf" else end)
note("started")
print("hello from", what, flush=True)
if what == "broken":
    sys.exit("cannot read the moon")
note("ready")
if what != "mute":
    os.write(fd, b"1")
os.close(fd)
if what == "fleeting":
    sys.exit(3)
while True:
    time.sleep(60)
"""


def role(folder: Path, name: str, what: str = "good", stage: int = 1, **more: object) -> Role:
    """A role that writes what happens to it to `<folder>/<name>.mark`."""
    command = (sys.executable, "-I", "-S", "-c", ROLE, what, str(folder / f"{name}.mark"))
    return Role(name, command, stage, folder / f"{name}.log", **more)  # type: ignore[arg-type]


def marks(folder: Path, name: str, word: str) -> list[int]:
    """The pids that noted `word`, in order."""
    try:
        lines = (folder / f"{name}.mark").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [int(line.split()[1]) for line in lines if line.split()[0] == word]


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition; fail when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)
