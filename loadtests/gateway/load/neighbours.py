"""Neighbours as child processes that wait until they are told to begin, from the parent's side."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtests.gateway.load.neighbour import Account

if TYPE_CHECKING:
    from collections.abc import Iterator

_THERE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a neighbour is asked, and how its endpoint takes it."""

    endpoint: str
    until: int = 200
    """The status of most answers; once one has come the load is as it is meant."""
    connections: int = 64
    body_bytes: int = 1024
    head_bytes: int = 0
    """Where that is more than a head needs."""
    probe_rate: float = 1_000.0
    """At which is found what one request takes."""

    @property
    def path(self) -> str:
        """Where to POST."""
        return f"/endpoints/{self.endpoint}/score"


class Neighbour:
    """One process."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any) -> None:
        self._process, self._errors = process, errors
        self.pid = process.pid

    def begin(self) -> None:
        """Start the load, and wait until it is as it is meant. Raises RuntimeError when it does not become so."""
        self._say()
        if (told := self._line()) != b"there\n":
            raise RuntimeError(f"a neighbour said {told!r}")

    def stop(self) -> Account:
        """End the load; what became of it."""
        self._say()
        return Account(**json.loads(self._line()))

    def _say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _THERE_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"a neighbour ended or said nothing: {self._errors.read().decode()[-2000:]}")
        return bytes(line)


@contextlib.contextmanager
def neighbour(port: int, kind: Kind, rate: float, cpu: int | None) -> Iterator[Neighbour]:
    """One that asks `kind` at `rate` per second, once it is told to begin."""
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pin, sys.executable, "-m", "loadtests.gateway.load.neighbour", "--port", str(port), "--path", kind.path]
    command += ["--rate", f"{rate:.3f}", "--connections", str(kind.connections), "--until", str(kind.until)]
    command += ["--body-bytes", str(kind.body_bytes), "--head-bytes", str(kind.head_bytes)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield Neighbour(process, errors)
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
