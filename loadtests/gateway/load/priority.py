"""Who goes first on a core: what is measured goes before all else that the machine does, by the kernel's round-robin real-time class.

A machine is never quite idle. A task of the usual class that has just begun its slice keeps a waking proxy waiting for milliseconds,
and a hundredth of the time is all that a p99 sees. Where the class may not be had everything runs as usual, and rows that find
their load late give no verdict.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MEASURED, GENERATOR = 2, 1
"""A model beside the generator, on its core, answers before the next request leaves; as another machine's would."""


def put_first(pids: Iterable[int], level: int = MEASURED) -> bool:
    """Let these processes, with all threads they have or make, go first; whether they may."""
    tasks = [int(one.name) for pid in pids for one in Path(f"/proc/{pid}/task").iterdir()]
    try:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):  # it ended while we looked
                os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(level))
    except PermissionError:
        return False
    return True
