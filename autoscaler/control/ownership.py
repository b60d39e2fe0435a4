"""One autoscaler per data folder, by a lock that dies with its process; and which endpoints it may act for.

Without others, all of them, with a generation that only counts up. Among others, those of the share that was dealt; and
when at a start nobody can say what is dealt, those of the share that was last, which is noted in the folder: a machine
cut off from the broker goes on with what was its own. Should somebody else have got it meanwhile, then with a higher
generation, and against that a remembered share never raises its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import NamedTuple

from router.contract.errors import Conflict
from router.runtime.clock import Clock
from router.runtime.log.base import Member, Share

_LOG = logging.getLogger(__name__)

FILE = "autoscaler.owner"
SHARE_FILE = "autoscaler.share"
ASSUME_SECONDS = 5.0
"""How long a broker may take to say what our share is before the last one is taken for it."""
LOOK_SECONDS = 0.5
"""Between two looks at a share, because nobody announces that one is taken from memory."""
WIDTH = 20
"""Digits: the number is overwritten in place, so that no crash can leave it empty."""
POLL_SECONDS = 0.05


class Ownership:
    """The lock, held until `release`, and the generation it came with."""

    def __init__(self, handle: int, generation: int) -> None:
        self._handle: int | None = handle
        self.generation = generation

    def raise_above(self, generation: int) -> None:
        """Make the generation greater than `generation`, which the log has already seen."""
        if self._handle is not None and self.generation <= generation:
            self.generation = generation + 1
            _store(self._handle, self.generation)

    def release(self) -> None:
        """Let the next owner in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


async def take(root: Path, *, wait_seconds: float = 10.0) -> Ownership:
    """Own the deployments of the data folder `root`, with a generation above every earlier one.

    Waits for a predecessor that is about to end; raises `Conflict` when it does not within `wait_seconds`.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(root / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _lock(handle, root, wait_seconds)
        stored = os.pread(handle, WIDTH, 0).strip()
        generation = (int(stored) if stored.isdigit() else 0) + 1
        _store(handle, generation)
    except BaseException:
        os.close(handle)
        raise
    return Ownership(handle, generation)


async def _lock(handle: int, root: Path, wait_seconds: float) -> None:
    for _ in range(max(1, round(wait_seconds / POLL_SECONDS))):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(POLL_SECONDS)
        else:
            return
    raise Conflict(f"another autoscaler owns {root}: stop it first, or use another data folder")


def _store(handle: int, generation: int) -> None:
    os.pwrite(handle, str(generation).zfill(WIDTH).encode(), 0)
    os.fsync(handle)


class Note(NamedTuple):
    """The last share that was dealt to the autoscaler of a data folder."""

    share: Share
    least: int
    """Generations up to this one were used in the folder before it shared anything."""


class Mandate:
    """What this autoscaler may act for, at every moment."""

    def __init__(
        self,
        member: Member,
        owner: Ownership,
        root: Path,
        partitions: int,
        clock: Clock,
        *,
        assume_seconds: float = ASSUME_SECONDS,
    ) -> None:
        """`partitions`: of the log. `assume_seconds`: see `ASSUME_SECONDS`."""
        self.alone = bool(member.share.partitions) and member.share.generation == 0
        """Whether there is nobody to share with."""
        self._member = member
        self._owner = owner
        self._path = root / SHARE_FILE
        self._partitions = partitions
        self._clock = clock
        self._from = clock.monotonic() + assume_seconds
        if self.alone:
            self._path.unlink(missing_ok=True)
        self._note = _read_note(self._path, partitions) or Note(Share(frozenset(), 0), owner.generation - 1)

    @property
    def share(self) -> Share:
        """What may be acted for now."""
        return self._note.share if self.assumed else self._member.share

    @property
    def dealt(self) -> bool:
        """Whether `share` is an answer, if only from memory, and not just silence."""
        return self.alone or self.share.generation > 0

    @property
    def assumed(self) -> bool:
        """Whether `share` is from memory, because nobody can be reached to deal."""
        silent = not self._member.share.partitions and not self._member.share.generation
        return silent and not self._member.reachable and self._clock.monotonic() >= self._from

    @property
    def confirmed(self) -> bool:
        """Whether whoever deals says so now."""
        return self.alone or (self._member.reachable and self._member.share.generation > 0)

    @property
    def floor(self) -> int:
        """The least generation to act with."""
        return self._owner.generation if self.alone else max(self.share.generation, self._note.least)

    async def news(self) -> None:
        """Return when the share may have become another one: as soon as it is dealt, and else now and then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._member.changed()

    def used(self, generation: int) -> None:
        """Note the share that was dealt, and that nothing above `generation` has been used in this folder."""
        self._owner.raise_above(generation - 1)
        if self.alone or self.assumed or not self.dealt or self._note.share == self.share:
            return
        self._note = Note(self.share, self._note.least)
        body = {
            "partitions": sorted(self.share.partitions),
            "generation": self.share.generation,
            "of": self._partitions,
            "least": self._note.least,
        }
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)


def _read_note(path: Path, partitions: int) -> Note | None:
    try:
        body = json.loads(path.read_text())
        share = Share(frozenset(int(one) for one in body["partitions"]), int(body["generation"]))
        least = int(body["least"])
        if body["of"] != partitions:
            _LOG.warning("%s is about %s partitions, not %d, and is left out", path, body["of"], partitions)
            share = Share(frozenset(), 0)
        return Note(share, least)
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError) as error:
        _LOG.warning("the share noted in %s cannot be read and is left out: %r", path, error)
        return None
