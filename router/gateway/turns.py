"""What takes as long as many requests is done one piece in each turn of the loop: whoever asks for little waits for one of them, not for all.

The kernel tells of all that has come at once, and a loop that does all of it before it looks again lets the smallest request wait for
every large one that came in the same moment.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LARGE_PIECE: Final = 128 * 1024
"""Bytes of a body that came in one piece: they are copied twice."""
LARGE_HEAD: Final = 16 * 1024
"""Of a head, which is looked at byte by byte."""


class Turns:
    """Of one loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, piece: Callable[[], None]) -> None:
        """Let `piece` have a turn, behind those that came before."""
        self._waiting.append(piece)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        piece = self._waiting[0]
        try:
            piece()
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._loop.call_soon(self._turn)
