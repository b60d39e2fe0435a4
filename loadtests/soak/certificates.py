"""The certificates that the gateway under TLS shows, one after the other, and what its callers believe: this authority, and of its
certificates the newest, once the gateway has had time to take it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
import time
from pathlib import Path

from loadtests.soak.line import SERVER, Wrong

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def missing() -> str:
    """What the machine has not got that certificates are made with; empty where nothing is missing."""
    return "" if shutil.which("openssl") else "the soak makes certificates with openssl, and there is none on the path"


class Certificates:
    """In a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.chain, self.key = folder / "gateway.crt", folder / "gateway.key"
        """What the gateway is given."""
        self.serial = 0
        """Of the newest one."""
        self._shown = float("inf")
        """When it was first seen: who begins a handshake later must get it."""

    async def create(self) -> None:
        """The authority and a first certificate. Raises `RuntimeError` where they cannot be made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        await self._openssl("req", "-x509", *_NEW_KEY, "-subj", "/CN=soak", "-keyout", "ca.key", "-out", "ca.crt")
        self.http1, self.http2 = self._trusting("http/1.1"), self._trusting("h2")
        await self.renew()
        self._shown = time.monotonic()

    def _trusting(self, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self._folder / "ca.crt")
        context.set_alpn_protocols([protocol])
        return context

    async def renew(self) -> None:
        """Put a new pair where the gateway looks; `is_shown` tells when it has been seen."""
        await self._openssl(
            "req", "-x509", *_NEW_KEY, "-subj", f"/CN={SERVER}", "-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial",
            str(self.serial + 1), "-addext", f"subjectAltName=DNS:{SERVER}", "-addext", "basicConstraints=CA:FALSE",
            "-keyout", "next.key", "-out", "next.crt",
        )  # fmt: skip
        self._shown = float("inf")
        self.serial += 1
        os.replace(self._folder / "next.key", self.key)
        os.replace(self._folder / "next.crt", self.chain)

    def is_shown(self, tls: ssl.SSLObject) -> bool:
        """Whether this handshake brought the newest one; from then on all must."""
        newest = _serial(tls) == self.serial
        if newest:
            self._shown = min(self._shown, time.monotonic())
        return newest

    def check(self, tls: ssl.SSLObject, opening: float) -> None:
        """Of a handshake that was begun at `opening`. Raises `Wrong` for an old certificate after a new one."""
        if not self.is_shown(tls) and opening > self._shown:
            raise Wrong(f"certificate {_serial(tls)} is shown, although {self.serial} was before")

    async def _openssl(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            "openssl", *words, cwd=self._folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"openssl {' '.join(words)}: {said.decode(errors='replace')}")


def _serial(tls: ssl.SSLObject) -> int:
    shown = tls.getpeercert() or {}
    return int(str(shown.get("serialNumber", "0")), 16)
