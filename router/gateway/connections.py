"""Who may have a connection: so many in this worker, so many of one client.

One more than that is told so (503, 429) when it asks something, and ends. Up to an eighth more are kept for that, for a
moment; beyond them connections are reset. A worker that stopped accepting instead would leave callers waiting in the
kernel's queue without a word, although another machine or worker may have room.
"""

from __future__ import annotations

import errno
import logging
import resource
import time
from typing import TYPE_CHECKING

from router.gateway.responses import Refusal
from router.policy.clients import client_of
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.routes import Endpoint
    from router.gateway.state import State
    from router.runtime.settings import GatewaySettings

_SPARE_DESCRIPTORS = 128
"""For the log, the board, the mirror and the libraries."""
_TOLD_AT_LEAST = 16
SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))
"""Errors of this process or machine, not of whom it connects to."""
_ROOM = 64
"""Idle connections to replicas that are closed in one go, under a millisecond, as long as there is room for so many more."""
_PASSED = 500
"""Deployments in use that are passed by in search of others."""
_SPARING_NS = 10_000_000
"""Between two goes: the loop closes meanwhile what it was told to."""
_NOTHING_NS = 90_000_000
"""Longer, where none was idle: to look at all endpoints takes its time."""
_SAY = Limited(logging.getLogger(__name__))


def most_connections(settings: GatewaySettings) -> int:
    """What the settings say, and at most what the descriptors are good for that the process may have.

    Each request needs one to a replica too, and an eighth more callers have to be told that there are too many. Without a
    descriptor the kernel's connections could not even be taken and reset.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    good_for = max(_TOLD_AT_LEAST, (hard - _SPARE_DESCRIPTORS) * 8 // 17)
    if settings.max_connections > good_for:
        text = "the process may not have descriptors enough for --max-connections: fewer are taken"
        _SAY.warning("descriptors", text, wanted=settings.max_connections, taken=good_for, descriptors=hard)
    return min(settings.max_connections or good_for, good_for)


def spare(state: State) -> None:
    """Close some connections to replicas that are idle, of all endpoints in turn: they were kept for speed, and there are too many.

    Those of deployments that have had nothing to do lately go first. Others find their own as they left them: to close all
    would take the loop's time now, and each further request's for a new one.
    """
    doors, now = state.doors, time.monotonic_ns()
    if now - doors.spared_ns < _SPARING_NS:
        return  # what was closed then is still on its way out
    names, count, passed = state.table.names, 0, 0
    once = len(names)
    for look in range(2 * once):
        if not doors.turn:
            doors.turn = list(dict.fromkeys(names.values()))
            doors.turn.reverse()
        for lane in doors.turn.pop().lanes.values():
            if lane.active and look < once and passed < _PASSED:
                passed += 1
            else:
                count += lane.replicas.spare(doors.room - count)
        if count >= doors.room:
            break
    doors.spared_ns = now if count else now + _NOTHING_NS
    if count:
        _SAY.warning(
            "idle_dropped", "idle connections to replicas were closed to have room for others", connections=count
        )


class Connections:
    """Counts of one worker."""

    __slots__ = ("_by_client", "_most_of_client", "_most_told", "_told", "most", "open", "room", "spared_ns", "turn")

    def __init__(self, most: int, most_of_client: int) -> None:
        """At most `most` at once, and `most_of_client` (0 = any number) from one address, or one /64 of IPv6."""
        self.most = most
        self.open = 0
        self._most_of_client = most_of_client
        self._by_client: dict[str, int] = {}
        self._told = 0
        self._most_told = max(_TOLD_AT_LEAST, most // 8)
        self.room = max(1, min(_ROOM, most // 8))
        """Of those to replicas, that is made in one go."""
        self.spared_ns = 0
        """When it was made last (monotonic)."""
        self.turn: list[Endpoint] = []
        """Whose idle connections are looked at next, from the end."""

    def enter(self, peer: bytes) -> Refusal | None:
        """Count a new connection from the address `peer`; the reason if it may not stay."""
        if self.open >= self.most:
            self._told += 1
            return Refusal.TOO_MANY_CONNECTIONS
        if self._most_of_client:
            client = client_of(peer.decode())
            count = self._by_client.get(client, 0)
            if count >= self._most_of_client:
                self._told += 1
                return Refusal.TOO_MANY_OF_CLIENT
            self._by_client[client] = count + 1
        self.open += 1
        return None

    def may_be_told(self) -> bool:
        """Whether the one just refused may stay until it has been told."""
        return self._told <= self._most_told

    def leave(self, peer: bytes, *, refused: bool) -> None:
        """It is gone."""
        if refused:
            self._told -= 1
            return
        self.open -= 1
        if self._most_of_client:
            client = client_of(peer.decode())
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
