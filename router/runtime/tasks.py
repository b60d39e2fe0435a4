"""Background tasks with a name, an owner and an end.

A `Supervisor` owns them. A task that fails by surprise is logged and either started again with back-off or, when the
process cannot do without it, ends the process: `until` raises. A task that returns has ended well.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

from router.runtime.clock import Clock, SystemClock

_LOG = logging.getLogger(__name__)

RESTART_SECONDS = 0.1
"""First pause before a failed task starts again; each further failure doubles it."""
RESTART_LIMIT_SECONDS = 30.0
"""Longest pause."""
HEALTHY_SECONDS = 60.0
"""A task that ran this long before it failed starts over with the first pause."""


class OnFailure(enum.Enum):
    """What an unexpected exception of a task means."""

    RESTART = "restart"
    """Start it again, with back-off: the process is useful without it meanwhile."""
    END = "end"
    """The process ends, and whoever started it starts it again: better than half a process."""


class TaskFailed(Exception):
    """A task that the process cannot do without has failed; the failure is the cause."""


Work = Callable[[], Coroutine[Any, Any, None]]


class Supervisor:
    """Owns the background tasks of one process or part. Use as `async with Supervisor(...) as tasks`."""

    def __init__(self, name: str = "", *, clock: Clock | None = None) -> None:
        """`name` stands before the names of its tasks."""
        self._prefix = f"{name}." if name else ""
        self._clock = clock or SystemClock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed = asyncio.Event()
        self._failure: tuple[str, Exception] | None = None
        self._closed = False

    def start(self, name: str, work: Work, *, on_failure: OnFailure = OnFailure.END) -> asyncio.Task[None]:
        """Run `work()` in a task called `name`, which no other running task of this supervisor may be called.

        Tasks end last started first, so start what others need first.
        """
        if self._closed:
            raise RuntimeError(f"the supervisor is closed; {name!r} cannot start")
        if name in self._tasks:
            raise ValueError(f"a task called {name!r} is running already")
        full_name = self._prefix + name
        task = asyncio.create_task(self._keep(full_name, work, on_failure), name=full_name)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))
        return task

    @property
    def running(self) -> Sequence[str]:
        """Names of the tasks that have not ended, in the order of their start."""
        return tuple(self._tasks)

    async def _keep(self, name: str, work: Work, on_failure: OnFailure) -> None:
        pause = RESTART_SECONDS
        while True:
            started = self._clock.monotonic()
            try:
                return await work()
            except Exception as error:
                if on_failure is OnFailure.END:
                    _LOG.exception("task failed; the process ends", extra={"task": name})
                    self._failure = self._failure or (name, error)
                    self._failed.set()
                    return None
                if self._clock.monotonic() - started >= HEALTHY_SECONDS:
                    pause = RESTART_SECONDS
                _LOG.exception("task failed; it starts again", extra={"task": name, "pause_seconds": pause})
            await self._clock.sleep(pause)
            pause = min(2 * pause, RESTART_LIMIT_SECONDS)

    def check(self) -> None:
        """Raise `TaskFailed` when a task has failed that the process cannot do without."""
        if self._failure is not None:
            name, error = self._failure
            raise TaskFailed(f"{name}: {type(error).__name__}: {error}") from error

    async def until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; raise `TaskFailed` when a task fails first that the process cannot do without."""
        waits = [asyncio.create_task(event.wait(), name=self._prefix + "until") for event in (stop, self._failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self.check()

    async def cancel(self, name: str) -> None:
        """End one task and wait for it. No error when it has ended already."""
        task = self._tasks.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def close(self) -> None:
        """Cancel the tasks one after the other, last started first, each after the one before has ended."""
        self._closed = True
        for name in reversed(tuple(self._tasks)):
            await self.cancel(name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def stop_event(signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> asyncio.Event:
    """An event of the running loop that one of `signals` sets.

    A second SIGINT interrupts at once, for a person who does not want to wait; a second SIGTERM changes nothing,
    because supervisors send it more than once.
    """
    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        event.set()
        if number is signal.SIGINT:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler)

    for number in signals:
        loop.add_signal_handler(number, stop, number)
    return event
