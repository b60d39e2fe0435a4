"""A real `tidegate up` on free ports, and the real command beside it, both as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "router.cli.main")
START_SECONDS = 120.0
"""Longest start on a busy machine."""


class UpTree:
    """One `tidegate up`."""

    def __init__(
        self, folder: Path, *flags: str, data: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment`: on top of this process's own, for `up` and for every command."""
        self.environment = os.environ | dict(environment or {})
        self.data = data or folder / "data"
        self.said = folder / f"up-{time.monotonic_ns()}.txt"
        words = ("up", "--data", str(self.data), "--port", "0", "--control-port", "0", *flags)
        with self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, *words], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                process_group=0,
            )  # fmt: skip

    def about(self) -> dict[str, Any]:
        """`run/up.json` of this very process, once everything is ready."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.words()
            try:
                told: dict[str, Any] = json.loads((self.data / "run" / "up.json").read_text())
            except FileNotFoundError:
                told = {}
            if told.get("pid") == self.process.pid:
                return told
            time.sleep(0.02)
        raise AssertionError(f"not ready after {START_SECONDS:g} s: {self.words()}")

    def pids(self) -> dict[str, int]:
        return {name: role["pid"] for name, role in self.about()["roles"].items()}

    def words(self) -> str:
        """What `up` and its roles have said."""
        files = [self.said, *sorted((self.data / "logs").glob("*.log"))]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(180)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def run(self, *words: str, cwd: Path | None = None, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """One command against this tree."""
        environment = {**self.environment, "TIDEGATE_URL": self.about()["control_url"], "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert (done.returncode != 0) is fails, f"{words}: {done.stdout}{done.stderr}\n{self.words()}"
        return done


def processes_naming(text: str) -> list[int]:
    """Running processes whose command line or working folder names `text`."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
            folder = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue
        if text in command or text in folder:
            found.append(int(name))
    return found
