"""The numbers that words about an endpoint take. Pure.

A gateway that names a number says that it routes by that word, and so lets drains go on: no number may stand for two
words. What is on the log is known. But an owner may have told words directly and died before it could commit them, and
one that is only thought dead tells further ones. So every life begins a good way above all that it knows of, and whoever
is told of a number above its own goes above that.
"""

from __future__ import annotations

LIFE = 1000
"""Numbers left free below the first word of a life: an owner commits its words within milliseconds, and on a full disk it
changes its mind some times a second at most."""
MOST = 2**62
"""A reporter that names more is broken: reports have room for 64 bits."""


class Versions:
    """Of all endpoints that anything is known of."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}
        """Endpoint → the highest number of a word that we said or that stands on the log."""
        self._named: dict[str, int] = {}
        """Endpoint → the highest number that a reporter has named."""

    def said(self, endpoint: str, version: int) -> None:
        """A word about `endpoint` with this number is known."""
        self._said[endpoint] = max(version, self._said.get(endpoint, 0))

    def named(self, endpoint: str, version: int) -> bool:
        """A reporter routes by the word with this number; returns whether that is one that nobody here knows."""
        if version >= MOST:
            return False
        self._named[endpoint] = max(version, self._named.get(endpoint, 0))
        return version > self._said.get(endpoint, 0)

    def outnumbered(self, endpoint: str) -> bool:
        """Whether somebody routes by a word that nobody here knows."""
        return self._named.get(endpoint, 0) > self._said.get(endpoint, 0)

    def next(self, endpoint: str, *, first: bool) -> int:
        """The number of the next word; `first`: of our life, or since others spoke about `endpoint`."""
        highest = max(self._said.get(endpoint, 0), self._named.get(endpoint, 0))
        return highest + (LIFE if first and highest else 1)
