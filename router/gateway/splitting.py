"""Which deployment takes an endpoint's next request: the exact split, kept by balances on the board (`policy.splitting`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.policy.splitting import WHOLE, charge, choose, of_two

if TYPE_CHECKING:
    from router.gateway.lane import Lane
    from router.gateway.state import State


class Split:
    """Live weights, and the balances that make them exact over all workers."""

    __slots__ = ("_cells", "_lanes", "_own", "_steps", "_weights")

    def __init__(self, state: State, lanes: tuple[Lane, ...]) -> None:
        self._lanes = lanes
        self._weights = tuple(lane.weight for lane in lanes)
        self._cells = state.board.cells
        self._own = tuple(state.board.row + lane.tally.balance for lane in lanes)
        self._steps = state.board.steps

    def next(self) -> Lane | None:
        """The deployment that takes the next request; None where no deployment has traffic."""
        lanes = self._lanes
        if len(lanes) == 2:
            return self._next_of_two()
        if len(lanes) < 2:
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
        (one, other), (weight, rest) = self._own, self._weights
        first = mine = cells[one] + weight
        second = theirs = cells[other] + rest
        for step in self._steps:
            first += cells[one + step]
            second += cells[other + step]
        chosen = of_two(first, second, weight, rest)
        cells[one], cells[other] = (mine, theirs - WHOLE) if chosen else (mine - WHOLE, theirs)
        return self._lanes[chosen]
