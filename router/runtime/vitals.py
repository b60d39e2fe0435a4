"""What a process counts about itself, offered on a socket of its own in the data folder, and gathered from there.

A gateway has counters that no reader of the log can know: what its courier could not deliver, what its log refused.
Nothing is done for them but count; only when somebody asks is a text made of them, some tens of microseconds. A Unix
socket costs neither a port nor a library, and a process that hangs or is gone is told from one that is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path

from router.contract.errors import Unavailable
from router.runtime import exposition
from router.runtime.courier import Counts, Courier
from router.runtime.doors import Door, reached
from router.runtime.exposition import HEAD_BYTES, Family

_LOG = logging.getLogger(__name__)

SUFFIX = ".sock"
ASK_SECONDS = 1.0
"""For one process's answer: one that takes longer is stuck or stopped."""
ANSWER_BYTES = 8 << 20
PROCESS = "process"
"""The label that tells the processes of a data folder apart: `gateway-0`, `mirror`, …"""
_BACKLOG = 16
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


def writer_families(dropped: Mapping[str, int], courier: Courier | None) -> list[Family]:
    """What every process that appends to the log counts: topic → messages dropped; and its courier, where it has one."""
    drops = [({"topic": topic}, float(count)) for topic, count in sorted(dropped.items())]
    words = "Messages of this process that the log refused: its buffer, its spool or its disk was full"
    families = [Family("tidegate_log_dropped_messages_total", "counter", words, drops)]
    if courier is not None:
        families += _courier_families(courier.counts, courier.waiting_bytes())
    return families


def _courier_families(counts: Counts, waiting_bytes: int) -> Iterator[Family]:
    for field, words in (
        ("handed", "Demand messages given to the courier"),
        ("delivered", "Demand messages that an autoscaler took directly, once per autoscaler"),
        ("dropped", "Demand messages given up because their queue was full; the log has them"),
        ("refused", "Demand messages that an autoscaler did not want: another version, or a wrong token"),
    ):
        name = f"tidegate_courier_{field}_messages_total"
        yield exposition.single(name, "counter", words, getattr(counts, field))
    words = "Deliveries, each of many messages, without a good answer in time; they are tried again"
    yield exposition.single("tidegate_courier_failures_total", "counter", words, counts.failures)
    words = "Demand messages waiting for their delivery, over all autoscalers"
    yield exposition.single("tidegate_courier_waiting_bytes", "gauge", words, waiting_bytes)


@contextlib.asynccontextmanager
async def offered(folder: Path, process: str, collect: Callable[[], Iterable[Family]]) -> AsyncIterator[None]:
    """Answer `GET /metrics` on `folder`/`process`.sock, owner only, while inside; every series says which process.

    Where that cannot be, a line says so, and the process goes on without: numbers are not worth a gateway.
    """
    name = process + SUFFIX

    async def text() -> str:
        return exposition.text_of(collect(), **{PROCESS: process})

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exposition.answer(reader, writer, text)

    try:
        door = Door(folder / name, _BACKLOG)
    except OSError as error:
        _LOG.warning("the metrics of this process cannot be asked for: %s", error, extra={"folder": str(folder)})
        yield
        return
    with contextlib.closing(door):
        server = await asyncio.start_unix_server(answer, sock=door.socket, limit=HEAD_BYTES)
        try:
            yield
        finally:
            door.leave()
            server.close()


def clear(folder: Path) -> None:
    """Remove what dead processes left; for the one who knows that none of the folder's is alive."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)


async def gathered(folder: Path, further: Iterable[Path] = ()) -> dict[str, str | None]:
    """Process → the text it offers in `folder` or on one of the `further` sockets; None for one that does not answer."""
    paths = [*sorted(folder.glob(f"*{SUFFIX}")), *(path for path in further if path.exists())]
    texts = await asyncio.gather(*(_asked(path) for path in paths))
    return {path.name.removesuffix(SUFFIX): text for path, text in zip(paths, texts, strict=True)}


async def _asked(path: Path) -> str | None:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await _exchange(path)
    except (OSError, EOFError, ValueError, Unavailable):  # a timeout is an OSError
        return None


async def _exchange(path: Path) -> str:
    with reached(path) as address:
        reader, writer = await asyncio.open_unix_connection(address, limit=ANSWER_BYTES)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        status = _STATUS.match(head)
        if status is None or status[1] != b"200":
            raise Unavailable(f"{path.name} answers {head[:60]!r}")
        chunks, size = [], 0
        while chunk := await reader.read(1 << 16):
            chunks.append(chunk)
            size += len(chunk)
            if size > ANSWER_BYTES:
                raise Unavailable(f"{path.name} answers without end")
        return b"".join(chunks).decode()
    finally:
        writer.transport.abort()
