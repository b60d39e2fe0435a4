"""The store: every change of an endpoint is one SQLite transaction that writes one whole revision, or nothing.

The transaction holds the revision, its operation, its keys and its entry in the outbox, so that a process killed at
any point leaves a revision either wholly there and still to be published, or not there at all. The file holds the only
plain text of the keys and belongs to its owner alone. Every call runs in one thread of its own, never on the event
loop, and raises `Unavailable` when the disk refuses.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from router.contract.errors import NotFound, TidegateError, Unavailable
from router.contract.events import EndpointRevision
from router.control import rows, schema
from router.control.content import Change, Standing
from router.control.operations import Operation, Progress

T = TypeVar("T")
Decide = Callable[[Standing | None], Change]
"""From an endpoint's newest revision (None = there never was one) to the change, or a `TidegateError`."""

BUSY_SECONDS = 10.0
"""How long a start waits for an earlier control plane to let go of the file."""
OPERATIONS_KEPT = 200
"""Finished operations kept per endpoint."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction wrote."""

    standing: Standing
    operation: Operation
    change: Change


class Store:
    """The open store. Make it with `Store.open`."""

    def __init__(self, path: Path, revisions_kept: int, on_commit: Callable[[], None]) -> None:
        self._path = path
        self._kept = revisions_kept
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, "control-store")
        self._db: sqlite3.Connection

    @classmethod
    async def open(cls, path: Path, *, revisions_kept: int, on_commit: Callable[[], None]) -> Store:
        """Open or create the file at `path`; `on_commit` is called on this loop after every committed change."""
        loop = asyncio.get_running_loop()

        def committed() -> None:
            loop.call_soon_threadsafe(on_commit)

        store = cls(path, revisions_kept, committed)
        try:
            await store._run(store._connect)
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        await self._run(self._db.close)
        self._thread.shutdown()

    async def change(self, endpoint: str, operation_id: str, decide: Decide) -> Committed:
        """Read the newest revision, `decide`, and write the next one; all in one transaction."""
        return await self._run(lambda: self._change(endpoint, operation_id, decide))

    async def settle(self, operation: str, progress: Progress) -> None:
        """End an open operation; without effect when it is over already."""
        await self._run(lambda: self._settle(operation, progress))

    async def change_traffic(self, operation: Operation, operation_id: str, decide: Decide) -> None:
        """The further revision that `all_traffic` asks for; `operation` then awaits that revision's publication."""
        await self._run(lambda: self._change_traffic(operation, operation_id, decide))

    async def get(self, endpoint: str) -> Standing | None:
        """The newest revision of `endpoint`, a deleted one included."""
        return await self._run(lambda: rows.standing(self._db, endpoint))

    async def all(self) -> list[Standing]:
        """The newest revision of every endpoint that is not deleted, by name."""
        return [one for one in await self._run(lambda: rows.standings(self._db)) if not one.deleted]

    async def history(self, endpoint: str) -> list[rows.Recorded]:
        """The kept revisions of `endpoint`, newest first."""
        return await self._run(lambda: rows.history(self._db, endpoint))

    async def recorded(self, endpoint: str, revision: int) -> rows.Recorded:
        """One kept revision; raises `NotFound`."""
        found = await self._run(lambda: rows.recorded(self._db, endpoint, revision))
        if found is None:
            kept = f"the newest {self._kept} of each endpoint are kept"
            raise NotFound(f"endpoint {endpoint} has no revision {revision}; {kept}")
        return found

    async def operation(self, operation: str) -> Operation:
        """One operation by its id; raises `NotFound`."""
        found = await self._run(lambda: rows.operations(self._db, "id = ?", (operation,)))
        if not found:
            raise NotFound(f"there is no operation {operation}")
        return found[0]

    async def open_operations(self) -> list[Operation]:
        """Every operation under way, oldest first."""
        return await self._run(lambda: rows.operations(self._db, "status = 'InProgress'", ()))

    async def newest_operations(self, endpoint: str) -> dict[str | None, Operation]:
        """Deployment (None = the endpoint itself) → the newest operation about it."""
        return await self._run(lambda: rows.newest_operations(self._db, endpoint))

    async def unpublished(self, limit: int) -> list[tuple[int, EndpointRevision]]:
        """(number in the outbox, revision), oldest first, at most `limit`."""
        return await self._run(lambda: rows.outbox(self._db, limit))

    async def mark_published(self, upto: int) -> None:
        """Clear the outbox up to the entry numbered `upto`, inclusive."""
        await self._run(lambda: self._mark_published(upto))

    async def published(self) -> Mapping[str, int]:
        """Endpoint → the newest revision that the log has committed."""
        return await self._run(lambda: dict(self._db.execute("SELECT name, published FROM endpoints").fetchall()))

    async def reconcile(self, in_log: Mapping[str, EndpointRevision]) -> Sequence[str]:
        """Compare with the newest revisions that the log holds: what it lacks goes to the outbox again.

        Where the log is ahead (the store was lost, or restored from a copy), its content is adopted, so that
        nothing that serves is forgotten and no number is used twice. Returns those endpoints.
        """
        return await self._run(lambda: self._reconcile(in_log))

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.Error as error:
            raise Unavailable(f"the store cannot be used right now: {error}") from error

    def _connect(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        self._db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        # EXCLUSIVE: a second control plane on the same file is refused instead of publishing in parallel.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in schema.TABLES.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={schema.VERSION}")
            elif version != schema.VERSION:
                raise Unavailable(f"{self._path} was written by another version ({version}, not {schema.VERSION})")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _change(self, endpoint: str, operation_id: str, decide: Decide) -> Committed:
        with self._transaction():
            committed = self._write(endpoint, operation_id, decide)
        self._on_commit()
        return committed

    def _write(self, endpoint: str, operation_id: str, decide: Decide) -> Committed:
        before = rows.standing(self._db, endpoint)
        change = decide(before)
        now = time.time_ns()
        after = rows.next_standing(endpoint, before, change, now)
        rows.write_revision(self._db, after, change.words)
        rows.prune_revisions(self._db, endpoint, after.revision - self._kept)
        rows.cancel_superseded(self._db, after, change)
        operation = Operation(
            operation_id,
            change.kind,
            endpoint,
            change.deployment,
            after.revision,
            now,
            all_traffic=change.all_traffic,
            await_revision=after.revision,
        )
        rows.write_operation(self._db, operation)
        rows.prune_operations(self._db, endpoint, OPERATIONS_KEPT)
        return Committed(after, operation, change)

    def _settle(self, operation: str, progress: Progress) -> None:
        with self._transaction():
            rows.finish(self._db, operation, progress, time.time_ns())
        self._on_commit()

    def _change_traffic(self, operation: Operation, operation_id: str, decide: Decide) -> None:
        with self._transaction():
            still = rows.operations(self._db, "id = ? AND status = 'InProgress' AND all_traffic", (operation.id,))
            if not still:
                return
            try:
                committed = self._write(operation.endpoint, operation_id, decide)
            except TidegateError as error:
                rows.finish(self._db, operation.id, rows.refused(error), time.time_ns())
            else:
                rows.await_revision(self._db, operation.id, committed.standing.revision)
        self._on_commit()

    def _mark_published(self, upto: int) -> None:
        with self._transaction():
            rows.mark_published(self._db, upto)

    def _reconcile(self, in_log: Mapping[str, EndpointRevision]) -> list[str]:
        with self._transaction():
            adopted = rows.reconcile(self._db, in_log)
        self._on_commit()
        return adopted
