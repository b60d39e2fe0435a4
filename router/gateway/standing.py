"""Whether a replica gets requests: not while it cannot be reached, and not while it errs and others do not.

Who could not be reached is knocked at before it gets a request again, so that a machine that is gone costs no caller a
connection's time. Who erred is readmitted by the clock, on trial.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from router.policy import ejection

if TYPE_CHECKING:
    from router.gateway.replicas import Replicas
    from router.gateway.target import Target


class Out(enum.Enum):
    """Why a replica gets no requests."""

    UNREACHABLE = enum.auto()
    ERRING = enum.auto()
    LAGGING = enum.auto()


class Standing:
    """One replica's, in one worker."""

    __slots__ = (
        "_failures", "_knocking", "_mark", "_replicas", "_spells", "_target", "_timer", "errors", "out", "suspect",
    )  # fmt: skip

    def __init__(self, replicas: Replicas, target: Target) -> None:
        self._replicas = replicas
        self._target = target
        self.out: Out | None = None
        """None: it gets requests."""
        self.errors = 0
        """In a row."""
        self.suspect = False
        """Whether a good answer is news: there were errors, or it is on trial."""
        self._mark = 0
        """Good answers of all replicas when it became suspect."""
        self._failures = 0
        self._spells = 0
        self._timer: asyncio.TimerHandle | None = None
        self._knocking: asyncio.Task[None] | None = None

    # It cannot be reached -------------------------------------------------------------------------------------------

    def unreachable(self) -> None:
        """It refused a connection, or one died: leave it alone for a while."""
        if self.out is not None or not self._target.present:
            return
        self._failures += 1
        self._target.drop_idle()
        self._leave_alone(Out.UNREACHABLE, ejection.back_off_seconds(self._failures))

    def reached(self) -> None:
        """A connection came about."""
        self._failures = 0

    def _knock(self) -> None:
        self._timer = None
        self._knocking = asyncio.get_running_loop().create_task(self._try(), name=f"knock at {self._target.id}")

    async def _try(self) -> None:
        found = await self._target.knock()
        self._knocking = None
        if self.out is not Out.UNREACHABLE or not self._target.present:
            return
        if found:
            self.reached()
            self._back()
        else:
            self._failures += 1
            self._wait(ejection.back_off_seconds(self._failures), self._knock)

    # It errs --------------------------------------------------------------------------------------------------------

    def did_well(self) -> None:
        """A good answer of one that is suspect."""
        self.errors = self._spells = 0
        self.suspect = False

    def erred(self) -> None:
        """An answer that is the server's fault, none in time, or a connection that died before one."""
        replicas = self._replicas
        if not self.suspect:
            self._mark = replicas.good
        self.errors += 1
        self._target.bad += 1
        self.suspect = True
        if self.out is not None or not self._target.present:
            return
        if ejection.errs(self.errors, replicas.good - self._mark, on_trial=self._spells > 0):
            why = Out.ERRING
        elif replicas.comparison.lags(self._target):
            why = Out.LAGGING
        else:
            return
        if ejection.can_spare(len(replicas.ready) - len(replicas.usable), len(replicas.ready)):
            self._spells += 1
            replicas.comparison.forget(self._target)
            self._leave_alone(why, ejection.erring_seconds(self._spells))

    def pardon(self) -> None:
        """Nobody else is left: better an erring replica than none."""
        if self.out is not Out.UNREACHABLE:
            self._clear()

    # Back -----------------------------------------------------------------------------------------------------------

    def trust_again(self) -> None:
        """The backend says it is ready anew, perhaps at another address: what was is another process's."""
        self._failures = 0
        self.did_well()
        self._clear()

    def close(self) -> None:
        """Nothing more will be asked."""
        self._clear()

    def _leave_alone(self, why: Out, seconds: float) -> None:
        self._clear()
        self.out = why
        self._replicas.left_alone(why)
        self._wait(seconds, self._knock if why is Out.UNREACHABLE else self._on_trial)
        self._replicas.refresh()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

    def _on_trial(self) -> None:
        self.errors = 0
        self._back()

    def _back(self) -> None:
        self._timer = None
        self.out = None
        self._replicas.refresh()

    def _clear(self) -> None:
        self.out = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._knocking is not None:
            self._knocking.cancel()
            self._knocking = None
