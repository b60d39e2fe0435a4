"""How often each replica of a deployment errs beside the others, over the last half to whole window (`policy.ejection`).

Nothing is done for a good answer but the count that is kept anyway. After an error, a few times a second at most, the counts are
compared with what they were when the window began.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from router.policy import ejection

if TYPE_CHECKING:
    from router.gateway.replicas import Replicas
    from router.gateway.target import Target

_APART_NS = 100_000_000
"""Between two looks."""


class Comparison:
    """Of the replicas of one deployment, in one worker."""

    __slots__ = ("_begin", "_looked_ns", "_middle", "_middle_ns", "_replicas")

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._begin: dict[str, tuple[int, int]] = {}
        """Replica → (good answers, errors) when the window began; one that is not there was not there."""
        self._middle: dict[str, tuple[int, int]] = {}
        self._middle_ns = self._looked_ns = 0

    def lags(self, target: Target) -> bool:
        """Whether `target`, which has just erred, does so more often than the others."""
        now = time.monotonic_ns()
        self._move_on(now)
        if now - self._looked_ns < _APART_NS:
            return False
        self._looked_ns = now
        good = errors = all_good = all_errors = 0
        for one in self._replicas.ready:
            good_before, errors_before = self._begin.get(one.id, (0, 0))
            if one is target:
                good, errors = one.good - good_before, one.bad - errors_before
            all_good += one.good - good_before
            all_errors += one.bad - errors_before
        others_errors = all_errors - errors
        return ejection.lags(errors, good + errors, others_errors, all_good - good + others_errors)

    def gone(self, target: Target) -> None:
        """Another one may have its name."""
        self._begin.pop(target.id, None)
        self._middle.pop(target.id, None)

    def forget(self, target: Target) -> None:
        """Judge it by what comes from now on."""
        self._begin[target.id] = self._middle[target.id] = (target.good, target.bad)

    def _move_on(self, now: int) -> None:
        half = int(ejection.LAGGING_WINDOW_SECONDS * 5e8)
        if now - self._middle_ns < half:
            return
        here = {one.id: (one.good, one.bad) for one in self._replicas.ready}
        # Where the last error was long ago, what went well before this one says nothing about now.
        fresh = now - self._middle_ns >= 2 * half
        self._begin = here if fresh else self._middle
        self._middle, self._middle_ns = here, now
