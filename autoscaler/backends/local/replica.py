"""One replica as its owner sees it: follows the shim, probes the server, knows whether requests may go there.

The shim says which run of the server is on; every run is probed afresh. Only the shim's end ends a replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoscaler.backends.base import ObservedReplica
from autoscaler.backends.local.adoption import end_processes, put_away
from autoscaler.backends.local.folder import Record, connect, lives
from autoscaler.backends.local.logs import plain_tail
from autoscaler.backends.local.probes import Streak, answers, greets, pause_seconds, startup_seconds
from router.contract.events import ReplicaState
from router.contract.specs import Probe

FAILURES_TO_TELL = 3
"""A server that ended so often in a row without becoming healthy is reported; it is tried again all the same."""
_TAIL_LINES = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica does not get ready."""

    reason: str
    message: str
    log_tail: str


@dataclass(slots=True, eq=False)
class Replica:
    """One replica, from the moment its shim runs until nothing of it does."""

    folder: Path
    record: Record
    on_change: Callable[[], None]
    pid: int = 0
    """The shim, when it is this process's own child and must be reaped; 0 for adopted ones."""
    state: ReplicaState = ReplicaState.STARTING
    ready_ns: int = 0
    failure: Failure | None = None
    ending: bool = False
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the shim has said how it is, or is gone."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    _status: Mapping[str, Any] = field(default_factory=dict)
    _writer: asyncio.StreamWriter | None = None
    _prober: asyncio.Task[None] | None = None
    _probed_run: int = 0
    _late: bool = False

    def observed(self) -> ObservedReplica:
        """As the backend's interface says it."""
        record = self.record
        return ObservedReplica(
            id=record.id,
            endpoint=record.endpoint,
            deployment=record.deployment,
            template=record.template,
            state=self.state,
            host=record.host,
            port=self._status.get("port", 0),
            instance_type=record.instance_type,
            restarts=max(0, self._status.get("runs", 0) - 1),
            created_ns=record.created_ns,
            ready_ns=self.ready_ns,
        )

    @property
    def shim_pid(self) -> int:
        """The shim's process id as it said itself; 0 before its first word."""
        return int(self._status.get("shim", 0))

    def say(self, word: str) -> None:
        """Send one word to the shim, if it is there."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(f"{word}\n".encode())

    # Following the shim ---------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Until the shim is gone; then everything it left is ended and put away, and `gone` is set.

        Cancelled, it only lets go: the replica runs on.
        """
        try:
            while await asyncio.to_thread(lives, self.folder):
                with contextlib.suppress(OSError):
                    await self._listen()
                await asyncio.sleep(0.02)  # the connection ended; the lock says what that means
        finally:
            await self._stop_probing()
        await self._bury()

    async def _listen(self) -> None:
        sock = await asyncio.to_thread(connect, self.folder)
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            if self.ending:
                self.say("stop")
            while line := await reader.readline():
                await self._on_status(json.loads(line))
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _on_status(self, status: Mapping[str, Any]) -> None:
        self._status = status
        run = status["runs"] if status["server"] and status["state"] == "running" else 0
        if run != self._probed_run:
            await self._stop_probing()
            self._probed_run = run
            self.state = ReplicaState.STARTING
            if run and status["ready"]:
                # An earlier owner saw it ready: traffic goes on, and doubts need as many failures as ever.
                self.state, self.ready_ns = ReplicaState.READY, time.time_ns()
            if run:
                self._prober = asyncio.create_task(self._probe(status), name=f"probe {self.record.id}")
        if status["failures"] >= FAILURES_TO_TELL and not self._late:
            self.failure = await asyncio.to_thread(self._failed_start)
        self.known.set()
        self.on_change()

    def _failed_start(self) -> Failure:
        code = self.record.code
        what = "the scoring script's init()" if code else "the server"
        message = f"{what} ended {self._status['failures']} times in a row before it was healthy (exit status {self._exit_status})"
        reason = "UserScriptInitFailed" if code else "ResourceNotReady"
        return Failure(reason, message, plain_tail(self.folder, _TAIL_LINES))

    @property
    def _exit_status(self) -> int | None:
        value = self._status.get("exit_status")
        return None if value is None else int(value)

    async def _stop_probing(self) -> None:
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            await asyncio.gather(prober, return_exceptions=True)

    async def _bury(self) -> None:
        try:
            await asyncio.to_thread(end_processes, self.folder)
            if self.pid:
                with contextlib.suppress(ChildProcessError):
                    await asyncio.to_thread(os.waitpid, self.pid, 0)
            await asyncio.to_thread(put_away, self.folder, self.record)
        except OSError:
            _log.exception("replica %s is over, but not all of it could be cleaned up", self.record.id)
        finally:
            self.gone.set()
            self.known.set()
            self.on_change()

    # Probing --------------------------------------------------------------------------------------------------------

    async def _probe(self, status: Mapping[str, Any]) -> None:
        port, started_ns = status["port"], status["started_ns"]
        if not status["ready"]:
            if not await self._until_ready(port, started_ns):
                return
            self._set_ready()
            self.say("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._readiness(port), name=f"readiness {self.record.id}")
            group.create_task(self._liveness(port), name=f"liveness {self.record.id}")

    async def _until_ready(self, port: int, started_ns: int) -> bool:
        probes = self.record.probes
        patience = startup_seconds(probes.readiness, probes.startup)
        started_up = probes.startup is None
        streak = Streak(probes.readiness)
        while True:
            path = probes.readiness_path if started_up else probes.liveness_path
            probe = probes.readiness if probes.startup is None or started_up else probes.startup
            ok = await self._answers(port, path, probe)
            if not started_up:
                started_up = ok
            elif streak.passed(ok):
                return True
            age = (time.time_ns() - started_ns) / 1e9
            if age > patience:
                await self._too_late(path, patience)
                return False
            await asyncio.sleep(0 if ok else pause_seconds(age))

    async def _too_late(self, path: str, patience: float) -> None:
        message = f"GET {path} was not answered with success within {patience:g} s of the server's start"
        log_tail = await asyncio.to_thread(plain_tail, self.folder, _TAIL_LINES)
        self._late = True
        self.failure = Failure("ReadinessProbeFailed", message, log_tail)
        self.on_change()
        self.say("restart")

    def _set_ready(self) -> None:
        self.state = ReplicaState.READY
        self.ready_ns = time.time_ns()
        self.failure, self._late = None, False
        self.on_change()

    async def _readiness(self, port: int) -> None:
        probe = self.record.probes.readiness
        streak = Streak(probe)
        while True:
            await asyncio.sleep(probe.period)
            ok = await self._answers(port, self.record.probes.readiness_path, probe)
            verdict = streak.passed(ok)
            if verdict is True and self.state is ReplicaState.UNREADY:
                self._set_ready()
            elif verdict is False and self.state is ReplicaState.READY:
                self.state = ReplicaState.UNREADY
                self.on_change()

    async def _answers(self, port: int, path: str, probe: Probe) -> bool:
        probes, host = self.record.probes, self.record.host
        if probes.http2:
            return await greets(host, port, probe.timeout, secure=probes.secure)
        return await answers(host, port, path, probe.timeout, secure=probes.secure)

    async def _liveness(self, port: int) -> None:
        probe = self.record.probes.liveness
        streak = Streak(probe)
        while True:
            await asyncio.sleep(probe.period)
            ok = await self._answers(port, self.record.probes.liveness_path, probe)
            if streak.passed(ok) is False:
                self.say("restart")
                return

    # Ending ---------------------------------------------------------------------------------------------------------

    async def end(self, patience_seconds: float) -> None:
        """Ask the shim to end; kill everything of the replica when it has not after `patience_seconds`.

        Returns when nothing is left. Needs `follow` to be running.
        """
        self.ending = True
        if self.state is ReplicaState.READY:
            self.state = ReplicaState.UNREADY
        self.on_change()
        self.say("stop")
        try:
            async with asyncio.timeout(patience_seconds):
                await self.gone.wait()
        except TimeoutError:
            await asyncio.to_thread(end_processes, self.folder)
            await self.gone.wait()
