"""The folder of one replica, `replicas/<id>/`: what it is, how it runs, and the lock that says whether it lives.

replica.json   what it is and how to run it; written once, before the shim starts
lock           held by the shim as long as it lives
control.sock   where the shim takes an owner's words
server.log*    the server's output, rotated
work/          the server's working folder when there is no code folder
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoscaler.backends.local.environments import write_whole
from autoscaler.backends.local.launch import Launch, Probes
from autoscaler.backends.local.shim import CONTROL_FD, LOCK_FD, MARK
from router.contract.specs import Probe
from router.runtime.doors import reached

RECORD, LOCK, CONTROL, LOG = "replica.json", "lock", "control.sock", "server.log"
_SHIM = Path(__file__).with_name("shim.py")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rules:
    """How a shim keeps its server."""

    grace_seconds: float = 10.0
    """From SIGTERM to SIGKILL."""
    orphan_seconds: float = 600.0
    """Without an owner for this long, a replica ends itself; long enough for a restart or an upgrade."""
    healthy_seconds: float = 10.0
    """Ready for this long, a server's failures are forgotten."""
    backoff_first_seconds: float = 1.0
    """Before the third and later restarts in a row; doubled every time."""
    backoff_most_seconds: float = 60.0
    log_bytes: int = 4 << 20
    """Per file."""
    log_files: int = 3


@dataclass(frozen=True, slots=True)
class Record:
    """What a replica is, as an owner needs it; the rest of `replica.json` is the shim's."""

    id: str
    endpoint: str
    deployment: str
    template: str
    instance_type: str
    created_ns: int
    host: str
    code: bool
    """Whether a scoring script is served (else a command)."""
    probes: Probes


def write_record(folder: Path, record: Record, launch: Launch, rules: Rules) -> None:
    """Make the replica's folder, whole or without `replica.json`."""
    folder.mkdir(mode=0o700)
    (folder / "work").mkdir()
    run = {
        "argv": launch.argv,
        "env": dict(launch.env),
        "cwd": launch.cwd or str(folder / "work"),
        "host": record.host,
        "listening_socket": launch.listening_socket,
        "rules": asdict(rules),
    }
    body = json.dumps({"format": _FORMAT, "replica": asdict(record), "launch": run})
    write_whole(folder / RECORD, body, durable=False)  # no replica survives a power cut either
    (folder / RECORD).chmod(0o600)


def read_record(folder: Path) -> Record | None:
    """What a folder says it is; None when it was never finished or is of another version."""
    try:
        body = json.loads((folder / RECORD).read_text())
        fields: dict[str, Any] = body["replica"]
        probes: Mapping[str, Any] = fields.pop("probes")
        of = {side: Probe(**probes[side]) for side in ("readiness", "liveness")}
        startup = None if probes["startup"] is None else Probe(**probes["startup"])
        paths = probes["readiness_path"], probes["liveness_path"]
        found = Probes(
            *paths,
            of["readiness"],
            of["liveness"],
            startup,
            secure=probes.get("secure", False),
            http2=probes.get("http2", False),
        )
        return Record(**fields, probes=found)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def lives(folder: Path) -> bool:
    """Whether the folder's shim runs: nobody else holds its lock."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def connect(folder: Path) -> socket.socket:
    """A connection to the shim, non-blocking. Raises OSError when it is not there (any more)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(1.0)  # a local connect waits only when the shim hangs with a full backlog
        with reached(folder / CONTROL) as address:
            sock.connect(address)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def spawn(folder: Path) -> int:
    """Start the shim of a written folder; returns its pid. It holds the lock and can be talked to from the start."""
    with contextlib.ExitStack() as stack:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        control = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with reached(folder / CONTROL) as address:
            control.bind(address)
        control.listen(8)
        complaints = os.open(folder / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, complaints)
        # Well above the numbers they get in the child: a descriptor put onto itself would be closed at exec.
        lock_high = fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 20)
        stack.callback(os.close, lock_high)
        control_high = fcntl.fcntl(control.fileno(), fcntl.F_DUPFD_CLOEXEC, 20)
        stack.callback(os.close, control_high)
        complaints_high = fcntl.fcntl(complaints, fcntl.F_DUPFD_CLOEXEC, 20)
        stack.callback(os.close, complaints_high)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, complaints_high, 1),
            (os.POSIX_SPAWN_DUP2, complaints_high, 2),
            (os.POSIX_SPAWN_DUP2, lock_high, LOCK_FD),
            (os.POSIX_SPAWN_DUP2, control_high, CONTROL_FD),
        ]
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", str(_SHIM), str(folder)],
            {MARK: str(folder), "PATH": os.environ.get("PATH", os.defpath)},
            file_actions=actions,
            setsid=True,
            setsigmask=[],
        )
