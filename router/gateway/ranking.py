"""Classes of requests in one deployment's queue: a higher one goes first, and a full queue makes room for it.

Strict: a lower class is served when no higher one waits; nobody waits beyond its deadline. What makes room is the newest request
of the lowest class that waits, in whichever worker: that worker is rung, and until it hears of it one more is inside.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from router.gateway.board import Quantity
from router.gateway.responses import Refusal
from router.gateway.sticking import Telling
from router.policy.admission import Admission
from router.policy.priority import place, rank_of

if TYPE_CHECKING:
    from router.contract.limits import Priorities
    from router.gateway.exchange import Exchange
    from router.gateway.lane import Lane
    from router.gateway.state import State

_TEXT = "a request of a higher class needed the place"


def _place(exchange: Exchange) -> int:
    return place(exchange.rank, exchange.arrival)


class Classes:
    """Which class a request is of."""

    __slots__ = ("_default", "_ranks", "_telling", "lowest")

    def __init__(self, priorities: Priorities) -> None:
        self._telling = Telling("header", priorities.header)
        self._ranks = {name.encode(): rank for rank, name in enumerate(priorities.classes)}
        self._default = priorities.default_rank()
        self.lowest = len(priorities.classes) - 1

    def rank(self, exchange: Exchange) -> int:
        """0 is the highest; a header that is not there, or says something else, counts for the default."""
        return self._ranks.get(exchange.told_by(self._telling).strip().lower(), self._default)


class Ranking:
    """The queue of one lane by classes."""

    __slots__ = ("_cell", "_lane", "_name", "_state", "_steps")

    def __init__(self, state: State, lane: Lane) -> None:
        self._state = state
        self._lane = lane
        self._name = f"{lane.endpoint.name}/{lane.name}#lowest"
        self._cell = state.board.row + state.board.column(self._name, Quantity.GAUGE)
        self._steps = state.board.steps

    def close(self) -> None:
        """Give the column back."""
        self._state.board.let_go(self._name, Quantity.GAUGE)

    def enter(self, exchange: Exchange) -> None:
        """Put it into the queue at its place."""
        queue = self._lane.queue.waiting
        queue.insert(bisect_right(queue, _place(exchange), key=_place), exchange)

    def show(self) -> None:
        """Tell the other workers who would have to make room here."""
        last = self._last()
        self._state.board.cells[self._cell] = _place(last) if last is not None else 0

    def _last(self, *, held: bool = False) -> Exchange | None:
        """The newest of the lowest class that waits for its turn (`held`: for a first replica), if that is not the highest."""
        for exchange in reversed(self._lane.queue.waiting):
            if not exchange.rank:
                return None
            if exchange.held is held:
                return exchange
        return None

    def make_room(self, exchange: Exchange) -> bool:
        """Let in `exchange`, which found everything full, instead of one of a lower class; whether there was one."""
        lane = self._lane
        if not lane.replicas.usable or lane.backlog.is_full():
            last = self._last(held=True)
            if last is None or last.rank <= exchange.rank:
                return False
            last.refuse(Refusal.DISPLACED, f"deployment {lane.name}: {_TEXT}")
            return self._again(exchange)
        cells = self._state.board.cells
        own = self._cell
        mine, theirs = cells[own], max([(cells[own + step], own + step) for step in self._steps], default=(0, 0))
        if rank_of(max(mine, theirs[0])) <= exchange.rank:
            return False
        if mine >= theirs[0]:
            self._shed_one()
            return self._again(exchange)
        lane.enter_queue(exchange)
        self._state.doorbell.ring(self._state.board.row_at(theirs[1]))
        return True

    def _again(self, exchange: Exchange) -> bool:
        self._lane.arrivals -= 1
        return self._lane.admit(exchange) is not Admission.REFUSE

    def _shed_one(self) -> None:
        last = self._last()
        if last is not None:
            last.refuse(Refusal.DISPLACED, f"deployment {self._lane.name}: {_TEXT}")

    def shed(self) -> None:
        """Another worker has let in one of a higher class over the limit: make room for it."""
        lane = self._lane
        while lane.replicas.usable and lane.tally.present_everywhere() > lane.allowed and self._last() is not None:
            self._shed_one()
