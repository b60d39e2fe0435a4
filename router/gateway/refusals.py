"""What the gateway refused, and whom it cut off: counted by code, and by endpoint and code, and said in the log.

A code is said at most once a second, with how often it was kept back; counts are exact. Nothing here is on the path of a
request that passes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.responses import Refusal
    from router.gateway.routes import Endpoint

_LOG = logging.getLogger(__name__)
_OF_CALLERS = frozenset((400, 401, 404, 417, 501))
"""A caller's own mistakes are no reason to warn whoever runs the gateway."""


class Refusals:
    """Of one worker since its start."""

    __slots__ = ("_say", "counts", "cuts")

    def __init__(self) -> None:
        self.counts: dict[Refusal, int] = {}
        self.cuts: dict[str, int] = {}
        """Why connections were ended without an answer → how many."""
        self._say = Limited(_LOG)

    def note(self, refusal: Refusal, endpoint: Endpoint | None, message: str) -> None:
        """Count one answer in the gateway's own name."""
        self.counts[refusal] = self.counts.get(refusal, 0) + 1
        name = ""
        if endpoint is not None:
            name = endpoint.name
            endpoint.refusals[refusal] = endpoint.refusals.get(refusal, 0) + 1
        level = logging.INFO if refusal.status in _OF_CALLERS else logging.WARNING
        self._say.log(level, refusal.code, "a request was refused", status=refusal.status, endpoint=name, why=message)

    def cut(self, why: str, message: str) -> None:
        """Count one connection that was ended without an answer. `why` is one of a few words."""
        self.cuts[why] = self.cuts.get(why, 0) + 1
        self._say.log(logging.INFO, why, message)
