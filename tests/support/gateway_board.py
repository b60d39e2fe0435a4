"""Boards in tests: one with few columns, so that a test can fill it, and whether anything counts on one."""

from __future__ import annotations

import pytest

from router.gateway import board
from router.gateway.columns import Names


def small_board(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Every board made from now on has this many columns."""
    cells = board._NAMES + Names.size(columns)
    monkeypatch.setattr(board, "COLUMNS", columns)
    monkeypatch.setattr(board, "_CELLS", cells)
    about = cells + board.ROWS * columns * 8
    monkeypatch.setattr(board, "_ABOUT", about)
    monkeypatch.setattr(board, "_SIZE", about + (1 + 3 * board.ROWS) * 8)


def is_zero(one: board.Board) -> bool:
    """Whether every cell that was given to somebody is zero."""
    return not any(next(one._nonzero(row, 0, one._names.used()), None) for row in range(board.ROWS))
