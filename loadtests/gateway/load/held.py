"""Connections that are held open by child processes, and the sources behind them, from the parent's side."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from loadtests.gateway.load.stream_clients import Account
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Held:
    """The clients of one process."""

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self._process, self._errors = process, errors

    def opened(self) -> Account:
        """Wait until each has been answered; their first account. Raises RuntimeError when one was not, or not with 200."""
        account = self._told()
        if account.refused or account.unanswered:
            raise RuntimeError(f"connections were refused or not answered: {account}")
        return account

    def account(self) -> Account:
        """What became of them until now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._told()

    def _told(self) -> Account:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"the clients ended: {self._errors.read().decode()[-2000:]}")
        return Account(**json.loads(line))


@contextlib.contextmanager
def held(
    port: int, count: int, *, path: str = PATH, cpu: int | None = None, address: str = "127.0.0.1"
) -> Iterator[Held]:
    """`count` connections to `port` with one request each; does not wait for them. See `Held.opened`."""
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pin, sys.executable, "-m", "loadtests.gateway.load.stream_clients", "--port", str(port)]
    command += ["--path", path, "--count", str(count), "--address", address]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield Held(process, errors)
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def source(folder: Path, port: int, period_seconds: float, cpu: int | None) -> Iterator[int]:
    """A model of endless streams on `port`; yields its pid."""
    command = [sys.executable, "-m", "loadtests.gateway.load.stream_source", "--port", str(port)]
    with pinned([*command, "--period", f"{period_seconds:.6f}"], folder, port, cpu) as pid:
        yield pid
