"""One deployment's numbers on the board, by which all workers act as one: who is present, who is held, who waits first.

What is counted is added, not stored: a deployment deleted and made again has two lanes for a while, and one cell of each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from router.gateway.board import Quantity
from router.policy.priority import arrival_of

if TYPE_CHECKING:
    from router.gateway.board import Board

_GAUGES = ("present", "waiting", "held")


class Tally:
    """As one lane of this worker keeps it and reads it."""

    __slots__ = (
        "_board", "_cells", "_held_cell", "_name", "_present_at", "_present_cell", "_waiting_cell", "balance", "present", "steps",
    )  # fmt: skip

    def __init__(self, board: Board, name: str) -> None:
        """Raises `Unavailable` when the board is full."""
        self._board = board
        self._cells = board.cells
        self._name = name
        present, waiting, held = [board.column(f"{name}#{what}", Quantity.GAUGE) for what in _GAUGES]
        self.balance = board.column(f"{name}#balance", Quantity.BALANCE)
        """The column of what the split owes it."""
        self.present = 0
        """In flight plus queued in this worker, without those that are or were held."""
        self._present_cell, self._waiting_cell, self._held_cell = (
            board.row + present,
            board.row + waiting,
            board.row + held,
        )
        self._present_at: SupportsIndex = self._present_cell
        """The same as the object that it is to the table: a compiled number would become one for each request."""
        self.steps = board.steps
        """From our cells to those of the other workers; empty where there are none."""

    def let_go(self) -> None:
        """Give the columns back."""
        for what in _GAUGES:
            self._board.let_go(f"{self._name}#{what}", Quantity.GAUGE)
        self._board.let_go(f"{self._name}#balance", Quantity.BALANCE)

    # Who is present -------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """One more is in flight or queued."""
        self.present += 1
        self._cells[self._present_at] += 1

    def leave(self) -> None:
        """One less is."""
        self.present -= 1
        self._cells[self._present_at] -= 1

    def present_everywhere(self) -> int:
        """In flight plus queued in all workers, without those that are or were held."""
        present = self.present
        if self.steps:
            cells, own = self._cells, self._present_cell
            for step in self.steps:
                present += cells[own + step]
        return present

    # Who is held ----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """One more waits for a first replica."""
        self._cells[self._held_cell] += 1

    def hold_no_more(self) -> None:
        """One less does."""
        self._cells[self._held_cell] -= 1

    def holds_elsewhere(self) -> bool:
        """Whether another worker holds any."""
        cells, own = self._cells, self._held_cell
        return any(cells[own + step] for step in self.steps)

    # Who waits ------------------------------------------------------------------------------------------------------

    def show_first(self, place: int) -> None:
        """Who goes first here, as a number to compare (`policy.priority`); 0: nobody waits."""
        self._cells[self._waiting_cell] = place

    def waits_elsewhere(self) -> bool:
        """Whether anybody waits in another worker."""
        cells, own = self._cells, self._waiting_cell
        return any(cells[own + step] for step in self.steps) if self.steps else False

    def goes_before_elsewhere(self, mine: int) -> bool:
        """Whether anybody in another worker goes before `mine`."""
        cells, own = self._cells, self._waiting_cell
        return any(0 < cells[own + step] < mine for step in self.steps)

    def row_of_first(self) -> int:
        """Of the other workers where somebody waits: the row of the one whose first goes first; -1: there is none."""
        cells, own = self._cells, self._waiting_cell
        waiting = [(cells[own + step], own + step) for step in self.steps if cells[own + step]]
        return self._board.row_at(min(waiting)[1]) if waiting else -1

    def waiting_since(self, now: int) -> int:
        """When the first of those came that go first in their workers, this one too; `now` where nobody waits."""
        cells, own = self._cells, self._waiting_cell
        firsts = [arrival_of(cells[own + step]) for step in (0, *self.steps) if cells[own + step]]
        return min(firsts, default=now)
