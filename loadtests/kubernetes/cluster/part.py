"""One process of the cluster: a child that says whether it does its work, and is started again with the same words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.child import Child
from loadtests.waiting import until


class ClusterFailed(RuntimeError):
    """A part of the cluster ended or was not ready in time; the message holds the end of its output."""


@dataclass(eq=False)
class Part(Child):
    """One program with its words; `ready` says whether it does its work."""

    name: str
    command: Sequence[str]
    output: Path
    ready: Callable[[], Awaitable[bool]]
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's own."""

    async def start(self, deadline_seconds: float = 120) -> None:
        """Start and return when it is ready. Raises ClusterFailed, with nothing left running."""
        self.launch()
        await self.until_ready(deadline_seconds)

    def launch(self) -> None:
        """Start without waiting."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._launch(self.command, environment=self.environment, folder=Path("/"))

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

    async def restart(self) -> None:
        """Stop, if it runs, and start again."""
        await self.stop()
        await self.start()

    async def _is_ready(self) -> bool:
        if self.code is not None:
            raise ClusterFailed(f"{self.name} ended with {self.code} before it was ready:\n{self.tail()}")
        return await self.ready()
