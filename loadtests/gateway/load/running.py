"""A program of this package as a child process: run to its end, its answer read back as JSON; or driven by lines."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENDS_SECONDS = 60.0


def _command(module: str, words: tuple[str, ...], cpu: int | None) -> list[str]:
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    return [*pin, sys.executable, "-m", f"loadtests.gateway.load.{module}", *words]


def said(module: str, *words: str, cpu: int | None, deadline_seconds: float) -> Any:
    """`python -m loadtests.gateway.load.MODULE WORDS…` on core `cpu`. Raises RuntimeError with its words when it fails."""
    done = subprocess.run(
        _command(module, words, cpu), capture_output=True, text=True, timeout=deadline_seconds, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


class Driven:
    """A child that answers lines with lines and ends with its input."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors
        self.pid = process.pid

    def tell(self) -> None:
        """Send an empty line."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def line(self, deadline_seconds: float | None = None) -> bytes:
        """Its next line. Raises RuntimeError with its words when it ended, or said nothing for so long."""
        out = self._process.stdout
        assert out is not None
        ready = deadline_seconds is None or select.select([out], [], [], deadline_seconds)[0]
        line = out.readline() if ready else b""
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args!r} ended or said nothing: {self._errors.read().decode()[-2000:]}")
        return line


@contextlib.contextmanager
def driven(module: str, *words: str, cpu: int | None) -> Iterator[Driven]:
    """`python -m loadtests.gateway.load.MODULE WORDS…` on core `cpu`, ended at the latest a minute after its input."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _command(module, words, cpu), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield Driven(process, errors)
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(_ENDS_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
