"""Tidegate's roles as processes of their own around one data folder, for what `tidegate up` never does: two autoscalers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.tree import TIDEGATE

END_SECONDS = 60.0


@dataclass(slots=True)
class Roles:
    """Whatever was started over `folder`/data, by name."""

    folder: Path
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, name: str, role: str, *flags: str, **environment: str) -> None:
        """Start a role and return; its output goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as output:
            self.running[name] = await asyncio.create_subprocess_exec(
                TIDEGATE, role, "--data", str(self.folder / "data"), *flags,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment},
            )  # fmt: skip

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        self.running[name].kill()
        await self.running.pop(name).wait()

    def said(self, name: str) -> str:
        """The end of what a role said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]


@contextlib.asynccontextmanager
async def roles(folder: Path) -> AsyncIterator[Roles]:
    """No role yet; at the end each is asked to end, and the last words of one that did not do so cleanly are raised."""
    made = Roles(folder)
    try:
        yield made
    finally:
        codes = await asyncio.gather(*(_end(one) for one in made.running.values()))
    unclean = {name: made.said(name) for name, code in zip(made.running, codes, strict=True) if code != 0}
    assert not unclean, unclean


async def _end(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(END_SECONDS):
            return await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
