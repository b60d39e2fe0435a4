"""Folders as plain tar archives, for files that travel between our processes.

Only plain files and folders pass: a link, a device, a sparse file or a name that leads out of the folder refuses the
whole archive. Packing gives the same bytes for the same files: sorted names, no times, no owners.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from router.contract.errors import TidegateError

MAX_MEMBERS = 200_000
"""Files and folders in one archive: bounds inodes and time."""
MAX_PATH_BYTES = 1024
MAX_DEPTH = 64
_CHUNK_BYTES = 1 << 20


class RefusedArchive(TidegateError):
    """The archive is not what it says, or holds what none may hold. Nothing of it was kept."""

    code = "BadArgument"
    status = 400


def unpack(tar: IO[bytes], folder: Path, *, durable: bool = False) -> None:
    """Unpack `tar`, read once from front to end, into the empty `folder`. `durable`: the files outlast a power cut.

    Raises `RefusedArchive` at the first member that is not harmless.
    """
    try:
        with tarfile.open(fileobj=tar, mode="r|", errorlevel=2) as archive:
            seen: set[str] = set()
            for member in archive:
                _check_member(member, seen)
                _write_member(archive, member, folder / member.name, durable=durable)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise RefusedArchive(f"the body is not a tar file without compression: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RefusedArchive(f"two members of the tar stand in each other's way: {error.strerror}") from error


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, *, durable: bool) -> None:
    """One checked member. No link was ever made below the folder, so no path can lead out of it."""
    if member.isdir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    source = archive.extractfile(member)
    if source is None:
        raise RefusedArchive(f"{member.name!r} has no content")
    with source, path.open("xb") as target:
        shutil.copyfileobj(source, target, _CHUNK_BYTES)
        target.flush()
        os.fchmod(target.fileno(), 0o755 if member.mode & 0o100 else 0o644)
        if durable:
            os.fsync(target.fileno())  # the folder's name must never be there without its bytes


def _check_member(member: tarfile.TarInfo, seen: set[str]) -> None:
    name = member.name
    parts = name.split("/")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise RefusedArchive(f"{name!r} is neither a plain file nor a folder: copy what links point to")
    if name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise RefusedArchive(f"{name!r} leads out of the asset: only relative paths without .. are taken")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        raise RefusedArchive(f"a path may have {MAX_PATH_BYTES} bytes and {MAX_DEPTH} parts at most: {name[:80]!r}…")
    if member.isreg() and name in seen:
        raise RefusedArchive(f"{name!r} is in the tar twice")
    seen.add(name)
    if len(seen) > MAX_MEMBERS:
        raise RefusedArchive(f"an archive may have {MAX_MEMBERS} files and folders at most")


def packed(folder: Path) -> Iterator[bytes]:
    """`folder` as a tar archive, piece by piece. Raises OSError when a file cannot be read or has changed meanwhile."""
    for path in _walk(folder):
        info = tarfile.TarInfo(path.relative_to(folder).as_posix())
        status = path.stat()
        if path.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            yield info.tobuf(tarfile.PAX_FORMAT)
        else:
            info.size, info.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
            yield info.tobuf(tarfile.PAX_FORMAT)
            yield from _content(path, info.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        yield Path(entry.path)
        if entry.is_dir():
            yield from _walk(Path(entry.path))


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb") as file:
        while left:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise OSError(f"{path} has become shorter while it was read")
            left -= len(chunk)
            yield chunk
    yield bytes(-size % tarfile.BLOCKSIZE)
