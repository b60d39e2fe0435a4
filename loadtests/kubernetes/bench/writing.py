"""When the API server heard of an autoscaler's writes, from its own audit log: what is before is the autoscaler's time, what
is after is Kubernetes'."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def first_writes(log: Path, user: str, resource: str, since: Mapping[str, int]) -> dict[str, int]:
    """Endpoint → when `user` first changed its `resource` after `since` (Unix nanoseconds, endpoint → moment).

    Names of objects begin with the endpoint's and a hyphen. Who has no such write is not in the answer.
    """
    found: dict[str, int] = {}
    needle = f'"{user}"'.encode()
    with log.open("rb") as lines:
        for line in lines:
            if needle not in line or b'"patch"' not in line or not line.endswith(b"\n"):
                continue
            event = json.loads(line)
            about = event.get("objectRef") or {}
            if event["verb"] != "patch" or about.get("resource") != resource or event["user"]["username"] != user:
                continue
            endpoint = str(about.get("name")).partition("-")[0]
            at_ns = _nanoseconds(event["requestReceivedTimestamp"])
            # The audit log's clock is this machine's, cut to microseconds.
            if endpoint in since and endpoint not in found and at_ns >= since[endpoint] - 1000:
                found[endpoint] = at_ns
    return found


def _nanoseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
