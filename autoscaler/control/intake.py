"""From the log's bytes to facts: specs and its own last `replicas` whole, demand from the recent past on.

Where demand stood a few minutes ago is noted in a file now and then, so that a restart replays minutes, not a day.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from autoscaler.control.reconciler import Reconciler
from autoscaler.policy.demand import Heard
from router.contract.codec import Malformed, UnknownSchema, decode_demand, decode_replicas, decode_specs
from router.contract.events import DEMAND, REPLICAS, SPECS
from router.runtime.log.base import Log, Message, Position, Reader

_LOG = logging.getLogger(__name__)

REPLAY_NS = 600 * 10**9
"""How much of the demand is read again at the start: longer than the default idle time."""
NOTE_NS = 30 * 10**9
"""Between two notes of the position."""
FILE = "autoscaler.positions"


class Intake:
    """A reader of the log and the reconciler it feeds."""

    def __init__(self, log: Log, root: Path, reconciler: Reconciler, now_ns: int) -> None:
        self._reconciler = reconciler
        self._from_ns = now_ns - REPLAY_NS
        self._places = Places(root / FILE)
        start = self._places.before(self._from_ns)
        self._reader: Reader = log.reader((SPECS, REPLICAS, DEMAND), start or "earliest")
        self.skipped = 0
        """Messages of a version or shape that this reader does not know."""

    async def catch_up(self) -> None:
        """Read everything that was on the log before this call."""
        while not await self._reader.caught_up():
            self._take(await self._reader.next(1.0))

    async def next(self, now_ns: int) -> bool:
        """Read on, waiting for at least one message. True when a decision should not wait."""
        urgent = self._take(await self._reader.next(None))
        self._places.note([one for one in self._reader.positions() if one.topic == DEMAND], now_ns)
        return urgent

    async def close(self) -> None:
        """Stop reading."""
        await self._reader.close()

    def _take(self, messages: Sequence[Message]) -> bool:
        # Every message has to be taken, so no short cut at the first urgent one.
        return sum([self._take_one(message) for message in messages]) > 0

    def _take_one(self, message: Message) -> bool:
        try:
            if message.topic == DEMAND:
                if message.time_ns < self._from_ns:
                    return False
                heard = Heard(message.writer, message.sequence, decode_demand(message.value))
                return self._reconciler.take_demand(heard)
            if message.topic == SPECS:
                self._reconciler.take_specs(decode_specs(message.value))
                return True
            self._reconciler.take_replicas(decode_replicas(message.value))
        except (UnknownSchema, Malformed) as error:
            self.skipped += 1
            _LOG.warning("a message on %s was skipped: %s", message.topic, error, extra={"offset": message.offset})
        return False


class Places:
    """Where demand stood at some moments of the last minutes: a small file, replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted: list[tuple[int, list[Position]]] = self._load()

    def before(self, at_ns: int) -> list[Position]:
        """The newest note that is not younger than `at_ns`, or none: then everything is read."""
        fitting = [positions for noted_ns, positions in self._noted if noted_ns <= at_ns]
        return fitting[-1] if fitting else []

    def note(self, positions: list[Position], now_ns: int) -> None:
        """Remember `positions`, now and then."""
        if self._noted and now_ns - self._noted[-1][0] < NOTE_NS:
            return
        old = [one for one in self._noted if one[0] <= now_ns - REPLAY_NS][-1:]
        self._noted = [*old, *(one for one in self._noted if one[0] > now_ns - REPLAY_NS), (now_ns, positions)]
        text = json.dumps([[noted_ns, [list(one) for one in places]] for noted_ns, places in self._noted])
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self._path)

    def _load(self) -> list[tuple[int, list[Position]]]:
        try:
            found = json.loads(self._path.read_text())
            return [(int(at), [Position(*place) for place in places]) for at, places in found]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            _LOG.warning("the notes in %s cannot be read, so all demand is: %s", self._path, error)
            return []
