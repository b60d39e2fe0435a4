"""The life of the connection to the mirror: made, made again whenever the mirror has gone, and given up at the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, cast

from router.gateway.tee import Link

if TYPE_CHECKING:
    from router.gateway.tee import Tee

_RETRY_SECONDS = (0.05, 2.0)


async def keep_connected(tee: Tee) -> None:
    """Connect, and again whenever the mirror has gone. Runs until cancelled."""
    loop = asyncio.get_running_loop()
    pause, longest = _RETRY_SECONDS
    while True:
        with contextlib.suppress(OSError):
            await loop.create_unix_connection(lambda: cast("asyncio.Protocol", Link(tee)), str(tee.path))
            pause = _RETRY_SECONDS[0]
            await tee.gone.wait()
        await asyncio.sleep(pause)
        pause = min(longest, pause * 2)


async def give_up(tee: Tee, seconds: float) -> None:
    """Give the mirror up to `seconds` to take what was written and answer; then count what it did not."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    tee.send()
    while not tee.is_settled() and loop.time() < until:  # noqa: ASYNC110 -- at the end of a life
        await asyncio.sleep(0.01)
    tee.abort()
    await tee.gone.wait()
    tee.report()
