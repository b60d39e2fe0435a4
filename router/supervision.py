"""A process tree that stays up: every role is restarted when it dies, and ended in order when the tree is.

A role's life: started → ready (it writes one byte to its `--ready-fd`) → ended. The first restart follows at once, further
ones with back-off; a role that stayed ready for a while starts from scratch. The kernel ends every role when the
supervisor dies, however it dies, so there are never two owners of one data folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.contract.errors import TidegateError
from router.runtime.processes import set_parent_death_signal

LOG_BYTES = 16 << 20
"""A role's output beyond this is moved to `<name>.log.1`, replacing the older one."""
TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Role:
    """One process of the tree."""

    name: str
    command: tuple[str, ...]
    """Without `--ready-fd N`, which is appended."""
    stage: int
    """Roles of a lower stage end before those of a higher one are told to."""
    output: Path | None
    """Where stdout and stderr go; None: both to the standard error of this process."""
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 10.0
    """From the stop signal to SIGKILL."""
    cwd: Path | None = None
    drains: bool = False
    """Its grace is for the sake of clients: in a hurry it is not given."""
    finishes: bool = False
    """It has work to do at the very end: when it is just being restarted, its stop signal waits until it is ready."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a role that died waits for its next start."""

    first_seconds: float = 0.25
    """Wait before the second restart in a row; the first one does not wait."""
    factor: float = 2.0
    most_seconds: float = 10.0
    settled_seconds: float = 10.0
    """Ready for this long, and earlier deaths are forgotten."""
    start_attempts: int = 3
    """Deaths before a role was ready even once, after which the tree gives up."""

    def wait_seconds(self, restarts_in_a_row: int) -> float:
        """Wait before restart number `restarts_in_a_row`, counted from 1."""
        if restarts_in_a_row <= 1:
            return 0.0
        return min(self.first_seconds * self.factor ** (restarts_in_a_row - 2), self.most_seconds)


class StartFailed(TidegateError):
    """A role died again and again before it was ready for the first time."""

    code = "StartFailed"


