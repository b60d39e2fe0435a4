"""The real processes of one machine around a log on Kafka, to be killed by tests: a shipper, writers, a reader.

Everything that a test leaves running is killed when its `Machine` ends. What processes say on stderr is kept in files
of the machine's folder.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.runtime.log.base import Health
from router.runtime.log.embedded import FILE
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.opening import SPOOL_BYTES
from router.runtime.log.spool import Spool
from router.runtime.processes import set_parent_death_signal
from tests.support.log_faults_account import Seen, Written, differences

ROOT = Path(__file__).resolve().parents[2]
BUFFER_BYTES = WriterSettings().buffer_bytes
DEADLINE_SECONDS = 150.0
"""For whatever needs a broker that comes back on a busy machine."""


async def until(what: str, ask: Callable[[], Awaitable[bool]], seconds: float = DEADLINE_SECONDS) -> None:
    """Ask again and again until the answer is yes."""
    ends = time.monotonic() + seconds
    while not await ask():
        assert time.monotonic() < ends, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.05)


class Child:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def kill(self) -> None:
        """SIGKILL, and wait for its end. A process that has ended stays so."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    def freeze(self) -> None:
        """It stands still until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._silence()
            return await self.process.wait()

    async def _silence(self) -> None:
        if self.process.stdout is not None:
            await self.process.stdout.read()

    async def _order(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        await self.process.stdin.drain()

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.process.stdout.readline()


class Writer(Child):
    """See `log_faults_writer`. What it told last is in `told`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self.told = Written()
        self._news = asyncio.Event()
        self._listening = asyncio.create_task(self._listen(), name="listen to a writer")

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        while (line := await self.process.stdout.readline()).endswith(b"\n"):
            self.told = Written.decode(line)
            self._news.set()

    async def until(self, enough: Callable[[Written], bool]) -> None:
        """Wait until it has told that."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not enough(self.told):
                assert not self._listening.done(), "the writer has ended"
                self._news.clear()
                await self._news.wait()

    async def further(self, records: int) -> None:
        """Wait until so many more are committed than now."""
        target = self.told.records() + records
        await self.until(lambda told: told.records() >= target)

    async def hold(self) -> None:
        """Let it rest after the round that it is in; returns when everything is told."""
        before = self.told.rests
        await self._order("hold")
        await self.until(lambda told: told.rests > before)

    async def go(self) -> None:
        """Let it go on."""
        await self._order("go")

    async def end(self) -> Written:
        """Let it end in order; everything that it wrote."""
        await self._order("end")
        code = await self.ended()
        assert code == 0, f"the writer ended with {code}"
        assert self.told.final
        return self.told

    async def _silence(self) -> None:
        await asyncio.wait({self._listening})


class Reader(Child):
    """See `log_faults_reader`."""

    async def records(self) -> int:
        """How many it has seen, each once."""
        return (await self._ask("count"))[0]

    async def messages(self) -> int:
        """How many it was handed."""
        return (await self._ask("count"))[1]

    async def _ask(self, word: str) -> tuple[int, int]:
        await self._order(word)
        records, messages = (await self._line()).split()
        return int(records), int(messages)

    async def further(self, records: int) -> None:
        """Wait until it has seen so many more than now."""
        await self.until(await self.records() + records)

    async def until(self, records: int) -> None:
        """Wait until it has seen so many."""

        async def look() -> bool:
            return await self.records() >= records

        await until(f"{records} records read", look)

    async def level(self) -> None:
        """Let it read everything that was appended before."""
        await self._ask("level")

    async def end(self, *, ids: bool = True) -> Seen:
        """Everything that it saw, when nothing that was appended is left to read.

        With `ids`, the topics are read once more to see what stands in them twice.
        """
        await self.level()
        if ids:
            await self._ask("ids")
        await self._order("end")
        seen: Seen = pickle.loads(base64.b64decode(await self._line()))
        assert await self.ended() == 0
        return seen


@dataclass(slots=True)
class Machine:
    """One data folder and its processes."""

    folder: Path
    url: str
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    """Words before every command: how to get where the processes live."""
    seen_spool: Path | None = None
    """Where this process finds the spool, when that is elsewhere than for the others."""
    children: list[Child] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    def said(self, role: str) -> str:
        """Everything that processes of that role wrote to stderr."""
        return (self.folder / f"{role}.log").read_text(errors="replace")

    async def start(self, role: str, *words: str, fds: Sequence[int] = (), pipes: bool = True) -> Any:
        """A Python process of this machine."""
        parent = os.getpid()
        pipe = asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL
        with (self.folder / f"{role}.log").open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, "-m", *words, cwd=ROOT, env={**os.environ, **self.environ}, stdin=pipe,
                stdout=pipe, stderr=output, pass_fds=fds, limit=1 << 28,
                preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL, parent),
            )  # fmt: skip

    async def role(self, role: str, *flags: str) -> Child:
        """A role of Tidegate, once it is ready."""
        there, here = os.pipe()
        try:
            words = ["router.app", role, "--data", str(self.data), "--log", self.url, "--ready-fd", str(here), *flags]
            child = Child(await self.start(role, *words, fds=[here], pipes=False))
            self.children.append(child)
        finally:
            os.close(here)
        with open(there, "rb", buffering=0) as pipe:
            async with asyncio.timeout(DEADLINE_SECONDS):
                ready = await asyncio.to_thread(pipe.read, 1)
        assert ready, f"the {role} ended before it was ready:\n{self.said(role)[-3000:]}"
        return child

    async def shipper(self) -> Child:
        """The shipper."""
        return await self.role("shipper")

    async def writer(self, records: int = 10, buffer_bytes: int = BUFFER_BYTES) -> Writer:
        """A writer that has committed something; `records` per message."""
        words = ["tests.support.log_faults_writer", self.url, str(self.spool), str(records), str(buffer_bytes)]
        writer = Writer(await self.start("writer", *words))
        self.children.append(writer)
        await writer.until(lambda told: told.records() > 0)
        return writer

    async def reader(self) -> Reader:
        """A reader of everything."""
        reader = Reader(await self.start("reader", "tests.support.log_faults_reader", self.url, str(self.spool)))
        self.children.append(reader)
        await reader.records()
        return reader

    async def health(self) -> Health:
        """What the spool says of itself."""

        def look() -> Health:
            with contextlib.closing(Spool.open((self.seen_spool or self.spool) / FILE)) as spool:
                return spool.health()

        return await asyncio.to_thread(look)

    async def state(self, wanted: str) -> None:
        """Wait until the way to the broker is in this state."""

        async def look() -> bool:
            return (await self.health()).state == wanted

        await until(f"a way to the broker that is {wanted}", look)

    async def shipped(self) -> None:
        """Wait until nothing waits in the spool."""

        async def look() -> bool:
            return (await self.health()).gauges["spool_rows", ""] == 0

        await until("an empty spool", look)

    async def settle(self, reader: Reader, *written: Writer | Written, folded: bool = False) -> Seen:
        """End the writers that still write, read everything, and hold both against each other."""
        told = [one if isinstance(one, Written) else await one.end() for one in written]
        seen = await reader.end()
        found = differences(seen, told, folded=folded)
        assert not found, "\n".join(found[:20])
        return seen

    async def close(self) -> None:
        """Kill what still runs."""
        await asyncio.gather(*(child.kill() for child in self.children))


@contextlib.asynccontextmanager
async def machine(
    folder: Path, servers: str, prefix: str = "faults", *, partitions: int = 3, replication: int = 1,
    spool_bytes: int | None = None, words: Sequence[str] = (),
) -> AsyncIterator[Machine]:  # fmt: skip
    """A machine with nothing running yet."""
    url = f"kafka://{servers}/{prefix}?partitions={partitions}&replication={replication}"
    environ = {} if spool_bytes is None else {SPOOL_BYTES: str(spool_bytes)}
    one = Machine(folder, url, environ, words)
    one.data.mkdir(parents=True, exist_ok=True)
    try:
        yield one
    finally:
        await one.close()
