"""A program of this package as a child process, its answer read back as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def said(module: str, *words: str, cpu: int | None, deadline_seconds: float) -> Any:
    """`python -m loadtests.gateway.load.MODULE WORDS…` on core `cpu`. Raises RuntimeError with its words when it fails."""
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pin, sys.executable, "-m", f"loadtests.gateway.load.{module}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_seconds, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)
