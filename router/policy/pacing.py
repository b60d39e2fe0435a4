"""Whether a caller sends its body fast enough: by what came in a whole window, not from one byte to the next.

A deadline that each byte moves is none: one byte in time, again and again, would hold a replica's place for ever.
"""

from __future__ import annotations


class Pace:
    """Of one body. Times are nanoseconds of one clock, given by whoever asks."""

    __slots__ = ("_least", "_mark", "_since", "_window_ns")

    def __init__(self, least: int, window_ns: int, now: int, received: int) -> None:
        """At least `least` bytes in each `window_ns`; `received` bytes had come by `now`."""
        self._least = least
        self._window_ns = window_ns
        self._since = now
        self._mark = received

    def is_slow(self, now: int, received: int) -> bool:
        """Whether a window is over in which too little came; with it the next one begins."""
        if now - self._since < self._window_ns:
            return False
        slow = received - self._mark < self._least
        self._since, self._mark = now, received
        return slow

    def restart(self, now: int, received: int) -> None:
        """Begin a new window: until now the caller was not read."""
        self._since, self._mark = now, received
