"""Waiting until the control plane has done what it accepted, and saying meanwhile how far it is.

A terminal gets one bar that moves; anything else gets a line whenever the phase changes. A control plane that restarts
meanwhile is waited for: operations survive it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from router.cli.client import ControlPlane, Reply, Unreachable
from router.contract.errors import TidegateError

FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
AWAY_SECONDS = 60.0
"""A control plane that has not answered for this long is not coming back."""


class OperationFailed(TidegateError):
    """The change was accepted and then failed, or a newer one took its place."""

    code = "OperationFailed"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Progress(Protocol):
    """Something that shows one operation."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop showing."""

    def show(self, phase: str, fraction: float, message: str) -> None:
        """`fraction` of the whole, 0 to 1, is done."""


class Lines:
    """One line per phase or message, and per tenth of a long one."""

    def __init__(self, title: str, say: Callable[[str], None]) -> None:
        self._title = title
        self._say = say
        self._last: tuple[str, str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was taken."""

    def show(self, phase: str, fraction: float, message: str) -> None:
        """Say it, unless it was said already."""
        now = (phase, message, int(fraction * 10))
        if now != self._last:
            self._last = now
            rest = f" · {message}" if message else ""
            self._say(f"{self._title}: {phase} {fraction:.0%}{rest}")


class Bar:
    """A moving bar on a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._title = title
        self._task = self._bar.add_task(title, total=1.0, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def show(self, phase: str, fraction: float, message: str) -> None:
        """Move the bar."""
        note = message.splitlines()[0][:60] if message else ""
        self._bar.update(self._task, completed=fraction, description=f"{self._title}: {phase}", note=note)


def progress(title: str, say: Callable[[str], None], *, quiet: bool) -> AbstractContextManager[Progress | None]:
    """The right kind of display for where stderr goes."""
    if quiet:
        return nullcontext()
    return Bar(title) if sys.stderr.isatty() else Lines(title, say)


def operation_path(reply: Reply) -> str | None:
    """The operation that a reply names, as a path: the control plane may be known here by another host name."""
    url = reply.headers.get("azure-asyncoperation")
    return urlsplit(url).path if url else None


class Waiter:
    """Polls one operation to its end."""

    def __init__(
        self,
        control: ControlPlane,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._sleep = sleep
        self._clock = clock
        self._heard = clock()

    def wait(self, reply: Reply, shown: Progress | None) -> dict[str, Any]:
        """The finished operation that `reply` names; {} when it names none. Raises `OperationFailed`."""
        path = operation_path(reply)
        if path is None:
            return {}
        pause = FIRST_POLL_SECONDS
        while True:
            operation = self._poll(path)
            if operation is not None:
                if shown is not None:
                    shown.show(
                        operation.get("phase") or operation["status"],
                        min(1.0, max(0.0, operation.get("progress") or 0.0)),
                        operation.get("message") or "",
                    )
                if operation["status"] != "InProgress":
                    return self._judge(operation)
            self._sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)

    def _poll(self, path: str) -> dict[str, Any] | None:
        """The operation now, or None while the control plane is away."""
        try:
            operation: dict[str, Any] = self._control.get(_below(self._control, path))
        except Unreachable:
            if self._clock() - self._heard > AWAY_SECONDS:
                raise
            return None
        self._heard = self._clock()
        return operation

    @staticmethod
    def _judge(operation: dict[str, Any]) -> dict[str, Any]:
        if operation["status"] == "Succeeded":
            return operation
        if operation["status"] == "Canceled":
            raise OperationFailed("OperationCanceled", operation.get("message") or "a newer change took its place")
        error = operation.get("error") or {}
        message = error.get("message") or operation.get("message") or "no reason was given"
        tail = (error.get("log_tail") or "").strip()
        said = "" if not tail else "\nlast lines of the log:\n" + "\n".join(f"  {line}" for line in tail.splitlines())
        raise OperationFailed(error.get("code") or "OperationFailed", message + said)


def _below(control: ControlPlane, path: str) -> str:
    """`path` without the prefix that the control plane's address already has."""
    prefix = urlsplit(control.base).path.rstrip("/")
    return path.removeprefix(prefix) if prefix else path
