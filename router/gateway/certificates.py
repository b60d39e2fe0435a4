"""Certificates and their keys in files: which pairs there are, what each is good for, and whether they have changed.

A pair serves only after it has served once: a handshake in memory tells whether key and certificate belong together and
OpenSSL takes them, and whom the certificate names. A pair that does not is told with its file and the reason; whoever has
an older one of it keeps that.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secret and authenticated, nothing else. Those of TLS 1.3 are all so."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: whether it has expired is for the callers to mind."""
_MOST_TURNS = 10


class BadPair(ValueError):
    """These files cannot serve. `file` is the one to look at, `reason` says what must change."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pair:
    """Two PEM files: the certificate with those that vouch for it, and its private key."""

    name: str
    """What it is called in its folder; empty for the default."""
    chain: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A pair that serves."""

    pair: Pair
    context: ssl.SSLContext
    hosts: tuple[str, ...]
    """DNS names it is for, lower case; `*.example.com` stands for one label."""
    expires: float
    """Unix seconds."""


def bare_context(protocols: Sequence[str]) -> ssl.SSLContext:
    """How this gateway speaks TLS, yet without a certificate. `protocols`: for ALPN, the preferred one first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    context.num_tickets = 1  # each costs a handshake 8 % more, and each resumption brings a new one
    context.set_alpn_protocols(list(protocols))
    return context


class _Encrypted(Exception):
    """The private key asks for a password."""


def load(pair: Pair, protocols: Sequence[str]) -> Certificate:
    """Read a pair and try it. Raises `BadPair`."""
    context = bare_context(protocols)
    for file in (pair.chain, pair.key):
        try:
            file.read_bytes()  # the ssl module does not say which file it could not read
        except OSError as error:
            raise BadPair(file, f"cannot be read: {error.strerror}") from None
    _load_chain(context, pair)
    told = _try(context, pair)
    names = cast("tuple[tuple[str, str], ...]", told.get("subjectAltName", ()))
    hosts = tuple(value.lower() for kind, value in names if kind == "DNS")
    return Certificate(pair, context, hosts, ssl.cert_time_to_seconds(str(told["notAfter"])))


def _load_chain(context: ssl.SSLContext, pair: Pair) -> None:
    def ask() -> str:  # without it, OpenSSL would ask on the terminal
        raise _Encrypted

    try:
        context.load_cert_chain(pair.chain, pair.key, ask)
    except _Encrypted:
        fix = f"openssl pkey -in {pair.key} -out FILE, readable by its owner alone"
        raise BadPair(pair.key, f"must hold a key without a password: {fix}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadPair(pair.key, f"is not the key of the certificate in {pair.chain}") from None
        file = _not_pem(pair) or pair.chain
        raise BadPair(file, f"must hold a certificate or its key in PEM: {error.reason or error}") from None


def _not_pem(pair: Pair) -> Path | None:
    """The file of the two without the block that should be in it, which the ssl module does not tell."""
    for file, block in ((pair.chain, b"-----BEGIN CERTIFICATE-----"), (pair.key, b"PRIVATE KEY-----")):
        if block not in file.read_bytes():
            return file
    return None


def _try(context: ssl.SSLContext, pair: Pair) -> dict[str, Any]:
    """What the certificate says, told by a handshake in memory. Raises `BadPair`."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        client.load_verify_locations(pair.chain)
        return _shaken(client, context)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        raise BadPair(pair.chain, f"is no certificate for a server: {reason}") from None


def _shaken(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_MOST_TURNS):
        for side in (near, far):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        if far.version() is not None and near.getpeercert(binary_form=True):
            break
    return dict(near.getpeercert() or {})


def pairs_in(folder: Path) -> Iterator[Pair]:
    """`NAME.crt` beside `NAME.key`, and folders with `tls.crt` and `tls.key`, as Kubernetes mounts secrets.

    Half a pair counts, so that what is missing is told. Raises `BadPair` when the folder cannot be read.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise BadPair(folder, f"is no folder that can be read: {error.strerror}") from None
    found: dict[str, Pair] = {}
    for name in names:
        path = folder / name
        stem, dot, ending = name.rpartition(".")
        if dot and ending in ("crt", "key"):
            found.setdefault(stem, Pair(stem, folder / f"{stem}.crt", folder / f"{stem}.key"))
        elif (path / "tls.crt").exists() or (path / "tls.key").exists():
            found.setdefault(name, Pair(name, path / "tls.crt", path / "tls.key"))
    yield from found.values()


Print = tuple[int, ...]
"""Of a pair's files as they are now; another one means that somebody has written."""


def fingerprint(pair: Pair) -> Print:
    """inode, size and time of both files; zeros for one that is not there."""
    found: list[int] = []
    for file in (pair.chain, pair.key):
        try:
            about = os.stat(file)
        except OSError:
            found += (0, 0, 0)
        else:
            found += (about.st_ino, about.st_size, about.st_mtime_ns)
    return tuple(found)
