"""A mirror that only takes frames and says DONE when told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from router.contract.tee import Decoder, Kind, Open, frame, parse_open


@dataclass
class Taken:
    """One shadow as it arrived."""

    opening: Open
    head: bytes
    body: bytes = b""
    response: bytes = b""
    response_body: bytes = b""
    kinds: list[Kind] = field(default_factory=list)
    ending: bytes = b""
    dropped: str = ""

    @property
    def over(self) -> bool:
        """Whether its last frame is here."""
        return self.kinds[-1] in (Kind.END, Kind.DROP)


class FakeMirror:
    """Listens where the gateway tees to."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.shadows: dict[int, Taken] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def finished(self) -> list[Taken]:
        """Those that are complete or dropped."""
        return [one for one in self.shadows.values() if one.over]

    @property
    def connected(self) -> bool:
        """Whether a gateway is there."""
        return bool(self._writers)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[FakeMirror]:
        """For as long as the block runs."""
        server = await asyncio.start_unix_server(self._serve, str(path))
        try:
            yield self
        finally:
            server.close()
            self.cut()
            while self._writers:
                await asyncio.sleep(0.001)
            path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        decoder = Decoder()
        try:
            while data := await reader.read(1 << 18):
                for kind, number, payload in decoder.feed(data):
                    self._take(kind, number, payload)
                    if self.answers and kind in (Kind.END, Kind.DROP):
                        writer.write(frame(Kind.DONE, number))
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.OPEN:
            self.shadows[number] = Taken(*parse_open(payload))
        shadow = self.shadows[number]
        shadow.kinds.append(kind)
        if kind is Kind.BODY:
            shadow.body += payload
        elif kind is Kind.RESPONSE:
            shadow.response = payload
        elif kind is Kind.RESPONSE_BODY:
            shadow.response_body += payload
        elif kind is Kind.END:
            shadow.ending = payload
        elif kind is Kind.DROP:
            shadow.dropped = payload.decode()
