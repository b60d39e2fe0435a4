"""An installation driven by its own command line; `tidegate up` as one that is a child process, ended by its process id."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIDEGATE = Path(sys.executable).with_name("tidegate")


class CommandFailed(RuntimeError):
    """A `tidegate` command ended with a non-zero exit code."""


@dataclass(slots=True)
class Tidegate:
    """An installation that runs, wherever it does."""

    gateway_url: str
    control_url: str
    token: str = ""
    """The operators'; empty where none is asked for."""
    commands: list[str] = field(default_factory=list)

    @property
    def login(self) -> dict[str, str]:
        """Headers for the control plane."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    async def run(self, *words: str, cwd: Path | None = None) -> str:
        """One `tidegate` command against it; its standard output."""
        environment = {**os.environ, "TIDEGATE_URL": self.control_url}
        environment |= {"TIDEGATE_CONTROL_TOKEN": self.token} if self.token else {}
        process = await asyncio.create_subprocess_exec(
            TIDEGATE, *words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        self.commands.append(f"tidegate {' '.join(words)}")
        if process.returncode:
            raise CommandFailed(f"tidegate {' '.join(words)}: {err.decode()}{out.decode()}")
        return out.decode()

    async def json(self, *words: str, cwd: Path | None = None) -> Any:
        """The same, its output parsed."""
        return json.loads(await self.run(*words, "-o", "json", cwd=cwd))


@dataclass(slots=True)
class Tree(Tidegate):
    """A running `tidegate up`."""

    data: Path = field(kw_only=True)
    pid: int = field(kw_only=True)


@contextlib.asynccontextmanager
async def tidegate_up(data: Path, *flags: str, log: Path, deadline_seconds: float = 60) -> AsyncIterator[Tree]:
    """Start everything on free ports under `data`, its output to `log`; SIGTERM it at the end and wait."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            TIDEGATE, "up", "--data", str(data), "--port", "0", "--control-port", "0", *flags,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        about = await _announced(process, data / "run" / "up.json", log, deadline_seconds)
        yield Tree(about["gateway_url"], about["control_url"], data=data, pid=process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
    if code != 0:
        raise CommandFailed(f"tidegate up ended with {code}:\n{_tail(log)}")


async def _announced(process: asyncio.subprocess.Process, about: Path, log: Path, seconds: float) -> dict[str, Any]:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.returncode is not None:
            raise CommandFailed(f"tidegate up ended with {process.returncode}:\n{_tail(log)}")
        if about.exists():
            told: dict[str, Any] = json.loads(about.read_text())
            if told.get("pid") == process.pid:
                return told
        await asyncio.sleep(0.02)
    raise TimeoutError(f"tidegate up was not ready after {seconds:g} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
