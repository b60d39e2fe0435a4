"""A board with few columns, so that a test can fill it."""

from __future__ import annotations

import pytest

from router.gateway import board


def small_board(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Every board made from now on has this many columns."""
    holds = board._NAMES + columns * board._NAME_BYTES
    cells = holds + columns * board.ROWS
    monkeypatch.setattr(board, "COLUMNS", columns)
    monkeypatch.setattr(board, "_HOLDS", holds)
    monkeypatch.setattr(board, "_CELLS", cells)
    about = cells + board.ROWS * columns * 8
    monkeypatch.setattr(board, "_ABOUT", about)
    monkeypatch.setattr(board, "_SIZE", about + (1 + 2 * board.ROWS) * 8)
