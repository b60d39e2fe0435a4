"""A program as a child process: launched, ended, killed, frozen and launched again with the same words.

It dies with whoever started it, and belongs to no event loop: what one loop started another may end.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtests.waiting import until
from router.runtime.processes import end_group, set_parent_death_signal, signal_group


class Child:
    """At most one process at a time, in a group of its own. Whoever derives from it knows what to run and when it is ready."""

    name: str
    output: Path
    """Everything it ever said, over all its launches."""
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, if there is one; also the number of its process group."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def code(self) -> int | None:
        """How the process ended that was launched last; None while it runs, and when it was ended or killed from here."""
        return None if self._process is None else self._process.poll()

    async def stop(self, grace_seconds: float = 30) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`. What does not run stays so."""
        await self._end(grace_seconds)

    async def kill(self) -> None:
        """SIGKILL. What it had written stays written: the machine did not crash, only the process."""
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)
        await self._end(0)

    async def ended(self) -> None:
        """Return when no process runs."""
        await until(self._has_ended)

    async def freeze(self) -> None:
        """SIGSTOP, and wait until it holds: connections stay open and nothing is done."""
        self._signal(signal.SIGSTOP)
        await until(self._is_stopped)

    async def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 30) -> str:
        """The end of what it said."""
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def _launch(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path) -> None:
        """Start `command` in `folder`, with `environment` on top of this process's own, without waiting.

        Raises RuntimeError when it runs already.
        """
        self._must_not_run()
        parent = os.getpid()
        number = os.open(self.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=number, stderr=number,
                env=os.environ | dict(environment or {}), process_group=0, cwd=folder,
                preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),  # noqa: PLW1509 -- one call into libc
            )  # fmt: skip
        finally:
            os.close(number)

    def _must_not_run(self) -> None:
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")

    def _signal(self, number: int) -> None:
        if self.pid is None:
            raise RuntimeError(f"{self.name} does not run")
        signal_group(self.pid, number)

    async def _end(self, grace_seconds: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.poll() is None:
                await end_group(process.pid, grace_seconds)
        finally:  # what is cancelled here has been killed there
            process.wait(30)

    async def _has_ended(self) -> bool:
        return self.pid is None

    async def _is_stopped(self) -> bool:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] == "T"
