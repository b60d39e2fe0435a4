"""Uploaded code, models and conda files: content-addressed folders that are there whole or not at all.

An upload streams into a file beside the folder, is checked against the hash it was announced with, unpacked into a
temporary folder and renamed into place. Only plain files and folders pass: a link, a device, a sparse file or a name
that leads out of the folder refuses the whole upload. A tar that is not compressed cannot be larger inside than outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from router.contract.errors import TidegateError, Unavailable
from router.control.asset_references import Reference

MAX_BYTES = 64 << 30
"""Largest upload; models of tens of gigabytes are usual."""
MAX_MEMBERS = 200_000
"""Files and folders in one upload: bounds inodes and time."""
MAX_PATH_BYTES = 1024
MAX_DEPTH = 64
_INCOMING = ".incoming"


class RefusedAsset(TidegateError):
    """The upload is not what it says, or holds what no asset may hold. Nothing of it was kept."""

    code = "BadArgument"
    status = 400


class AssetTooLarge(TidegateError):
    """The upload is beyond `max_bytes`."""

    code = "PayloadTooLarge"
    status = 413


class Assets:
    """The folder of assets."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        self._root = root
        self._max_bytes = max_bytes

    def clean(self) -> None:
        """At the start: remove what uploads left behind that were cut off by a crash."""
        shutil.rmtree(self._root / _INCOMING, ignore_errors=True)
        (self._root / _INCOMING).mkdir(parents=True, mode=0o700)

    def exists(self, reference: Reference) -> bool:
        """Whether the asset, and the path in it, is there."""
        return (self._root / reference.sha256 / reference.path).exists()

    async def store(self, sha256: str, chunks: AsyncIterator[bytes]) -> bool:
        """Take an upload; returns whether it is new. Raises `RefusedAsset`, `AssetTooLarge` or `Unavailable`."""
        work = self._root / _INCOMING / uuid.uuid4().hex
        try:
            work.mkdir(mode=0o700)
            await self._receive(work / "tar", sha256, chunks)
            return await asyncio.to_thread(self._place, work, sha256)
        except OSError as error:
            raise Unavailable(f"the asset could not be stored: {error.strerror or error}") from error
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))

    async def _receive(self, path: Path, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise AssetTooLarge(f"an asset may have {self._max_bytes} bytes at most")
                await asyncio.to_thread(_take, file, digest, chunk)
        if digest.hexdigest() != sha256:
            raise RefusedAsset(
                f"the body's SHA-256 is {digest.hexdigest()}, not {sha256} as in the address: send it again, or name it right"
            )

    def _place(self, work: Path, sha256: str) -> bool:
        folder = work / "folder"
        folder.mkdir(mode=0o700)
        unpack(work / "tar", folder)
        try:
            os.rename(folder, self._root / sha256)
        except OSError:
            if self.exists(Reference(sha256, "")):
                return False
            raise
        _sync_folder(self._root)
        return True


def _take(file: BinaryIO, digest: hashlib._Hash, chunk: bytes) -> None:
    file.write(chunk)
    digest.update(chunk)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unpack(tar: Path, folder: Path) -> None:
    """Unpack `tar` into the empty `folder`; raises `RefusedAsset` at the first member that is not harmless."""
    try:
        with tarfile.open(tar, "r:", errorlevel=2) as archive:
            seen: set[str] = set()
            for member in archive:
                _check_member(member, seen)
                _write_member(archive, member, folder / member.name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise RefusedAsset(f"the body is not a tar file without compression: {error}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RefusedAsset(f"two members of the tar stand in each other's way: {error.strerror}") from error


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """One checked member. No link was ever made below the folder, so no path can lead out of it."""
    if member.isdir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    source = archive.extractfile(member)
    if source is None:
        raise RefusedAsset(f"{member.name!r} has no content")
    with source, path.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fchmod(target.fileno(), 0o755 if member.mode & 0o100 else 0o644)
        os.fsync(target.fileno())  # the asset's name must never be there without its bytes


def _check_member(member: tarfile.TarInfo, seen: set[str]) -> None:
    name = member.name
    parts = name.split("/")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise RefusedAsset(f"{name!r} is neither a plain file nor a folder: copy what links point to")
    if name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise RefusedAsset(f"{name!r} leads out of the asset: only relative paths without .. are taken")
    if len(name.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        raise RefusedAsset(f"a path may have {MAX_PATH_BYTES} bytes and {MAX_DEPTH} parts at most: {name[:80]!r}…")
    if member.isreg() and name in seen:
        raise RefusedAsset(f"{name!r} is in the tar twice")
    seen.add(name)
    if len(seen) > MAX_MEMBERS:
        raise RefusedAsset(f"an asset may have {MAX_MEMBERS} files and folders at most")
