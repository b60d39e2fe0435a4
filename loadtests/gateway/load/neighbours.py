"""Neighbours as child processes that wait until they are told to begin, from the parent's side."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.gateway.load.neighbour import Account
from loadtests.gateway.load.running import Driven, driven

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

    def __init__(self, process: Driven) -> None:
        self._process = process
        self.pid = process.pid

    def begin(self) -> None:
        """Start the load, and wait until it is as it is meant. Raises RuntimeError when it does not become so."""
        self._process.tell()
        if (told := self._process.line(_THERE_SECONDS)) != b"there\n":
            raise RuntimeError(f"a neighbour said {told!r}")

    def stop(self) -> Account:
        """End the load; what became of it."""
        self._process.tell()
        return Account(**json.loads(self._process.line(_THERE_SECONDS)))


@contextlib.contextmanager
def neighbour(port: int, kind: Kind, rate: float, cpu: int | None) -> Iterator[Neighbour]:
    """One that asks `kind` at `rate` per second, once it is told to begin."""
    words = ["--port", str(port), "--path", kind.path, "--rate", f"{rate:.3f}", "--until", str(kind.until)]
    words += [
        "--connections",
        str(kind.connections),
        "--body-bytes",
        str(kind.body_bytes),
        "--head-bytes",
        str(kind.head_bytes),
    ]
    with driven("neighbour", *words, cpu=cpu) as process:
        yield Neighbour(process)
