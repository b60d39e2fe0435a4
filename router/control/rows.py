"""SQL of the store: rows ↔ values. Every function runs inside the transaction of its caller and commits nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from router.contract.errors import TidegateError
from router.contract.events import EndpointRevision
from router.control.content import Change, Content, KeyPair, OperationKind, Standing
from router.control.operations import Failure, Operation, Progress, Status


class Recorded(NamedTuple):
    """One revision as it stands in the history."""

    standing: Standing
    """Without keys: a revision never brings old ones back."""
    change: str


_STANDING = """
    SELECT r.endpoint, r.revision, r.at_ns, r.content, r.deleted, r.key_hashes, k.primary_key, k.secondary_key
    FROM endpoints e JOIN revisions r ON r.endpoint = e.name AND r.revision = e.revision
    LEFT JOIN keys k ON k.endpoint = e.name
"""
_OPERATION = """
    SELECT id, kind, endpoint, deployment, revision, started_ns, status, phase, progress, message, finished_ns, error,
           all_traffic, await_revision
    FROM operations
"""


def standing(db: sqlite3.Connection, endpoint: str) -> Standing | None:
    """The newest revision of `endpoint`."""
    row = db.execute(f"{_STANDING} WHERE e.name = ?", (endpoint,)).fetchone()
    return None if row is None else _standing(row)


def standings(db: sqlite3.Connection) -> list[Standing]:
    """The newest revision of every endpoint, by name."""
    return [_standing(row) for row in db.execute(f"{_STANDING} ORDER BY e.name")]


def _standing(row: tuple[Any, ...]) -> Standing:
    endpoint, revision, at_ns, content, deleted, hashes, primary, secondary = row
    keys = None if primary is None else KeyPair(primary, secondary)
    return Standing(
        endpoint, revision, at_ns, Content.from_text(content), bool(deleted), keys, tuple(json.loads(hashes))
    )


def next_standing(endpoint: str, before: Standing | None, change: Change, now_ns: int) -> Standing:
    """What `change` makes of `before`."""
    keys = change.keys or (before.keys if before is not None and not change.deleted else None)
    number = 1 if before is None else before.revision + 1
    hashes = () if keys is None else keys.hashes()
    if keys is None and before is not None and not change.deleted:
        hashes = before.key_hashes
    content = change.content.after(before.content if before is not None else None)
    return Standing(endpoint, number, now_ns, content, change.deleted, keys, hashes)


def write_revision(db: sqlite3.Connection, after: Standing, words: str) -> None:
    """The revision, its keys and its entry in the outbox."""
    db.execute(
        "INSERT INTO endpoints (name, revision) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET revision = excluded.revision",
        (after.endpoint, after.revision),
    )
    hashes = json.dumps(after.key_hashes)
    db.execute(
        "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?)",
        (after.endpoint, after.revision, after.at_ns, words, after.content.to_text(), hashes, after.deleted),
    )
    if after.keys is None:
        db.execute("DELETE FROM keys WHERE endpoint = ?", (after.endpoint,))
    else:
        db.execute(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", (after.endpoint, after.keys.primary, after.keys.secondary)
        )
    db.execute("INSERT INTO outbox (endpoint, revision) VALUES (?, ?)", (after.endpoint, after.revision))


def prune_revisions(db: sqlite3.Connection, endpoint: str, upto: int) -> None:
    """Forget revisions up to `upto`, but none that is still to be published."""
    db.execute(
        "DELETE FROM revisions WHERE endpoint = ? AND revision <= ?"
        " AND revision NOT IN (SELECT revision FROM outbox WHERE endpoint = ?)",
        (endpoint, upto, endpoint),
    )


def history(db: sqlite3.Connection, endpoint: str) -> list[Recorded]:
    """Kept revisions, newest first."""
    query = "SELECT endpoint, revision, at_ns, content, deleted, key_hashes, NULL, NULL, change FROM revisions"
    found = db.execute(f"{query} WHERE endpoint = ? ORDER BY revision DESC", (endpoint,))
    return [Recorded(_standing(row[:-1]), row[-1]) for row in found]


def recorded(db: sqlite3.Connection, endpoint: str, revision: int) -> Recorded | None:
    """One kept revision."""
    query = "SELECT endpoint, revision, at_ns, content, deleted, key_hashes, NULL, NULL, change FROM revisions"
    row = db.execute(f"{query} WHERE endpoint = ? AND revision = ?", (endpoint, revision)).fetchone()
    return None if row is None else Recorded(_standing(row[:-1]), row[-1])


def cancel_superseded(db: sqlite3.Connection, after: Standing, change: Change) -> None:
    """End the open operations whose subject `change` takes over."""
    whole = change.deleted or change.kind in (OperationKind.ROLLBACK, OperationKind.DELETE, OperationKind.CREATE)
    if change.deployment is not None:
        which, arguments = "(deployment = ? OR kind = 'rollback')", [change.deployment]
    elif whole:
        which, arguments = "TRUE", []
    else:
        return
    message = f"superseded by revision {after.revision}: {change.words}"
    update = "UPDATE operations SET status = 'Canceled', message = ?, finished_ns = ?, all_traffic = 0"
    query = f"{update} WHERE status = 'InProgress' AND endpoint = ? AND {which}"
    db.execute(query, (message, after.at_ns, after.endpoint, *arguments))


def write_operation(db: sqlite3.Connection, operation: Operation) -> None:
    """A new operation."""
    db.execute(
        "INSERT INTO operations (id, kind, endpoint, deployment, revision, status, phase, progress, message,"
        " started_ns, all_traffic, await_revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            operation.id,
            operation.kind,
            operation.endpoint,
            operation.deployment,
            operation.revision,
            operation.status,
            operation.phase,
            operation.progress,
            operation.message,
            operation.started_ns,
            operation.all_traffic,
            operation.await_revision,
        ),
    )


def prune_operations(db: sqlite3.Connection, endpoint: str, kept: int) -> None:
    """Forget all but the newest `kept` finished operations, and never the newest of a deployment that is still there.

    The bound is per endpoint, so that one busy endpoint cannot push another's operations out.
    """
    db.execute(
        "DELETE FROM operations WHERE endpoint = ?1 AND status != 'InProgress' AND number NOT IN"
        " (SELECT number FROM operations WHERE endpoint = ?1 ORDER BY number DESC LIMIT ?2) AND number NOT IN"
        " (SELECT max(number) FROM operations WHERE endpoint = ?1 GROUP BY deployment)",
        (endpoint, kept),
    )


def operations(db: sqlite3.Connection, where: str, arguments: tuple[Any, ...]) -> list[Operation]:
    """Operations that satisfy the SQL condition `where`, oldest first."""
    return [_operation(row) for row in db.execute(f"{_OPERATION} WHERE {where} ORDER BY number", arguments)]


def _operation(row: tuple[Any, ...]) -> Operation:
    (ident, kind, endpoint, deployment, revision, started, status, phase, progress, message, *rest) = row
    finished, error, all_traffic, await_number = rest
    failure = None if error is None else Failure(**json.loads(error))
    return Operation(
        ident,
        OperationKind(kind),
        endpoint,
        deployment,
        revision,
        started,
        Status(status),
        phase,
        progress,
        message,
        finished,
        failure,
        bool(all_traffic),
        await_number,
    )


def newest_operations(db: sqlite3.Connection, endpoint: str) -> dict[str | None, Operation]:
    """Deployment (None = the endpoint) → its newest operation."""
    newest = "number IN (SELECT max(number) FROM operations WHERE endpoint = ? GROUP BY deployment)"
    return {operation.deployment: operation for operation in operations(db, newest, (endpoint,))}


def finish(db: sqlite3.Connection, operation: str, progress: Progress, now_ns: int) -> None:
    """Write how an open operation ended."""
    error = None if progress.error is None else json.dumps(progress.error.to_json())
    db.execute(
        "UPDATE operations SET status = ?, phase = ?, progress = ?, message = ?, error = ?, finished_ns = ?,"
        " all_traffic = 0 WHERE id = ? AND status = 'InProgress'",
        (progress.status, progress.phase, progress.progress, progress.message, error, now_ns, operation),
    )


def refused(error: TidegateError) -> Progress:
    """How an operation ends whose further revision was refused."""
    return Progress(Status.FAILED, "ready", 1.0, error.message, Failure(error.code, error.message))


def await_revision(db: sqlite3.Connection, operation: str, revision: int) -> None:
    """The traffic is set by `revision`; the operation ends when that is published."""
    db.execute("UPDATE operations SET all_traffic = 0, await_revision = ? WHERE id = ?", (revision, operation))


def outbox(db: sqlite3.Connection, limit: int) -> list[tuple[int, EndpointRevision]]:
    """(number, revision) still to be published, oldest first."""
    query = (
        "SELECT o.number, r.endpoint, r.revision, r.at_ns, r.content, r.deleted, r.key_hashes FROM outbox o"
        " JOIN revisions r ON r.endpoint = o.endpoint AND r.revision = o.revision ORDER BY o.number LIMIT ?"
    )
    return [(row[0], _standing((*row[1:], None, None)).event()) for row in db.execute(query, (limit,))]


def mark_published(db: sqlite3.Connection, upto: int) -> None:
    """Remember what the log has, and clear the outbox up to `upto`."""
    db.execute(
        "UPDATE endpoints SET published = max(published, coalesce("
        "(SELECT max(revision) FROM outbox WHERE endpoint = name AND number <= ?), 0))",
        (upto,),
    )
    db.execute("DELETE FROM outbox WHERE number <= ?", (upto,))


def reconcile(db: sqlite3.Connection, in_log: Mapping[str, EndpointRevision]) -> list[str]:
    """Adopt what only the log knows, and put into the outbox what it lacks."""
    adopted = []
    for name, event in in_log.items():
        known = standing(db, name)
        if known is None or known.revision < event.revision:
            _adopt(db, event, known)
            adopted.append(name)
    for one in standings(db):
        event_of = in_log.get(one.endpoint)
        published = 0 if event_of is None else event_of.revision
        db.execute("UPDATE endpoints SET published = ? WHERE name = ?", (published, one.endpoint))
        waiting = db.execute("SELECT 1 FROM outbox WHERE endpoint = ?", (one.endpoint,)).fetchone()
        if published < one.revision and waiting is None:
            db.execute("INSERT INTO outbox (endpoint, revision) VALUES (?, ?)", (one.endpoint, one.revision))
    return adopted


def _adopt(db: sqlite3.Connection, event: EndpointRevision, known: Standing | None) -> None:
    """The log's revision becomes the newest. Its keys' text is only known where their hashes have not changed."""
    keys = known.keys if known is not None and known.key_hashes == event.key_hashes else None
    content = Content(event.document, event.deployments, event.restarts, event.cohorts)
    after = Standing(event.endpoint, event.revision, event.at_ns, content, event.deleted, keys, event.key_hashes)
    write_revision(db, after, "recovered from the log")
    db.execute("DELETE FROM outbox WHERE endpoint = ?", (event.endpoint,))
