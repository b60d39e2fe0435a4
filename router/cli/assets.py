"""Local files on their way to the control plane: one tar per folder or file, named by the hash of its bytes.

The same files give the same bytes on every machine (sorted names, no times, no owners), so that what is already there
is never sent again. The tar is written twice, once into a hash and once into the socket, and never to the disk.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from router.cli.client import ControlPlane, path_of, refusal
from router.cli.ignoring import IgnoreRules
from router.contract.errors import TidegateError

BUFFER_BYTES = 1 << 18


class Unreadable(TidegateError):
    """A local file cannot be read, or changed while it was sent."""

    code = "BadArgument"
    status = 400


class Sink:
    """Where tarfile writes: counts, and passes on."""

    def __init__(self, consume: Callable[[bytes], object]) -> None:
        self.size = 0
        self._consume = consume

    def write(self, data: bytes) -> int:
        """Take `data`."""
        self.size += len(data)
        self._consume(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class Asset:
    """A packed file or folder."""

    source: Path
    sha256: str
    size: int
    """Bytes of the tar."""
    named: bool = False
    """A folder that stands in the tar under its own name, not as the tar's root."""

    @property
    def reference(self) -> str:
        """What stands in the document instead of the path."""
        is_root = self.source.is_dir() and not self.named
        return f"asset:{self.sha256}" if is_root else f"asset:{self.sha256}/{self.source.name}"


def members(source: Path, *, named: bool = False) -> Iterator[tuple[str, Path]]:
    """(name in the tar, path) of everything that is packed, in the tar's order. Links are followed, but not in circles."""
    if named or not source.is_dir():
        yield source.name, source
    if not source.is_dir():
        return
    rules = IgnoreRules.of(source)

    def walk(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, Path]]:
        for entry in sorted(os.scandir(folder), key=lambda item: item.name):
            name, path = prefix + entry.name, Path(entry.path)
            is_folder = entry.is_dir()
            if rules.skips(path.relative_to(source).as_posix(), folder=is_folder):
                continue
            yield name, path
            real = os.path.realpath(path)
            if is_folder and real not in above:
                yield from walk(path, name + "/", above | {real})

    yield from walk(source, f"{source.name}/" if named else "", frozenset({os.path.realpath(source)}))


def write_tar(source: Path, sink: Sink, *, named: bool = False) -> None:
    """Pack `source` into `sink`; the same files give the same bytes."""
    try:
        with tarfile.open(fileobj=cast("tarfile._Fileobj", sink), mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name, path in members(source, named=named):
                _add(tar, name, path)
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError):
            raise
        raise Unreadable(f"{error.filename or source}: {error.strerror or error}") from None


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    status = path.stat()
    if path.is_dir():
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    elif path.is_file():
        info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
        with path.open("rb") as file:
            tar.addfile(info, file)
    else:
        raise Unreadable(f"{path}: neither a file nor a folder")


def pack(source: Path, *, named: bool = False) -> Asset:
    """Hash the tar of `source`; with `named`, a folder keeps its name in it."""
    digest = hashlib.sha256()
    sink = Sink(digest.update)
    write_tar(source, sink, named=named)
    return Asset(source, digest.hexdigest(), sink.size, named)


def upload(control: ControlPlane, asset: Asset, sent: Callable[[int], None]) -> bool:
    """Send `asset` unless the control plane has it; returns whether it was sent. `sent` hears the bytes of each step."""
    path = path_of("assets", asset.sha256)
    head = control.exchange("HEAD", path)
    if head.status == 200:
        return False
    if head.status != 404:
        raise refusal(head)

    def send(connection: http.client.HTTPConnection) -> None:
        buffer = bytearray()

        def consume(data: bytes) -> None:
            buffer.extend(data)
            if len(buffer) >= BUFFER_BYTES:
                flush()

        def flush() -> None:
            connection.send(bytes(buffer))
            sent(len(buffer))
            buffer.clear()

        sink = Sink(consume)
        write_tar(asset.source, sink, named=asset.named)
        if sink.size != asset.size:
            raise Unreadable(f"{asset.source} changed while it was sent; run the command again")
        flush()

    headers = {"Content-Type": "application/x-tar", "Content-Length": str(asset.size)}
    reply = control.exchange("PUT", path, headers=headers, send=send)
    if reply.status >= 400:
        raise refusal(reply)
    return True
