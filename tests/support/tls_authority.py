"""An authority and what it vouches for, made with `openssl` at run time; and a caller that speaks TLS record by record."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway_rig import PATIENCE

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
_RSA = ("-newkey", "rsa:2048")


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as PEM files."""

    chain: Path
    key: Path


class Authority:
    """What vouches for certificates, in a folder of its own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl, which makes the certificates, is not installed")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "authority.crt"
        self._key = folder / "authority.key"
        self._openssl(
            "req", "-x509", *_EC, "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", self._key, "-out",
            self.certificate,
        )  # fmt: skip

    def issue(self, name: str, hosts: Sequence[str] = (), *, rsa: bool = False, days: int = 30) -> Issued:
        """A pair for these hosts (names or addresses); with none, for a client."""
        issued = Issued(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        kinds = ["IP" if host.replace(".", "").isdigit() else "DNS" for host in hosts]
        names = ",".join(f"{kind}:{host}" for kind, host in zip(kinds, hosts, strict=True))
        extensions = [f"subjectAltName={names}"] if hosts else ["extendedKeyUsage=clientAuth"]
        self._openssl(
            "req", "-x509", *(_RSA if rsa else _EC), "-nodes", "-days", str(days), "-subj", f"/CN={name}", "-CA",
            self.certificate, "-CAkey", self._key, "-keyout", issued.key, "-out", issued.chain, "-addext",
            "basicConstraints=CA:FALSE", *(word for one in extensions for word in ("-addext", one)),
        )  # fmt: skip
        return issued

    def trusted(self) -> ssl.SSLContext:
        """A client's context that believes this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.certificate)
        return context

    def _openssl(self, *words: str | Path) -> None:
        done = subprocess.run(
            ["openssl", *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr


class TlsCaller:
    """One connection under TLS whose every record a test decides about. Reads as `StreamReader` does."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str | None
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.clean = False
        """Whether the other end has said close_notify."""

    async def _more(self) -> bool:
        data = await asyncio.wait_for(self.reader.read(65536), PATIENCE)
        self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        self.writer.write(self._outgoing.read())

    def hello(self) -> bytes:
        """The handshake's first bytes, unsent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    async def shake(self) -> None:
        """The handshake. Raises `ssl.SSLError`, or `EOFError` where the other end leaves."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not await self._more():
                    raise EOFError("the other end left inside the handshake") from None
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        """These bytes, encrypted."""
        self.tls.write(data)
        self._flush()

    async def read(self, size: int = 65536) -> bytes:
        """Some bytes; none at the end, whether it was said (`clean`) or happened."""
        while True:
            try:
                found = self.tls.read(size)
            except ssl.SSLWantReadError:
                if not await self._more():
                    return b""
            except ssl.SSLZeroReturnError:
                found = b""
                self.clean = True
                return found
            else:
                self.clean = not found
                return found

    async def everything(self) -> bytes:
        """What comes until the other end ends it."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := await self.read():
                found += piece
        return found

    def say_close(self) -> None:
        """Our close_notify: nothing more will be sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()


@contextlib.asynccontextmanager
async def tls_caller(
    port: int, context: ssl.SSLContext, name: str | None = "localhost", *, shaken: bool = True
) -> AsyncIterator[TlsCaller]:
    """A connection for as long as the block runs; `name` is the host that is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = TlsCaller(reader, writer, context, name)
    try:
        if shaken:
            await connection.shake()
        yield connection
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
