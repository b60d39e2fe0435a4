"""Asking a replica how it is. The decision is a value (`Streak`), the question one short HTTP exchange."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass

from router.contract.specs import Probe
from router.runtime.http2.frames import HEADER_BYTES, PREFACE, SETTINGS, frame

_DRAIN_SECONDS = 0.05


@dataclass(slots=True)
class Streak:
    """How often in a row a probe gave the same answer."""

    probe: Probe
    successes: int = 0
    failures: int = 0

    def passed(self, ok: bool) -> bool | None:
        """Count one answer. True or False when the threshold is reached, None while it is open."""
        if ok:
            self.successes, self.failures = self.successes + 1, 0
            return True if self.successes >= self.probe.success_threshold else None
        self.successes, self.failures = 0, self.failures + 1
        return False if self.failures >= self.probe.failure_threshold else None


def startup_seconds(readiness: Probe, startup: Probe | None) -> float:
    """Longest time from a server's start to its first readiness: the start-up probe's patience, else readiness's."""
    probe = startup or readiness
    return probe.initial_delay + probe.period * probe.failure_threshold


def pause_seconds(age_seconds: float) -> float:
    """Time between two questions while a server starts: dense at first, because a caller may be waiting.

    The periods of the YAML hold once it is ready. Early failures do not count, an early success does.
    """
    return 0.05 if age_seconds < 10 else min(0.5, age_seconds / 200)


async def answers(host: str, port: int, path: str, timeout_seconds: float, *, secure: bool = False) -> bool:
    """Whether `GET path` is answered with a status from 200 to 399 in time; `secure`: over TLS.

    Whose certificate that is does not matter here, nor to kubelets: the question is whether the server lives.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return await (_get_over_tls if secure else _get)(host, port, path)
    except (OSError, TimeoutError, ValueError):
        return False


async def greets(host: str, port: int, timeout_seconds: float, *, secure: bool = False) -> bool:
    """Whether HTTP/2 is spoken there: a server of gRPC has no route that could be asked for, but it tells its settings."""
    context = _unasked("h2") if secure else None
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                writer.write(PREFACE + frame(SETTINGS, 0, 0))
                head = await reader.readexactly(HEADER_BYTES)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    return head[3] == SETTINGS


def _unasked(protocol: str) -> ssl.SSLContext:
    """TLS with whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def _question(host: str, port: int, path: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: tidegate-probe\r\nConnection: close\r\n\r\n"
    return head.encode()


def _is_good(data: bytes) -> bool:
    """Of the begin of an answer. Raises `ValueError` for what is none."""
    version, _, rest = data.partition(b" ")
    return version.startswith(b"HTTP/1.") and 200 <= int(rest[:3]) < 400


async def _get_over_tls(host: str, port: int, path: str) -> bool:
    reader, writer = await asyncio.open_connection(host, port, ssl=_unasked("http/1.1"))
    try:
        writer.write(_question(host, port, path))
        return _is_good(await reader.readline())
    finally:
        writer.transport.abort()


async def _get(host: str, port: int, path: str) -> bool:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, _question(host, port, path))
        data = b""
        while b"\r\n" not in data and len(data) < 1024:
            more = await loop.sock_recv(sock, 4096)
            if not more:
                break
            data += more
        # The rest is read so that the server does not see a reset, but the answer is known: a server that keeps the
        # connection open although it was asked to close is not waited for.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                for _ in range(64):
                    if not await loop.sock_recv(sock, 65536):
                        break
    return _is_good(data)
