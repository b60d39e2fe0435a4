"""The windows of one connection: what all its streams together may send, and what the other end may (RFC 9113, 5.2).

What came is given back at once, in large portions: the streams' own windows bound what is held. Streams that have something to
send and no room for it wait here and send in turn, a frame each, so that no stream has the connection for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.runtime.http2.frames import FIRST_WINDOW, MAX_WINDOW, Broken, Code

if TYPE_CHECKING:
    from router.runtime.http2.channel import Channel

CONNECTION_WINDOW: Final = 1 << 20
"""What the other end may send on all streams together."""


class Flow:
    """Of one connection."""

    __slots__ = ("_owed", "_room", "congested", "stream_window", "waiting", "window")

    def __init__(self) -> None:
        self.window = FIRST_WINDOW
        """Bytes that may be sent."""
        self.stream_window = FIRST_WINDOW
        """The same of each new stream."""
        self.congested = False
        """The other end reads slower than we write."""
        self.waiting: dict[int, Channel] = {}
        """Streams that have something to send and no room for it, in turn."""
        self._room = CONNECTION_WINDOW
        self._owed = 0

    def took(self, size: int) -> int:
        """So much has come. Returns for how much the other end is to be told now that there is room again. Raises `Broken`."""
        self._room -= size
        if self._room < 0:
            raise Broken(Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._owed += size
        if self._owed < CONNECTION_WINDOW // 2:
            return 0
        owed, self._owed = self._owed, 0
        self._room += owed
        return owed

    def widen(self, size: int) -> None:
        """The other end has room for so much more. Raises `Broken`."""
        if not size:
            raise Broken(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self.window += size
        if self.window > MAX_WINDOW:
            raise Broken(Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
        self.pump()

    def restart(self, size: int, channels: list[Channel]) -> None:
        """The other end says how much each of its streams may be sent at first; also of these, which have begun. Raises `Broken`."""
        if size > MAX_WINDOW:
            raise Broken(Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
        change, self.stream_window = size - self.stream_window, size
        for channel in channels:
            if channel.window + change > MAX_WINDOW:
                raise Broken(Code.FLOW_CONTROL_ERROR, "a window above 2^31 - 1")
            channel.widen(change)

    def pump(self) -> None:
        """Let everybody who waits send, in turn, a frame each."""
        moving = True
        while moving and self.window > 0 and not self.congested:
            moving = False
            for channel in list(self.waiting.values()):
                moving |= channel.pump()
