"""Whether a caller that sends nothing more has left, or has only shut its sending side and waits for its answer.

Both look the same until something is sent: a socket that nobody holds any more answers with a reset, one that is still
read does not. So a caller that has waited a moment is sent an interim 100, which every client of HTTP/1.1 must skip
(RFC 9110, 15.2), and the kernel is asked from time to time what became of the connection. Without this a model would
work on for callers that have hung up, or those that half-close would get nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_FIRST_SECONDS = 0.05
_LONGEST_SECONDS = 1.0
_CLOSED = 7
"""TCP_CLOSE, as the kernel numbers states."""


class Watch:
    """Over one connection whose other end has shut its sending side; aborts it once the other end is gone.

    `probe` is called once, after a moment: it sends something if that does no harm.
    """

    __slots__ = ("_delay", "_loop", "_probe", "_timer", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, probe: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._probe: Callable[[], None] | None = probe
        self._delay = _FIRST_SECONDS
        self._timer = loop.call_later(self._delay, self._turn)

    def cancel(self) -> None:
        """It does not matter any more."""
        self._timer.cancel()
        self._probe = None

    def _turn(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe()
        elif _is_gone(self._transport):
            self._transport.abort()
            return
        else:
            self._delay = min(2 * self._delay, _LONGEST_SECONDS)
        self._timer = self._loop.call_later(self._delay, self._turn)


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether the other end has reset the connection; reading has ended, so nobody else would notice."""
    connection = transport.get_extra_info("socket")
    if connection is None or transport.is_closing():
        return False
    state: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] == _CLOSED
