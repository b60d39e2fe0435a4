"""Very many connections at once: what one that is idle, and one that carries a stream, takes of a gateway's memory.

Callers come from several loopback addresses, because one has ports for some 28,000 connections to one place; callers, models
and gateway workers are as many processes as the limit of descriptors demands; a stream needs two in a worker.

    python -m loadtests.gateway.streams idle|stream [CONNECTIONS]
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.gateway.peers.work import KEY
from loadtests.gateway.subject import ENDPOINT, publish_all, published, workers
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SPARE = 400
"""Descriptors of a process that are for other things; and how uneven the kernel deals connections to workers."""
_WARM = 200
_PORTS = 25_000
"""Connections that one address may have to one place."""


@dataclass(frozen=True, slots=True)
class Held:
    """What was measured, over all workers."""

    kind: str
    """`idle`: kept alive, had one answer. `stream`: an open stream of events, with its connection to a replica."""
    connections: int
    workers: int
    bytes_each: float
    """Gateway memory of one connection."""
    events: int
    """That came of one event on every stream."""
    lost: int
    """Connections that ended before they should have."""


class End:
    """One child: see `stream_ends`."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.gateway.stream_ends", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.told()

    def tell(self, line: str) -> None:
        """Let it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def told(self) -> str:
        """What it answers. Raises RuntimeError when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        return line.strip()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def _ends(words: Sequence[tuple[str, ...]]) -> Iterator[list[End]]:
    with contextlib.ExitStack() as started:
        made = []
        for one in words:
            end = End(*one)
            started.callback(end.close)
            made.append(end)
        yield made


def private_bytes(pid: int) -> int:
    """Memory that is this process's alone."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon:"))


def measure(folder: Path, kind: str, connections: int) -> Held:
    """Open `connections` of a kind through fresh workers and see what they take; then one event on every stream.

    Raises RuntimeError where one is refused, or does not get what it should.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    per_process = min(hard - _SPARE, _PORTS)
    total = connections + _WARM
    ends = -(-total // per_process)
    count_workers = -(-2 * total * 21 // (20 * (hard - _SPARE)))  # the kernel deals them unevenly, by some percent
    # A busy machine may take a model for gone for a moment: the others have room for its streams.
    data, port, ports = DataLayout(folder), free_port(), [free_port() for _ in range(ends + 2)]
    data.create()
    endpoint = published(ENDPOINT, {"blue": ports}, traffic={"blue": 100}, mirror_traffic={}, concurrency=per_process)
    asyncio.run(publish_all(data, [endpoint]))
    with (
        _ends([("source", str(one)) for one in ports]) as sources,
        workers(data, port, [None] * count_workers, mirror=None, flags=["--idle-seconds", "1000"]) as pids,
        _ends([("callers", str(port), KEY)] * ends) as callers,
    ):
        _open(callers, kind, _WARM)
        before = sum(map(private_bytes, pids))
        lost = _open(callers, kind, connections)
        each = (sum(map(private_bytes, pids)) - before) / connections
        events = 0
        if kind == "stream":
            shares = _shares(connections, ends), _shares(_WARM, ends)
            for end, one, other in zip(callers, *shares, strict=True):
                end.tell(f"events {one + other}")
            for source in sources:
                source.tell("event")
            events = sum(int(source.told()) for source in sources)
            lost = sum(int(end.told().split()[0]) for end in callers)
        return Held(kind, connections, count_workers, each, events, lost)


def _shares(number: int, ends: int) -> list[int]:
    return [number * (place + 1) // ends - number * place // ends for place in range(ends)]


def _open(callers: Sequence[End], kind: str, connections: int) -> int:
    for place, (end, number) in enumerate(zip(callers, _shares(connections, len(callers)), strict=True)):
        end.tell(f"{kind} {number} 127.0.0.{2 + place}")
    return sum(int(end.told().split()[0]) for end in callers)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="tidegate-streams-") as made:
        print(measure(Path(made), sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000))
