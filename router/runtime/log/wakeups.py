"""Wake-ups between processes: each reader binds a Unix datagram socket, a writer sends one byte to each after a commit.

A wake-up is a hint. A lost one costs at most a poll interval, a needless one costs a query. The file name says which
topics the reader wants, so that rare topics are not woken by busy ones: `<pid>-<random>.<topic+topic>`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

_NAME_BYTES = 80
"""Longest file name that fits a socket address (108 bytes) behind `/proc/self/fd/N/`."""
_SETTLED_NS = 50_000_000
"""Age of the folder's time stamp from which a listing of it may be kept: stamps move in steps of some milliseconds,
and two changes within one step look like one."""


class _Folder:
    """The wake folder, reached through a descriptor: socket addresses are too short for long paths."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def address(self, name: str) -> str:
        return f"/proc/self/fd/{self.fd}/{name}"

    def unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _suffix(topics: Iterable[str]) -> str:
    """`a+b` for plain topic names, empty (= everything) when they do not fit a file name."""
    names = sorted(set(topics))
    joined = "+".join(names)
    return joined if len(joined) <= _NAME_BYTES - 30 and all(re.fullmatch(r"[\w-]+", n) for n in names) else ""


def _datagram() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Listener:
    """The reader's end: a non-blocking socket that becomes readable when one of `topics` was written."""

    def __init__(self, folder: Path, topics: Iterable[str]) -> None:
        self._folder = _Folder(folder)
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}.{_suffix(topics)}"
        self.socket = _datagram()
        try:
            self.socket.bind(self._folder.address(self._name))
        except OSError:
            self.socket.close()
            self._folder.close()
            raise

    def drain(self) -> bool:
        """Take the wake-ups that wait, and say whether there was one."""
        woken = False
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(1):
                woken = True
        return woken

    def close(self) -> None:
        """Stop listening. May be repeated."""
        if self._folder.fd >= 0:
            self._folder.unlink(self._name)
        self.socket.close()
        self._folder.close()


class _Peer(NamedTuple):
    """A listener as a writer knows it. Unread wake-ups count against the socket that sent them, so each listener has
    one of its own: readers that stand still cannot use up the sending space of the others.
    """

    socket: socket.socket
    topics: frozenset[str]


class Bell:
    """The writer's end. Used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = _Folder(folder)
        self._stamp_ns = -1
        self._peers: dict[str, _Peer] = {}

    def ring(self, topics: Collection[str]) -> None:
        """Wake every reader of one of `topics`; removes the sockets of readers that died."""
        self._look()
        for name, peer in self._peers.items():
            if peer.topics and peer.topics.isdisjoint(topics):
                continue
            try:
                peer.socket.sendto(b"\0", self._folder.address(name))
            except BlockingIOError:
                continue  # its queue is full of wake-ups already
            except ConnectionRefusedError:
                self._folder.unlink(name)
            except FileNotFoundError:
                self._stamp_ns = -1

    def _look(self) -> None:
        """Find out who listens, if that may have changed since the last look."""
        stamp_ns = os.fstat(self._folder.fd).st_mtime_ns
        if stamp_ns == self._stamp_ns:
            return
        names = set(os.listdir(self._folder.fd))
        for name in self._peers.keys() - names:
            self._peers.pop(name).socket.close()
        for name in names - self._peers.keys():
            self._peers[name] = _Peer(_datagram(), frozenset(filter(None, name.partition(".")[2].split("+"))))
        self._stamp_ns = stamp_ns if time.time_ns() - stamp_ns > _SETTLED_NS else -1

    def close(self) -> None:
        """Let go of the sockets. May be repeated."""
        while self._peers:
            self._peers.popitem()[1].socket.close()
        self._folder.close()
