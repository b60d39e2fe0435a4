"""Small facts in the JSON of Kubernetes objects. Pure."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping, Sequence
from typing import Any

MOST_TEXT = 2000
"""Characters kept of any message or end of a log."""


def condition_of(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One of an object's conditions; empty when it has none of that kind."""
    return next((one for one in status.get("conditions") or () if one.get("type") == kind), {})


def container_of(statuses: Sequence[Mapping[str, Any]] | None, name: str) -> Mapping[str, Any]:
    """The status of one container; empty when there is none."""
    return next((one for one in statuses or () if one.get("name") == name), {})


def nanoseconds(text: Any) -> int:
    """Of a time as Kubernetes writes it, `2026-01-31T12:00:00Z`; 0 for none."""
    try:
        return calendar.timegm(time.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ")) * 10**9
    except ValueError:
        return 0


def count(text: Any) -> int:
    """A number as an annotation has it; 0 for anything else."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() else 0


def cost(text: Any) -> int:
    """A deletion cost as an annotation has it; 0 for anything else, as Kubernetes takes it."""
    try:
        return int(text or 0)
    except (TypeError, ValueError):
        return 0


def text_of(text: Any) -> str:
    """The end of a message."""
    return str(text or "")[-MOST_TEXT:].strip()
