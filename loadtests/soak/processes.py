"""Tidegate's processes as the machine sees them: roles by the tree's own word, model servers and sockets by /proc."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from router.runtime.processes import Identity, identity

_MARK = b"TIDEGATE_REPLICA="
_SERVERS = (b"serve.py", b"calls.py")


@dataclass(frozen=True, slots=True)
class Server:
    """One model server."""

    who: Identity
    endpoint: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of one `tidegate up`."""

    data: Path

    def read(self) -> dict[str, dict[str, int | bool | None]]:
        """Name → pid, restarts, ready."""
        told: dict[str, dict[str, int | bool | None]] = json.loads((self.data / "run" / "up.json").read_text())["roles"]
        return told

    def ready(self, name: str) -> int:
        """The pid of a role that is ready; 0 while it is not."""
        state = self.read()[name]
        return int(state["pid"] or 0) if state["ready"] else 0


def servers(data: Path) -> list[Server]:
    """Every model server of the data folder."""
    found = []
    for pid, environment in _environments():
        values = dict(pair.partition(b"=")[::2] for pair in environment.split(b"\0"))
        if values.get(_MARK[:-1], b"").startswith(str(data).encode()) and (who := identity(pid)) is not None:
            name, endpoint = values.get(b"MODEL_NAME", b"").decode(), values.get(b"MODEL_ENDPOINT", b"").decode()
            found.append(Server(who, endpoint, name))
    return found


def _environments() -> list[tuple[int, bytes]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{entry}/environ").read_bytes()
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
                if _MARK in environment and any(one in words for one in _SERVERS):
                    found.append((int(entry), environment))
    return found


def keepers(data: Path) -> list[int]:
    """The keepers of the data folder's replicas."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if any(word.endswith(b"shim.py") for word in words) and any(
                    str(data).encode() in word for word in words
                ):
                    found.append(int(entry))
    return found


def left_of(data: Path) -> list[str]:
    """Processes that still have to do with the data folder, in words."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_text(errors="replace").replace("\0", " ")
                if str(data) in words or os.readlink(f"/proc/{entry}/cwd").startswith(str(data)):
                    found.append(f"{entry} {words}")
    return found


_TIME_WAIT, _LISTENS = "06", "0A"
"""States of connections, as the kernel tells them. What is only remembered is in nobody's backlog."""


def callers_of(pid: int, port: int) -> frozenset[int]:
    """Far ends of the connections to `port` that are inside process `pid`, and of those that nobody has accepted yet."""
    inodes = _sockets_of(pid) | {"0"}
    return frozenset(_port(words[2]) for words in _tcp(port) if words[9] in inodes and words[3] != _TIME_WAIT)


def listens(pid: int, port: int) -> bool:
    """Whether process `pid` has a socket that listens on `port`, be it others' too."""
    inodes = _sockets_of(pid)
    return any(words[3] == _LISTENS and words[9] in inodes for words in _tcp(port))


def _sockets_of(pid: int) -> set[str]:
    inodes = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            link = os.readlink(f"/proc/{pid}/fd/{entry}")
            if link.startswith("socket:["):
                inodes.add(link[8:-1])
    return inodes


def _tcp(port: int) -> list[list[str]]:
    """The kernel's lines about sockets whose near port that is."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [words for words in lines if _port(words[1]) == port]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


@dataclass(slots=True)
class Machine:
    """How busy all cores are, between two looks."""

    _busy: int = 0
    _all: int = 0

    def busy(self) -> float:
        """0–1 since the last call."""
        numbers = [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        everything = sum(numbers)
        working = everything - numbers[3] - numbers[4]
        share = (working - self._busy) / max(1, everything - self._all)
        self._busy, self._all = working, everything
        return share
