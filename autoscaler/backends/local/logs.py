"""Reading what servers wrote: the newest lines over a replica's rotated files, and over many replicas.

Every line begins with the time it was written at, in a form that sorts, which is how replicas are merged.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from autoscaler.backends.local.folder import LOG

_BLOCK = 1 << 16
_LONGEST_TAIL_BYTES = 16 << 20


def tail(file: BinaryIO, lines: int) -> list[str]:
    """The newest `lines` lines of one file, oldest first."""
    position = file.seek(0, os.SEEK_END)
    data = b""
    while position > 0 and data.count(b"\n") <= lines and len(data) < _LONGEST_TAIL_BYTES:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        data = file.read(step) + data
    found = data.decode(errors="replace").split("\n")
    if found and found[-1] == "":
        found.pop()
    return found[-lines:] if lines > 0 else []


def replica_tail(folder: Path, lines: int) -> list[str]:
    """The newest `lines` lines of one replica over all its files, oldest first."""
    found: list[str] = []
    with contextlib.ExitStack() as stack:
        for file in _newest_first(folder, stack):
            if len(found) < lines:
                found = tail(file, lines - len(found)) + found
    return found


def _newest_first(folder: Path, stack: contextlib.ExitStack) -> list[BinaryIO]:
    """All files of one replica, open. A rotation meanwhile moves them on, to a higher number: each is met, once."""
    files: dict[int, BinaryIO] = {}
    highest = max((int(path.suffix[1:]) for path in folder.glob(f"{LOG}.*")), default=0)
    for number in range(highest + 2):
        with contextlib.suppress(FileNotFoundError):
            file = stack.enter_context((folder / (f"{LOG}.{number}" if number else LOG)).open("rb"))
            files.setdefault(os.fstat(file.fileno()).st_ino, file)
    return list(files.values())


def merged_tail(folders: Iterable[Path], lines: int) -> str:
    """The newest `lines` lines of several replicas in the order of their times, each behind its replica's id."""
    tails = [[(line[:27], folder.name, line) for line in replica_tail(folder, lines)] for folder in folders]
    merged = list(heapq.merge(*tails, key=lambda one: one[0]))[-lines:] if lines > 0 else []
    return "".join(f"{name} {line}\n" for _, name, line in merged)


def plain_tail(folder: Path, lines: int) -> str:
    """The newest lines of one replica without their times, for a failure's report."""
    stamp = re.compile(r"^\S{27} ")
    return "\n".join(stamp.sub("", line) for line in replica_tail(folder, lines))
