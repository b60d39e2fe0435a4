"""The README's tour, typed as printed, prints what it says."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from loadtests.tree import tidegate_up
from tests.support.tour import steps

ROOT = Path(__file__).parents[2]


class Shell:
    """One bash that remembers its directory and variables from command to command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def type(self, command: str) -> str:
        """Run one line; everything it prints on standard output and standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"end-{uuid.uuid4().hex}"
        self._process.stdin.write(f"{command}\necho; echo {mark}\n".encode())
        await self._process.stdin.drain()
        printed = await asyncio.wait_for(self._process.stdout.readuntil(mark.encode() + b"\n"), 180)
        return printed.decode().removesuffix(f"{mark}\n")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the tour calls it")
async def test_the_tour_typed_as_printed_prints_what_it_says(tmp_path: Path) -> None:
    typed = steps()
    start = [step for step in typed if "tidegate up" in step.command]
    assert len(start) == 1
    assert len(typed) >= 10
    examples = tmp_path / "docs" / "examples"
    shutil.copytree(ROOT / "docs" / "examples", examples)
    async with tidegate_up(tmp_path / "data", log=tmp_path / "up.log", deadline_seconds=120) as tree:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TIDEGATE_URL": tree.control_url,
            "TERM": "dumb",
        }
        process = await asyncio.create_subprocess_exec(
            "bash", "--norc", "--noprofile", cwd=tmp_path, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        shell = Shell(process)
        wrong = []
        for step in typed:
            if step in start or step.command.startswith(("git clone", "cd tidegate", "make ", "source ")):
                continue  # the test bed did these
            problem = step.mismatch(await shell.type(step.command))
            if problem:
                wrong.append(f"$ {step.command}\n  {problem}")
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 30)
    assert not wrong, "\n".join(wrong)
