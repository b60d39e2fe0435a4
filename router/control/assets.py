"""Uploaded code, models and conda files: content-addressed folders that are there whole or not at all.

An upload streams into a file beside the folder, is checked against the hash it was announced with, unpacked into a
temporary folder and renamed into place. `router.runtime.archives` says what an upload may hold. A tar that is not
compressed cannot be larger inside than outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from router.contract.errors import TidegateError, Unavailable
from router.control.asset_references import Reference
from router.runtime.archives import RefusedArchive, packed, unpack

MAX_BYTES = 64 << 30
"""Largest upload; models of tens of gigabytes are usual."""
_INCOMING = ".incoming"


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

    def stream(self, sha256: str) -> Iterator[bytes] | None:
        """The asset as a tar archive, piece by piece; None when there is none. Each piece waits for the disk."""
        return packed(self._root / sha256) if self.exists(Reference(sha256, "")) else None

    async def store(self, sha256: str, chunks: AsyncIterator[bytes]) -> bool:
        """Take an upload; returns whether it is new. Raises `RefusedArchive`, `AssetTooLarge` or `Unavailable`."""
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
            raise RefusedArchive(
                f"the body's SHA-256 is {digest.hexdigest()}, not {sha256} as in the address: send it again, or name it right"
            )

    def _place(self, work: Path, sha256: str) -> bool:
        folder = work / "folder"
        folder.mkdir(mode=0o700)
        with (work / "tar").open("rb") as tar:
            unpack(tar, folder, durable=True)
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
