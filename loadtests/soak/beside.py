"""A gateway under TLS that somebody runs by themselves beside the tree, as on another machine: the tree's log, and a data folder and
a port of its own. Its successors take over from it, and get new certificates, while its callers call.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

from loadtests.child import Child
from loadtests.soak.account import Account
from loadtests.soak.causes import WorkerKilled, WorkerStops
from loadtests.soak.line import Line
from loadtests.soak.processes import callers_of, listens
from loadtests.tree import TIDEGATE
from loadtests.waiting import HOST, accepts, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.soak.certificates import Certificates
    from loadtests.soak.scene import Scene

NAME = "gateway under TLS"
_DRAIN_SECONDS = 30


class _Gateway(Child):
    """One of them."""

    name = NAME

    def __init__(self, output: Path) -> None:
        self.output = output

    def start(self, words: list[str]) -> None:
        """Launch it, without waiting."""
        self._launch([str(TIDEGATE), "gateway", *words], folder=self.output.parent)

    def told_to_end(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)


class Beside:
    """The one that serves, and how another one comes."""

    def __init__(self, folder: Path, log: Path, certificates: Certificates, account: Account) -> None:
        """`folder`: for its data and its outputs. `log`: the tree's."""
        self.port = free_port()
        self.output = folder / "gateway.log"
        self._folder = folder
        self._words = [
            f"--data={folder / 'data'}", f"--log=embedded:{log}", f"--host={HOST}", f"--port={self.port}", "--take-over",
            f"--drain-seconds={_DRAIN_SECONDS}", f"--tls-cert={certificates.chain}", f"--tls-key={certificates.key}",
        ]  # fmt: skip
        self.certificates = certificates
        self._account = account
        self._living: list[_Gateway] = []

    @property
    def url(self) -> str:
        """Where it is called."""
        return f"https://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the newest one. Raises RuntimeError where it has ended unasked."""
        newest = self._living[-1]
        if newest.pid is None:
            raise RuntimeError(f"a {NAME} ended with {newest.code}: {newest.tail()}")
        return newest.pid

    async def start(self, scene: Scene) -> None:
        """The first one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._launch()

        async def look() -> bool:
            return bool(self.pid) and await accepts(self.port)

        await scene.until(f"a {NAME}", look)

    async def succeeded(self, scene: Scene, *, kill: bool = False) -> None:
        """Another one takes over. With `kill`, the one before does not get to finish what it has."""
        old, pid = self._living[-1], self.pid
        cause = WorkerStops(
            pid, time.monotonic(), gateway=self.port, ports=callers_of(pid, self.port), handed_over=True
        )
        self._account.causes.append(cause)
        self._launch()
        if kill:
            await self._killed(scene, old, pid)

        async def look() -> bool:
            return bool(self.pid) and old.pid is None

        await scene.until(f"the end of {NAME} {pid}", look)
        cause.gone = time.monotonic()
        if old.code not in (0, -signal.SIGKILL if kill else 0):
            self._account.fault(f"{NAME} {pid} ended with {old.code} when another one had taken over: {old.tail()}")
        self._living.remove(old)

    async def _killed(self, scene: Scene, old: _Gateway, pid: int) -> None:
        async def look() -> bool:
            return bool(self.pid) and (old.pid is None or not listens(pid, self.port))

        await scene.until(f"another {NAME}", look, every_seconds=0.005)
        if old.pid is None:
            return  # it had nothing to finish
        cause = WorkerKilled(pid, time.monotonic(), frozenset(), gateway=self.port)
        os.kill(pid, signal.SIGSTOP)
        cause.ports = callers_of(pid, self.port)
        self._account.causes.append(cause)
        os.kill(pid, signal.SIGKILL)
        await old.ended()
        cause.dead = time.monotonic()

    async def renewed(self, scene: Scene) -> None:
        """A new certificate is put in place, and shown to every new caller from some moment on."""
        await self.certificates.renew()

        async def look() -> bool:
            line = await _Greeting.to(HOST, self.port, self.certificates.http1)
            try:
                return line.tls is not None and self.certificates.is_shown(line.tls)
            finally:
                line.abort()

        await scene.until(f"certificate {self.certificates.serial} shown", look)

    async def end(self) -> str:
        """SIGTERM; what is wrong about its end, in words."""
        wrong = ""
        for one in self._living:
            one.told_to_end()
            try:
                async with asyncio.timeout(_DRAIN_SECONDS + 10):
                    await one.ended()
            except TimeoutError:
                wrong = f"the {NAME} does not end: {one.tail()}"
            if one.code:
                wrong = f"the {NAME} ended with {one.code}: {one.tail()}"
            await one.kill()
        self._living.clear()
        return wrong

    def _launch(self) -> None:
        one = _Gateway(self.output)
        self._living.append(one)
        one.start(self._words)


class _Greeting(Line):
    """A handshake, and nothing behind it."""

    def came(self, data: bytes) -> None:
        """Nobody has asked anything."""

    def changed(self) -> None:
        """Nobody waits."""
