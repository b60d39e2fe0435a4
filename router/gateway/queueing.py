"""Who waits for a place at one deployment: in order of arrival or by classes, and over all workers whoever goes first.

A place that is free where nobody goes first is left to the worker where somebody does: it is rung. While something waits a worker
also looks by itself every few milliseconds: a ring may be lost, and a worker that has died takes nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from router.gateway.timers import NEVER
from router.policy.priority import place

if TYPE_CHECKING:
    from router.gateway.backlog import Backlog
    from router.gateway.exchange import Exchange
    from router.gateway.ranking import Ranking
    from router.gateway.replicas import Replicas
    from router.gateway.state import State
    from router.gateway.tally import Tally

AT_ONCE: Final = 64
"""Requests that are sent or told something in one turn of the loop, where thousands wait: all others wait meanwhile."""
_POLL_SECONDS = 0.004
_PATIENCE = 3
"""Polls for which a worker leaves free capacity to an older waiter elsewhere that does not take it."""


class Queue:
    """Of one lane, in one worker."""

    __slots__ = ("_backlog", "_polls", "_pumping", "_replicas", "_state", "_tally", "_timer", "ranking", "waiting")

    def __init__(self, state: State, tally: Tally, replicas: Replicas, backlog: Backlog) -> None:
        self._state = state
        self._tally = tally
        self._replicas = replicas
        self._backlog = backlog
        self.waiting: deque[Exchange] = deque()
        """The first goes first."""
        self.ranking: Ranking | None = None
        """Where requests have classes."""
        self._timer: asyncio.TimerHandle | None = None
        self._polls = 0
        self._pumping = False
        """Whether those that wait have a turn of the loop already."""

    # Who waits ------------------------------------------------------------------------------------------------------

    def enter(self, exchange: Exchange, deadline: int, *, front: bool = False) -> None:
        """Let it wait until `deadline` (monotonic nanoseconds), before all others if there are no classes (`front`)."""
        exchange.wait(deadline)
        if self.ranking is not None:
            self.ranking.enter(exchange)
        elif front:
            self.waiting.appendleft(exchange)
        else:
            self.waiting.append(exchange)
        self._show_first()

    def leave(self, exchange: Exchange) -> None:
        """It no longer waits: it goes to a replica, gives up, or its caller is gone."""
        if self.waiting and self.waiting[0] is exchange:
            self.waiting.popleft()
        elif self.waiting and self.waiting[-1] is exchange:  # thousands that leave in this order would be searched for
            self.waiting.pop()
        else:
            self.waiting.remove(exchange)
        if exchange.held:
            self._backlog.leave(exchange)
        self._show_first()

    def oldest_arrival(self) -> int:
        """Of those that wait here; there are some."""
        if self.ranking is None:
            return self.waiting[0].arrival
        return min([exchange.arrival for exchange in self.waiting])

    def _show_first(self) -> None:
        self._tally.show_first(self._first() if self.waiting else 0)
        if self.ranking is not None:
            self.ranking.show()

    def _first(self) -> int:
        """Who goes next here, as a number to compare with those of other workers."""
        first = self.waiting[0]
        return place(first.rank, first.arrival) if first.rank else first.arrival

    # Whose turn it is -----------------------------------------------------------------------------------------------

    def pump(self, *, patient: bool = True) -> None:
        """Send whoever waits, the first first, as long as there are places; so many in a turn of the loop."""
        tally, replicas = self._tally, self._replicas
        left = AT_ONCE
        while self.waiting and replicas.usable:
            if not left:
                self._pump_soon()
                return
            left -= 1
            if patient and tally.steps and tally.goes_before_elsewhere(self._first()):
                self.ring_first()
                return
            exchange = self.waiting[0]
            if exchange.expires < NEVER and exchange.is_late():
                continue
            target = replicas.claim_for(exchange)
            if target is None:
                return
            self.leave(exchange)
            exchange.dispatch(target)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._state.loop.call_soon(self._pump_on)

    def _pump_on(self) -> None:
        self._pumping = False
        self.pump()

    def ring_first(self) -> None:
        """Wake the worker where whoever goes first of those elsewhere waits."""
        row = self._tally.row_of_first()
        if row >= 0:
            self._state.doorbell.ring(row)

    def rung(self) -> None:
        """Another worker has a place for who waits here, or has let somebody in for whom there has to be room."""
        if self.waiting:
            if self.ranking is not None:
                self.ranking.shed()
            self.pump()

    # Looking again --------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """While something waits beside other workers, look again soon: they may free places or be dead."""
        if self._timer is None and self._tally.steps and self.waiting and self._replicas.usable:
            self._timer = self._state.loop.call_later(_POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        self._timer = None
        if not self.waiting:
            self._polls = 0
            return
        self._state.board.reap()
        self._polls += 1
        self.pump(patient=self._polls % _PATIENCE != 0)
        self.watch()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
