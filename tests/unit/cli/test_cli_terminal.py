"""What a terminal shows: a bar that moves, a table that keeps itself up to date, also while the control plane is away."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from router.cli.status import as_table
from tests.support.cli_control_plane import Answer, FakeControlPlane, fake_control_plane

ROOT = Path(__file__).parents[3]


class Terminal:
    """The command on a pseudo-terminal of 160 columns."""

    def __init__(self, plane: FakeControlPlane, *words: str) -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TIDEGATE_URL": plane.url, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router.cli.main", *words],
            cwd=ROOT,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_interruptible,
        )
        os.close(slave)
        self.text = ""

    def until(self, pattern: str, seconds: float = 60) -> None:
        """Read until the screen has shown `pattern`."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            if not self._read(deadline):
                assert re.search(pattern, self.text), self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, seconds: float = 60) -> int:
        """The exit status. What it says last is read meanwhile: a full terminal would hold it up."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline and self._read(deadline):
                pass
            return self.process.wait(max(1.0, deadline - time.monotonic()))
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Take what is there, or comes before `deadline`; False when the other side is closed."""
        if not select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return True
        try:
            said = os.read(self._master, 65536)
        except OSError:
            return False
        self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode(errors="replace"))
        return True


def _interruptible() -> None:
    """A shell's background job ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def told(ready: int) -> dict[str, Any]:
    replicas = {"observed": 2, "ready": ready, "desired": 2}
    blue = {"name": "blue", "weight": 100, "phase": "ready", "replicas": replicas}
    return {"endpoints": [{"name": "shop", "revision": 4, "deployments": [blue]}]}


def test_status_follows_what_changes_until_it_is_interrupted() -> None:
    with fake_control_plane() as plane:
        plane.on("GET", "/v1/status", Answer(body=told(0)), Answer(body=told(1)), Answer(body=told(2)))
        screen = Terminal(plane, "status", "--interval", "0.1")
        try:
            screen.until("2/0/2")
            screen.until("2/2/2")
        finally:
            screen.process.send_signal(signal.SIGINT)
            assert screen.end() == 130


def test_an_operation_is_a_bar_and_the_answer_follows() -> None:
    with fake_control_plane() as plane:
        steps = [
            {"id": "7", "status": "InProgress", "phase": "building", "progress": 0.42, "message": "Installed numpy"},
            {"id": "7", "status": "Succeeded", "phase": "ready", "progress": 1.0, "message": ""},
        ]
        path = "/v1/endpoints/shop/deployments/blue"
        plane.on("POST", f"{path}/restart", Answer(202, {}, {"Azure-AsyncOperation": "/v1/operations/7"}))
        plane.on("GET", "/v1/operations/7", *[Answer(body=step) for step in (steps[0],) * 4 + (steps[1],)])
        plane.on("GET", path, Answer(body={"name": "blue"}))
        screen = Terminal(plane, "online-deployment", "restart", "-n", "blue", "-e", "shop")
        try:
            screen.until(r"restart blue: building .* 42 % Installed numpy")
            screen.until(r'"name": "blue"')
        finally:
            assert screen.end() == 0


def test_a_deletion_is_asked_for() -> None:
    with fake_control_plane() as plane:
        plane.on("DELETE", "/v1/endpoints/shop", Answer(202))
        screen = Terminal(plane, "online-endpoint", "delete", "-n", "shop", "--no-wait")
        try:
            screen.until(r"Delete the endpoint 'shop' with all its deployments\? \(y/n\)")
            assert not plane.requests
            screen.type("y\n")
        finally:
            assert screen.end() == 0
        assert [request.method for request in plane.requests] == ["DELETE"]


def test_a_status_of_80_columns_breaks_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"requests_per_second": 1234.5, "in_flight": 3, "queued": 17, "p50_ms": 14.2, "p99_ms": 67.8}
    blue = {
        "name": "candidate",
        "weight": 100,
        "mirror_percent": 10,
        "phase": "starting",
        "replicas": {"observed": 12, "ready": 2, "desired": 12},
        "shadows": {"equal": 1, "compared": 2},
    }
    told = {"endpoints": [{"name": "fraud", "revision": 12, **figures, "deployments": [{**blue, **figures}]}]}
    Console(width=80).print(as_table(told, "http://here"))
    said = capsys.readouterr().out
    for whole in ("fraud", "100%", "10%", "starting", "12/2/12", "1234.5", "14.2", "67.8", "1/2"):
        assert whole in said.split(), said
