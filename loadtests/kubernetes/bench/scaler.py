"""The autoscaler as its own command starts it, on the Kubernetes backend, without anything else of Tidegate around it.

What should run comes from the embedded log, as the control plane writes it; what was decided is read there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from router.runtime.processes import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from router.runtime.settings import DataLayout

READY_SECONDS = 180.0
"""Longest start; a fleet of thousands is listed meanwhile, on a machine that may be busy."""
END_SECONDS = 30.0


@dataclass(slots=True)
class Scaler:
    """One that runs."""

    process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL: what it was doing is left as it is."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@contextlib.asynccontextmanager
async def scaler(data: DataLayout, flags: list[str]) -> AsyncIterator[Scaler]:
    """Yields when it has said that it is ready: everything that was is known, and the first turn is done."""
    parent, (ready, says) = os.getpid(), os.pipe()
    output = data.root / "autoscaler.log"
    words = [
        "router.app", "autoscaler", "--data", str(data.root), "--log", f"embedded:{data.log}", "--no-shipper",
        "--ready-fd", str(says), *flags,
    ]  # fmt: skip
    with output.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *words, pass_fds=[says], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),
        )  # fmt: skip
    os.close(says)
    try:
        await _told(ready, output)
        yield Scaler(process)
    finally:
        os.close(ready)
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), END_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _told(ready: int, output: Path) -> None:
    """Return when the process says that it is ready. Raises RuntimeError with the end of its output."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(ready, heard.set)
    try:
        async with asyncio.timeout(READY_SECONDS):
            await heard.wait()
        if os.read(ready, 1):
            return
        what = "ended before it was ready"
    except TimeoutError:
        what = f"was not ready after {READY_SECONDS:g} s"
    finally:
        loop.remove_reader(ready)
    said = output.read_text(errors="replace").splitlines()[-20:]
    raise RuntimeError(f"the autoscaler {what}:\n" + "\n".join(said))
