"""Requests that are held for a first replica: those that came while nothing was ready, and while these were being worked off.

They wait for the replica, not for a turn: so Azure's limit does not count them, and their deadline is the activator's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from router.policy import admission

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.state import State
    from router.gateway.tally import Tally


class Backlog:
    """Of one lane; who is in it stands in the lane's queue."""

    __slots__ = ("_state", "_tally", "held", "joining_until")

    def __init__(self, state: State, tally: Tally) -> None:
        self._state = state
        self._tally = tally
        self.held = 0
        """In this worker."""
        self.joining_until = 0
        """Until then (monotonic nanoseconds) arrivals join the backlog from zero, unless it is empty before."""

    def begin(self) -> None:
        """The first replica is ready: what waits by now, here or in another worker, is the backlog."""
        now = time.monotonic_ns()
        self.joining_until = admission.joining_ends(self._tally.waiting_since(now), now)

    def is_joined(self, arrival: int) -> bool:
        """Whether a request that arrived then joins the backlog from zero; an empty backlog ends that."""
        if arrival < self.joining_until and (self.held or self._tally.holds_elsewhere()):
            return True
        self.joining_until = 0
        return False

    def is_full(self) -> bool:
        """Whether nobody more may be held."""
        return self.held >= self._state.settings.max_waiting

    def enter(self, exchange: Exchange) -> None:
        """Hold `exchange`, which counts as present no more."""
        exchange.held = True
        self.held += 1
        self._tally.hold()
        deadline = min(exchange.expires, exchange.arrival + int(self._state.settings.activation_seconds * 1e9))
        exchange.deadline = deadline
        self._state.wheel.arm(exchange.down, deadline)

    def leave(self, exchange: Exchange) -> None:
        """It waits no longer."""
        exchange.held = False
        self.held -= 1
        self._tally.hold_no_more()
