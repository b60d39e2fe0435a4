"""`tidegate online-endpoint traffic-log`: requests as the control plane sends them, or as a table of what fits in one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from router.cli.client import path_of
from router.cli.session import Session
from router.contract.errors import InvalidSpec, Problem

COLUMNS = {
    "TimeGenerated": 24,
    "DeploymentName": 16,
    "Method": 6,
    "Path": 24,
    "ResponseCode": 12,
    "ResponseCodeReason": 20,
    "TotalDurationMs": 15,
    "QueueDurationMs": 15,
    "UserAgent": 24,
}
"""Of a table → their widths; the first lines must not wait for the last to know them."""


def show(session: Session) -> None:
    """One JSON object a line by default, so that what follows can be read while it comes; `-o table` in columns."""
    flags = session.flags
    form = flags.output or "json"
    if form not in ("json", "table", "none") or flags.query:
        message = "lines that follow one another can be json, table or none, without --query"
        raise InvalidSpec([Problem("--query" if flags.query else "--output", message, flags.query or form)])
    if form == "table":
        _print(session, _row(COLUMNS, {name: name for name in COLUMNS}))
        _print(session, "  ".join("-" * width for width in COLUMNS.values()))
    for line in _lines(session):
        if form == "json":
            _print(session, line.decode())
        elif form == "table":
            _print(session, _row(COLUMNS, json.loads(line)))


def _lines(session: Session) -> Iterator[bytes]:
    flags = session.flags
    asked = {"deployment": flags.deployment_name, "since": flags.since, "tail": flags.tail}
    query = {name: str(value) for name, value in asked.items() if value is not None}
    query["follow"] = "true" if flags.follow else "false"
    for line in session.control.lines(f"{path_of('endpoints', flags.name, 'traffic-log')}?{urlencode(query)}"):
        yield line.rstrip(b"\r\n")


def _print(session: Session, line: str) -> None:
    sys.stdout.write(line + "\n")
    if session.flags.follow:
        sys.stdout.flush()


def _row(columns: dict[str, int], row: dict[str, Any]) -> str:
    return "  ".join(_cell(row.get(name), width) for name, width in columns.items()).rstrip()


def _cell(value: Any, width: int) -> str:
    # What callers wrote must not reach the terminal's own controls.
    text = "" if value is None else "".join(one if one.isprintable() else "?" for one in str(value))
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)
