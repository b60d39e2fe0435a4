"""`tidegate online-endpoint …`: one function per command, named like it (`list` is `show_all`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.cli import drafts
from router.cli.client import Refused, Reply, path_of
from router.cli.drafts import Draft
from router.cli.operations import Waiter, progress
from router.cli.session import Session
from router.contract.azure import endpoint_from_document
from router.contract.errors import InvalidSpec, Problem


def create(session: Session) -> None:
    """PUT a new endpoint. An endpoint that exists is replaced, and keeps its traffic unless the file names some."""
    flags = session.flags
    draft = drafts.with_flags(drafts.from_file(flags.file), flags.set, flags.name)
    if flags.auth_mode is not None:
        draft = draft.changed({**draft.document, "auth_mode": flags.auth_mode})
    draft = drafts.with_traffic(draft, flags.traffic, flags.mirror_traffic)
    if not draft.has("name"):
        raise InvalidSpec([Problem("name", "give the endpoint a name: --name, or name: in the file", file=flags.file)])
    spec = endpoint_from_document(draft.document, lines=draft.lines, file=draft.file)
    drafts.check(session, draft, spec)
    path = path_of("endpoints", spec.name)
    with drafts.located(draft):
        try:
            reply = session.control.call("PUT", path, draft.document, headers={"If-None-Match": "*"})
        except Refused as error:
            if error.status not in (409, 412):
                raise
            session.note(f"endpoint {spec.name!r} exists: its settings are replaced")
            reply = _replace(session, path, draft)
    _finish(session, reply, path, f"endpoint {spec.name}")


def update(session: Session) -> None:
    """GET, change, PUT: `-f` replaces the settings, `--set` and the traffic flags change single ones."""
    flags = session.flags
    draft = drafts.with_flags(drafts.from_file(flags.file), [], flags.name)
    if not draft.has("name"):
        raise InvalidSpec([Problem("name", "say which endpoint: --name, or name: in the file", file=flags.file)])
    name = str(draft.document["name"])
    path = path_of("endpoints", name)
    if flags.file is not None:
        endpoint_from_document(draft.document, lines=draft.lines, file=draft.file)

    def change(shown: dict[str, Any]) -> Draft:
        base = _keep_traffic(draft, shown) if flags.file is not None else drafts.from_shown(shown)
        changed = drafts.with_traffic(drafts.with_flags(base, flags.set), flags.traffic, flags.mirror_traffic)
        spec = endpoint_from_document(changed.document, lines=changed.lines, file=changed.file)
        drafts.check(session, changed, spec)
        return changed

    with drafts.located(draft):
        reply, _ = session.control.modify(path, lambda shown: dict(change(shown).document))
    _finish(session, reply, path, f"endpoint {name}")


def _replace(session: Session, path: str, draft: Draft) -> Reply:
    reply, _ = session.control.modify(path, lambda shown: dict(_keep_traffic(draft, shown).document))
    return reply


def _keep_traffic(draft: Draft, shown: Mapping[str, Any]) -> Draft:
    """A file that says nothing about traffic changes nothing about it."""
    current = drafts.from_shown(shown).document
    kept = {key: current[key] for key in ("traffic", "mirror_traffic") if key in current and not draft.has(key)}
    if "mirror" in (draft.document.get("tidegate") or {}):
        kept.pop("mirror_traffic", None)
    return draft.changed({**draft.document, **kept})


def _finish(session: Session, reply: Reply, path: str, title: str) -> None:
    if session.flags.no_wait:
        session.answer(reply.json())
        return
    with progress(title, session.note, quiet=session.quiet) as shown:
        Waiter(session.control).wait(reply, shown)
    session.answer(session.control.get(path))


def show(session: Session) -> None:
    """Print one endpoint."""
    session.answer(session.control.get(path_of("endpoints", session.flags.name)))


def show_all(session: Session) -> None:
    """Print all endpoints."""
    session.answer(session.control.get(path_of("endpoints"))["value"])


def delete(session: Session) -> None:
    """DELETE, after asking; prints nothing."""
    name = session.flags.name
    session.confirm(f"Delete the endpoint {name!r} with all its deployments?")
    reply = session.control.call("DELETE", path_of("endpoints", name))
    if not session.flags.no_wait:
        with progress(f"delete endpoint {name}", session.note, quiet=session.quiet) as shown:
            Waiter(session.control).wait(reply, shown)


def invoke(session: Session) -> int:
    """Send one request to the scoring address."""
    from router.cli.scoring import send

    return send(session)


def traffic_log(session: Session) -> None:
    """Print the newest requests, and with `--follow` each one as it ends."""
    from router.cli.requests import show as show_requests

    show_requests(session)


def get_credentials(session: Session) -> None:
    """Print both keys."""
    session.answer(_keys(session, "list", {}))


def regenerate_keys(session: Session) -> None:
    """Replace one key, after asking when somebody can be asked; prints both."""
    session.answer(_keys(session, "regenerate", {"key_type": session.flags.key_type}))


def _keys(session: Session, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    keys = session.control.call("POST", path_of("endpoints", session.flags.name, "keys", verb), body).json()
    return {name: keys[name] for name in ("primaryKey", "secondaryKey")}


def revisions(session: Session) -> None:
    """Print the kept revisions, newest first, or one of them."""
    path = path_of("endpoints", session.flags.name, "revisions")
    if session.flags.revision is None:
        session.answer(session.control.get(path)["value"])
    else:
        session.answer(session.control.get(f"{path}/{session.flags.revision}"))


def rollback(session: Session) -> None:
    """Return to an earlier revision; keys stay the current ones."""
    path = path_of("endpoints", session.flags.name)
    reply = session.control.call("POST", path + "/rollback", {"revision": session.flags.revision})
    _finish(session, reply, path, f"roll back {session.flags.name}")
