"""aiokafka cancels its own futures when connections close, and whoever waits for one is cancelled with them.

To a task that looks like being told to end, and it would end without a word. Work with aiokafka is therefore done in
a task of its own: its cancellation is a failure like any other unless it came from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class CancelledInside(Exception):
    """Work was cancelled by something within itself."""


async def contained(name: str, work: Coroutine[Any, Any, _T]) -> _T:
    """`work`'s result. Raises what it raises, and `CancelledInside` when it was cancelled, but not with its caller."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        raise
    if task.cancelled():
        raise CancelledInside(f"{name} was cancelled by something within itself")
    return task.result()
