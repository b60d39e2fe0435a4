"""Unix sockets that processes find by their path: each appears there in one step and goes with whoever put it there.

One that ends and its successor may be at the same path at the same time. Whoever puts a socket there or takes it away holds
the folder's lock meanwhile: else the one that ends could look, find its own, and take away what its successor has put there since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path


class Door:
    """A socket that listens at a path, for the owner alone."""

    def __init__(self, path: Path, backlog: int) -> None:
        """Listen in the place of whatever is at `path`. Raises `OSError`."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._path = path
        self._inode: int | None = None
        fresh = f"{path.name}.new"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(path.parent) as folder, _alone(folder):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fresh, dir_fd=folder)
                self.socket.bind(_address(folder, fresh))
                os.chmod(fresh, 0o600, dir_fd=folder)
                self.socket.listen(backlog)
                self._inode = os.stat(fresh, dir_fd=folder).st_ino
                os.rename(fresh, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            self.socket.close()
            raise

    def leave(self) -> None:
        """Nobody finds it any more, unless a successor has its own there by now. To be called while it still listens.

        So long as it does no other file has its inode's number.
        """
        inode, self._inode = self._inode, None
        if inode is None:
            return
        with contextlib.suppress(FileNotFoundError), _opened(self._path.parent) as folder, _alone(folder):
            if os.stat(self._path.name, dir_fd=folder).st_ino == inode:
                os.unlink(self._path.name, dir_fd=folder)

    def close(self) -> None:
        """Leave, and listen no more."""
        self.leave()
        self.socket.close()


@contextlib.contextmanager
def reached(path: Path) -> Iterator[str]:
    """An address of the socket at `path`, good while inside: through a descriptor, as addresses are too short for long paths."""
    with _opened(path.parent) as folder:
        yield _address(folder, path.name)


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(folder: int) -> Iterator[None]:
    """Of all who put sockets here or take them away. For microseconds: it stops the loop."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)
