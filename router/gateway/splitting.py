"""Which deployment takes an endpoint's next request: the exact split, kept by balances on the board (`policy.splitting`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from router.policy.splitting import WHOLE, charge, choose, of_two

if TYPE_CHECKING:
    from router.gateway.lane import Lane
    from router.gateway.state import State


class Split:
    """Live weights, and the balances that make them exact over all workers."""

    __slots__ = (
        "_at_one",
        "_at_other",
        "_cells",
        "_count",
        "_lanes",
        "_one",
        "_other",
        "_own",
        "_rest",
        "_steps",
        "_weight",
        "_weights",
    )

    def __init__(self, state: State, lanes: tuple[Lane, ...]) -> None:
        self._lanes = lanes
        self._weights = tuple(lane.weight for lane in lanes)
        self._cells = state.board.cells
        self._own = tuple(state.board.row + lane.tally.balance for lane in lanes)
        self._steps = state.board.steps
        self._count = len(lanes)
        # Those of two by themselves: taking a tuple apart costs a request more than all else here.
        two = self._count == 2
        self._one, self._other = self._own if two else (0, 0)
        self._at_one: SupportsIndex = self._one
        self._at_other: SupportsIndex = self._other
        """The same as the objects that they are to the table: compiled numbers would become some for each request."""
        self._weight, self._rest = self._weights if two else (0, 0)

    def next(self) -> Lane | None:
        """The deployment that takes the next request; None where no deployment has traffic."""
        if self._count == 2:
            return self._next_of_two()
        lanes = self._lanes
        if self._count < 2:
            return lanes[0] if lanes else None
        cells = self._cells
        mine = [cells[at] for at in self._own]
        balances = [cells[at] + sum([cells[at + step] for step in self._steps]) for at in self._own]
        chosen = choose(balances, self._weights)
        charge(mine, self._weights, chosen)
        for place, value in zip(self._own, mine, strict=True):
            cells[place] = value
        return lanes[chosen]

    def _next_of_two(self) -> Lane:
        """The same without lists: two is what most endpoints have."""
        cells = self._cells
        one, other, weight, rest = self._at_one, self._at_other, self._weight, self._rest
        first = mine = cells[one] + weight
        second = theirs = cells[other] + rest
        for step in self._steps:
            first += cells[self._one + step]
            second += cells[self._other + step]
        chosen = of_two(first, second, weight, rest)
        if chosen:
            cells[one] = mine
            cells[other] = theirs - WHOLE
        else:
            cells[one] = mine - WHOLE
            cells[other] = theirs
        return self._lanes[chosen]
