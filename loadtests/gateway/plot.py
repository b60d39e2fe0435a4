"""The rows as a picture: bars of ours and of the peers, each row on a scale of its own. Pure: rows in, SVG out."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.scoreboard import Row

_WIDTH, _LABEL, _BAR, _LINE, _GAP = 900, 150, 560, 18, 22
_COLOURS = {True: "#2e7d32", False: "#c62828", None: "#1565c0"}
"""Of our bar: the goal is met, missed, or there is none."""
_PEER = "#9e9e9e"


def svg(title: str, rows: Sequence[Row], *, ours: str) -> str:
    """One picture. `ours`: what to call our bars."""
    parts, y = [_text(10, 24, title, size=16, bold=True)], 50
    for row in rows:
        block, height = _row(row, y, ours)
        parts += block
        y += height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" font-family="sans-serif">'
    background = f'<rect width="{_WIDTH}" height="{y}" fill="white"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _row(row: Row, y: int, ours: str) -> tuple[list[str], int]:
    """What belongs to one row, from `y` down, and how high it is."""
    parts: list[str] = []
    at = y
    for line in textwrap.wrap(f"{row.work} ({row.unit})", 115):
        parts.append(_text(10, at, line, size=12, bold=True))
        at += _LINE
    ratio = "" if row.ratio is None else f", ratio {row.ratio:.2f}"
    parts.append(_text(10, at, f"goal: {row.goal}{ratio}", size=11))
    at += 6
    values = {ours: row.ours, **row.peers}
    most = max((value for value in values.values() if value is not None), default=0.0) or 1.0
    for number, (name, value) in enumerate(values.items()):
        parts += _bar(name, value, most, at, _PEER if number else _COLOURS[row.met])
        at += _LINE
    return parts, at + _GAP - y


def _bar(name: str, value: float | None, most: float, y: int, colour: str) -> list[str]:
    label = _text(10, y + 13, name, size=11)
    if value is None:
        return [label, _text(_LABEL, y + 13, "not available", size=11)]
    width = max(1.0, value / most * _BAR)
    bar = f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_LINE - 5}" fill="{colour}"/>'
    return [label, bar, _text(_LABEL + width + 6, y + 13, f"{value:,.1f}", size=11)]


def _text(x: float, y: int, words: str, *, size: int, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y}" font-size="{size}"{weight}>{escape(words)}</text>'
