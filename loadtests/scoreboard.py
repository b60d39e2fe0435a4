"""Rows of a benchmark: what was done, our figure, the peers', the goal, and whether it is met."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
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
    ours: float | None
    """None where it could not be measured; `work` then ends with the reason."""
    peers: Mapping[str, float]
    ratio: float | None
    """Ours ÷ the peer that the goal names."""
    goal: str
    met: bool | None
    """None for a figure that is watched without a goal, or not there."""
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Who → least and most of repeated measurements, where the row has them; ours are under the name of ours."""


def show(title: str, rows: Sequence[Row], *, beside: str = "peers") -> None:
    """Print the rows as a table. `beside`: what to call the figures beside ours."""
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("work", "ours", beside, "ratio", "goal", "met"):
        table.add_column(name, justify="left" if name in ("work", beside, "goal") else "right")
    for row in rows:
        peers = "\n".join(f"{name} {value:.1f}{_range(row, name)}" for name, value in row.peers.items())
        own = next((name for name in row.ranges if name not in row.peers), "")
        ours = "not available" if row.ours is None else f"{row.ours:.1f}{_range(row, own)} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "–"}[row.met]
        table.add_row(row.work, ours, peers, ratio, row.goal, met)
    Console().print(table)


def _range(row: Row, name: str) -> str:
    if name not in row.ranges:
        return ""
    least, most = row.ranges[name]
    return f" ({least:.1f}–{most:.1f})"


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON: a list of objects. `ranges` is there only where a row has them."""
    objects = [asdict(row) for row in rows]
    for one in objects:
        if not one["ranges"]:
            del one["ranges"]
    path.write_text(json.dumps(objects, indent=2, ensure_ascii=False) + "\n")
