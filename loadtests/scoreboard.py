"""Rows of a benchmark: what was done, our figure, the peers', the goal, and whether it is met."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a scoreboard."""

    work: str
    unit: str
    ours: float
    peers: Mapping[str, float]
    ratio: float | None
    """Ours ÷ the peer that the goal names."""
    goal: str
    met: bool | None
    """None for a figure that is watched without a goal."""


def show(title: str, rows: Sequence[Row], *, beside: str = "peers") -> None:
    """Print the rows as a table. `beside`: what to call the figures beside ours."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("work", "ours", beside, "ratio", "goal", "met"):
        table.add_column(name, justify="left" if name in ("work", beside, "goal") else "right")
    for row in rows:
        peers = "\n".join(f"{name} {value:.1f}" for name, value in row.peers.items())
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[row.met]
        table.add_row(row.work, f"{row.ours:.1f} {row.unit}", peers, ratio, row.goal, met)
    Console().print(table)


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON: a list of objects."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
