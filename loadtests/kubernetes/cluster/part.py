"""One process of the cluster: started, stopped, killed, frozen and started again with the same words.

It dies with whoever started it, and belongs to no event loop: what one loop started another may stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.waiting import until
from router.runtime.processes import end_group, set_parent_death_signal, signal_group

_TAIL_LINES = 30


class ClusterFailed(RuntimeError):
    """A part of the cluster ended or was not ready in time; the message holds the end of its output."""


@dataclass(eq=False)
class Part:
    """One program with its words; `ready` says whether it does its work."""

    name: str
    command: Sequence[str]
    output: Path
    """Everything it ever said, over all its starts."""
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, if there is one; also the number of its process group."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    async def start(self, deadline_seconds: float = 120) -> None:
        """Start and return when it is ready. Raises ClusterFailed, with nothing left running."""
        self.launch()
        await self.until_ready(deadline_seconds)

    def launch(self) -> None:
        """Start without waiting."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                list(self.command), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | dict(self.environment), process_group=0, cwd="/",
                preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),  # noqa: PLW1509 -- one call into libc
            )  # fmt: skip

    async def until_ready(self, deadline_seconds: float = 120) -> None:
        """Return when it is ready. Raises ClusterFailed, with nothing left running."""
        try:
            async with asyncio.timeout(deadline_seconds):
                await until(self._is_ready)
        except TimeoutError:
            await self.kill()
            raise ClusterFailed(f"{self.name} is not ready after {deadline_seconds:g} s:\n{self.tail()}") from None
        except BaseException:
            await self.kill()
            raise

    async def stop(self, grace_seconds: float = 30) -> None:
        """SIGTERM, then SIGKILL after `grace_seconds`. A part that does not run stays so."""
        await self._end(grace_seconds)

    async def kill(self) -> None:
        """SIGKILL."""
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)
        await self._end(0)

    async def restart(self) -> None:
        """Stop, if it runs, and start again."""
        await self.stop()
        await self.start()

    async def freeze(self) -> None:
        """SIGSTOP, and wait until it holds: connections stay open and nothing is done."""
        self._signal(signal.SIGSTOP)
        await until(self._is_stopped)

    async def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def tail(self) -> str:
        """The end of what it said."""
        if not self.output.exists():
            return ""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

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

    async def _is_ready(self) -> bool:
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ClusterFailed(f"{self.name} ended with {code} before it was ready:\n{self.tail()}")
        return await self.ready()

    async def _is_stopped(self) -> bool:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] == "T"