def ending(code: int) -> str:
    """An exit status as words."""
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def tail(file: Path) -> str:
    """The last lines of a role's output."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
            return stream.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def rotate(file: Path, limit_bytes: int = LOG_BYTES) -> None:
    """Move what a role has written aside once it is long. The role goes on writing to the same, emptied file."""
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_size > limit_bytes:
            shutil.copyfile(file, file.with_name(file.name + ".1"))
            os.truncate(file, 0)


def _apart(parent: int) -> None:
    """In the new process: Ctrl-C is for the supervisor, which ends the roles in order; its death is ours too."""
    os.setpgid(0, 0)  # uvloop knows no process_group=
    set_parent_death_signal(signal.SIGKILL, parent)


@dataclass(slots=True)
class Keeper:
    """Keeps one role running until it is told to end it."""

    role: Role
    backoff: Backoff
    notify: Callable[[str], None]
    """Hears one line for every death."""
    changed: Callable[[], None]
    """Hears that the pid or the readiness is another one."""
    pid: int | None = None
    restarts: int = 0
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _ready_at: float = 0.0
    _ending: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Start the role, and again whenever it dies; returns after `end`, raises `StartFailed`."""
        in_a_row = 0
        while not self._ending.is_set():
            code = await self._once()
            if self._ending.is_set():
                return
            settled = self._is_ready.is_set() and time.monotonic() - self._ready_at >= self.backoff.settled_seconds
            self._is_ready.clear()
            in_a_row = 1 if settled else in_a_row + 1
            self._report(code, in_a_row)
            self.restarts += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self.backoff.wait_seconds(in_a_row))

    def _report(self, code: int, in_a_row: int) -> None:
        if not self.was_ready.is_set() and in_a_row >= self.backoff.start_attempts:
            self._ending.set()
            words = f"its last words:\n{tail(self.role.output)}" if self.role.output else "see its words above"
            raise StartFailed(f"{self.role.name} does not start ({ending(code)}); {words}")
        wait = self.backoff.wait_seconds(in_a_row)
        when = "now" if wait == 0 else f"in {wait:g} s"
        see = f"; see {self.role.output}" if self.role.output else ""
        self.notify(f"{self.role.name} ended ({ending(code)}), starting it again {when}{see}")

    async def _once(self) -> int:
        """One life of the process; returns its exit status."""
        with self._ready_pipe() as ready_fd, self._output() as output:
            try:
                self._process = process = await self._start(ready_fd, output)
            finally:
                os.close(ready_fd)
            self.pid = process.pid
            self.changed()
            if self._ending.is_set():  # told to end while it was being started
                self.signal(signal.SIGKILL)
            try:
                return await process.wait()
            finally:
                self._process, self.pid = None, None
                self.changed()

    async def _start(self, ready_fd: int, output: int) -> asyncio.subprocess.Process:
        parent = os.getpid()
        return await asyncio.create_subprocess_exec(
            *self.role.command,
            "--ready-fd",
            str(ready_fd),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(ready_fd,),
            cwd=self.role.cwd,
            preexec_fn=lambda: _apart(parent),
        )

    @contextlib.contextmanager
    def _ready_pipe(self) -> Iterator[int]:
        """The end that the role writes to; one byte on it means ready, its end without a byte means nothing."""
        loop = asyncio.get_running_loop()
        read_end, write_end = os.pipe()

        def hear() -> None:
            loop.remove_reader(read_end)
            if os.read(read_end, 1):
                self._ready_at = time.monotonic()
                self._is_ready.set()
                self.was_ready.set()
                self.changed()

        loop.add_reader(read_end, hear)
        try:
            yield write_end
        finally:
            if loop.remove_reader(read_end):
                os.set_blocking(read_end, False)
                with contextlib.suppress(BlockingIOError):
                    hear()  # it may have said so with its last breath
            os.close(read_end)

    @contextlib.contextmanager
    def _output(self) -> Iterator[int]:
        if self.role.output is None:
            yield sys.stderr.fileno()
            return
        rotate(self.role.output)
        number = os.open(self.role.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            yield number
        finally:
            os.close(number)

    @property
    def ready(self) -> bool:
        """Whether the process that runs now has said that it is ready."""
        return self._is_ready.is_set() and self.pid is not None

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self, hurry: asyncio.Event) -> None:
        """End the role for good: its stop signal, then SIGKILL after its grace; one that drains also at once on `hurry`."""
        if self.role.finishes and not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_ready.wait(), self.role.grace_seconds)
        self._ending.set()
        process = self._process
        if process is None:
            return
        self.signal(self.role.stop_signal)
        self.signal(signal.SIGCONT)
        gone = asyncio.ensure_future(process.wait())
        rushed = asyncio.ensure_future(hurry.wait())
        awaited = {gone, rushed} if self.role.drains else {gone}
        await asyncio.wait(awaited, timeout=self.role.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        rushed.cancel()
        if not gone.done():
            why = "at once, as asked" if self.role.drains and hurry.is_set() else f"after {self.role.grace_seconds:g} s"
            self.notify(f"{self.role.name} has not ended by itself and is killed {why}")
            self.signal(signal.SIGKILL)
        await gone


class Supervisor:
    """Runs the roles of one tree."""

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 -- its own terminal
        changed: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._keepers = [Keeper(role, backoff or Backoff(), notify, changed) for role in roles]
        self.hurry = asyncio.Event()
        """Set to stop without waiting for exchanges under way; what the roles must still finish, they finish."""

    def state(self) -> Mapping[str, dict[str, int | bool | None]]:
        """Role → pid, restarts, ready."""
        return {k.role.name: {"pid": k.pid, "restarts": k.restarts, "ready": k.ready} for k in self._keepers}

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Run until `stop` is set, then end every role in order. Raises `StartFailed`, with nothing left running."""
        tasks = [asyncio.create_task(keeper.keep(), name=f"keep {keeper.role.name}") for keeper in self._keepers]
        waiting = asyncio.create_task(self._until(stop, on_ready), name="until stop")
        try:
            await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            await self._end()
            outcomes = await asyncio.gather(waiting, *tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _until(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Say when everyone is ready, then look after the outputs, until `stop`."""
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(self._announce(on_ready), name="announce")
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 60)
                for keeper in self._keepers:
                    if keeper.role.output is not None:
                        rotate(keeper.role.output)
            announcing.cancel()

    async def _announce(self, on_ready: Callable[[], None]) -> None:
        for keeper in self._keepers:
            await keeper.was_ready.wait()
        on_ready()

    async def _end(self) -> None:
        for stage in sorted({keeper.role.stage for keeper in self._keepers}):
            await asyncio.gather(*(k.end(self.hurry) for k in self._keepers if k.role.stage == stage))
