"""`tidegate status`: what runs and how it is doing; on a terminal a table that keeps itself up to date."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from router.cli.client import ControlPlane, Unreachable, path_of
from router.cli.output import grid, render, select
from router.cli.session import Session

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "endpoint", "deployment", "weight", "mirror", "phase", "observed/ready/desired", "req/s", "in flight", "queued",
    "p50 ms", "p99 ms", "shadows: equal/compared (dropped)",
)  # fmt: skip
HEADINGS = (
    "endpoint\n deployment", "weight", "mirror", "phase", "observed\n/ready\n/desired", "req/s", "in\nflight", "queue",
    "p50\nms", "p99\nms", "shadows\n=/compared\n(dropped)",
)  # fmt: skip
"""The same for a terminal of 80 columns, where endpoint and deployment share one."""


def number(value: Any, form: str = ".1f") -> str:
    """A figure, or a dash where it is not known."""
    if value is None:
        return "–"
    return f"{value:{form}}" if isinstance(value, float) else str(value)


def rows(told: Mapping[str, Any]) -> list[list[str]]:
    """One row per endpoint and one per deployment under it."""
    table = []
    for endpoint in told["endpoints"]:
        table.append([endpoint["name"], "", "", "", f"revision {endpoint['revision']}", "", *_load(endpoint), ""])
        for deployment in endpoint["deployments"]:
            counts = deployment.get("replicas") or {}
            mirror = deployment.get("mirror_percent") or 0
            table.append([
                "",
                deployment["name"],
                f"{deployment.get('weight') or 0} %",
                f"{mirror:g} %" if mirror else "",
                deployment.get("phase") or "",
                "/".join(number(counts.get(key)) for key in ("observed", "ready", "desired")),
                *_load(deployment),
                _shadows(deployment.get("shadows")),
            ])  # fmt: skip
    return table


def _load(of: Mapping[str, Any]) -> list[str]:
    return [number(of.get(key)) for key in ("requests_per_second", "in_flight", "queued", "p50_ms", "p99_ms")]


def _shadows(told: Mapping[str, Any] | None) -> str:
    if not told or not (told.get("compared") or told.get("dropped")):
        return ""
    dropped = f" ({told['dropped']})" if told.get("dropped") else ""
    return f"{told.get('equal') or 0}/{told.get('compared') or 0}{dropped}"


def as_text(told: Mapping[str, Any]) -> str:
    """The table for a file or a pipe."""
    found = rows(told)
    return grid([*COLUMNS], found) if found else "no endpoints yet: tidegate online-endpoint create -f endpoint.yml\n"


def as_table(told: Mapping[str, Any], title: str) -> Table:
    """The table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for at, heading in enumerate(HEADINGS):
        folds = at in (0, len(HEADINGS) - 1)
        left = heading == "phase" or at == 0
        table.add_column(heading, justify="left" if left else "right", overflow="fold", no_wrap=not folds)
    for endpoint, deployment, *figures in rows(told):
        short = [figure.replace(" %", "%").replace("revision ", "rev ") for figure in figures]
        table.add_row(endpoint or f" {deployment}", *short, style="bold" if endpoint else "")
    return table


def status(session: Session) -> None:
    """Once, or until interrupted."""
    flags = session.flags
    form = flags.output or "table"
    live = flags.watch if flags.watch is not None else sys.stdout.isatty() and form == "table" and not flags.query
    if live and form == "table":
        watch(session.control, max(0.1, flags.interval))
        return
    while True:
        told = session.control.get(path_of("status"))
        if form == "table" and not flags.query:
            sys.stdout.write(as_text(told))
        else:
            sys.stdout.write(render(select(told, flags.query), form))
        sys.stdout.flush()
        if not live:
            return
        time.sleep(max(0.1, flags.interval))


def watch(control: ControlPlane, interval_seconds: float) -> None:
    """Redraw until interrupted; a control plane that is away is said to be, and waited for."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    shown: Table | Text = as_table(control.get(path_of("status")), control.base)
    with Live(shown, console=console, auto_refresh=False, screen=False) as live:
        while True:
            live.update(shown, refresh=True)
            time.sleep(interval_seconds)
            try:
                shown = as_table(control.get(path_of("status")), control.base)
            except Unreachable as error:
                shown = Text(error.message, style="red")
