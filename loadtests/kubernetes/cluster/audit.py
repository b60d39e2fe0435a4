"""What the API server was asked, and by whom: counted from its audit log."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One kind of request."""

    agent: str
    """The client's name: its user agent up to the first slash."""
    user: str
    verb: str
    """In Kubernetes' words: get, list, watch, create, update, patch, delete, deletecollection."""
    resource: str
    """With its subresource, such as pods/eviction; a path that is no resource as it is."""
    code: int
    """HTTP status of the answer."""


class Audit:
    """The log, read from where it was read to before. A request is noted when it ends, a watch when it begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self.counts: Counter[Asked] = Counter()
        """All that was asked since the cluster started."""

    def read(self) -> Counter[Asked]:
        """Take in what is new; returns `counts`, as a copy."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read_bytes += len(line)
                    self._count(json.loads(line))
        return self.counts.copy()

    def _count(self, event: dict[str, Any]) -> None:
        watching = event["verb"] == "watch"
        if watching != (event["stage"] == "ResponseStarted"):
            return  # each request once: a watch would otherwise count when it ends
        found = event.get("objectRef")
        resource = event["requestURI"].partition("?")[0]
        if found:
            resource = "/".join(part for part in (found["resource"], found.get("subresource")) if part)
        self.counts[
            Asked(
                event.get("userAgent", "").partition("/")[0],
                event["user"].get("username", ""),
                event["verb"],
                resource,
                event.get("responseStatus", {}).get("code", 0),
            )
        ] += 1
