"""Connections that are held open by child processes, and the sources behind them, from the parent's side."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from loadtests.gateway.load.running import Driven, driven
from loadtests.gateway.load.stream_clients import Account
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import PATH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Held:
    """The clients of one process."""

    def __init__(self, process: Driven) -> None:
        self._process = process

    def opened(self) -> Account:
        """Wait until each has been answered; their first account. Raises RuntimeError when one was not, or not with 200."""
        account = self._told()
        if account.refused or account.unanswered:
            raise RuntimeError(f"connections were refused or not answered: {account}")
        return account

    def account(self) -> Account:
        """What became of them until now."""
        self._process.tell()
        return self._told()

    def _told(self) -> Account:
        return Account(**json.loads(self._process.line()))


@contextlib.contextmanager
def held(
    port: int, count: int, *, path: str = PATH, cpu: int | None = None, address: str = "127.0.0.1"
) -> Iterator[Held]:
    """`count` connections to `port` with one request each; does not wait for them. See `Held.opened`."""
    words = ("--port", str(port), "--path", path, "--count", str(count), "--address", address)
    with driven("stream_clients", *words, cpu=cpu) as process:
        yield Held(process)


@contextlib.contextmanager
def source(folder: Path, port: int, period_seconds: float, cpu: int | None) -> Iterator[int]:
    """A model of endless streams on `port`; yields its pid."""
    command = [sys.executable, "-m", "loadtests.gateway.load.stream_source", "--port", str(port)]
    with pinned([*command, "--period", f"{period_seconds:.6f}"], folder, port, cpu) as pid:
        yield pid
