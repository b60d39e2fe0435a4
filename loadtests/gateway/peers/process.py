"""A proxy as a child process on one core, ready when its port takes connections, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from loadtests.waiting import HOST
from router.runtime.processes import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

READY_SECONDS = 30.0
END_SECONDS = 20.0


@contextlib.contextmanager
def pinned(
    command: Sequence[str], folder: Path, port: int, cpu: int | None, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """`command` on core `cpu` (None: any) in `folder`, what it says in `output`; yields its pid once `port` answers.

    Raises RuntimeError with its words when it ends before that, TimeoutError when it takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parent, said = os.getpid(), folder / "output"
    pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
    with said.open("wb") as output:
        process = subprocess.Popen(
            [*pin, *command], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=os.environ | dict(environment or {}),
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),  # noqa: PLW1509 -- one call into libc
        )  # fmt: skip
    try:
        _wait(process, port, said)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, said: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if (code := process.poll()) is not None:
            words = said.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{process.args!r} ended with {code} before it listened on port {port}:\n{words}")
        if listens(port):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{process.args!r} does not listen on {HOST}:{port} after {READY_SECONDS:g} s")


def listens(port: int) -> bool:
    """Whether somebody takes connections on this port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def wait_for_port(port: int, seconds: float = READY_SECONDS) -> None:
    """Return when something accepts on `port`; raise TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if listens(port):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on {HOST}:{port} after {seconds:g} s")
