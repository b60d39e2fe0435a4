"""`tidegate online-deployment …`: one function per command, named like it (`list` is `show_all`)."""

from __future__ import annotations

import sys
from typing import Any

from router.cli import drafts
from router.cli.client import Reply, path_of
from router.cli.drafts import Draft
from router.cli.operations import Waiter, progress
from router.cli.session import Session
from router.contract.azure import deployment_from_document
from router.contract.errors import InvalidSpec, Problem
from router.contract.specs import DeploymentSpec, Kind


def create(session: Session) -> None:
    """Check, upload, PUT, wait. A deployment that exists is replaced, as az does."""
    flags = session.flags
    draft = drafts.with_flags(drafts.from_file(flags.file), flags.set, flags.name)
    spec = _checked(session, draft, _kind_of_endpoint(session, _endpoint_name(session, draft)))
    draft = drafts.uploaded(session, _owned(draft, spec))
    path = path_of("endpoints", spec.endpoint_name, "deployments", spec.name)
    query = "?all_traffic=true" if flags.all_traffic else ""
    with drafts.located(draft):
        reply = session.control.call("PUT", path + query, draft.document)
    _finish(session, reply, path, f"deployment {spec.name}")


def update(session: Session) -> None:
    """GET, change, PUT: `-f` replaces the settings, `--set` changes single ones."""
    flags = session.flags
    draft = drafts.with_flags(drafts.from_file(flags.file), [], flags.name)
    if not draft.has("name"):
        raise InvalidSpec([Problem("name", "say which deployment: --name, or name: in the file", file=flags.file)])
    endpoint = _endpoint_name(session, draft)
    path = path_of("endpoints", endpoint, "deployments", str(draft.document["name"]))
    kind = _kind_of_endpoint(session, endpoint)

    def change(shown: dict[str, Any]) -> dict[str, Any]:
        base = draft if flags.file is not None else drafts.from_shown(shown)
        changed = drafts.with_flags(base, flags.set)
        spec = _checked(session, changed, kind, endpoint)
        return dict(drafts.uploaded(session, _owned(changed, spec)).document)

    with drafts.located(draft):
        reply, _ = session.control.modify(path, change)
    _finish(session, reply, path, f"deployment {draft.document['name']}")


def _endpoint_name(session: Session, draft: Draft) -> str:
    named = session.flags.endpoint_name or draft.document.get("endpoint_name")
    if not isinstance(named, str):
        message = "say which endpoint: --endpoint-name, or endpoint_name: in the file"
        raise InvalidSpec([Problem("endpoint_name", message, named, file=draft.file)])
    return named


def _kind_of_endpoint(session: Session, endpoint: str) -> Kind:
    return Kind(session.control.get(path_of("endpoints", endpoint)).get("kind", Kind.MANAGED))


def _checked(session: Session, draft: Draft, kind: Kind, endpoint: str | None = None) -> DeploymentSpec:
    """The draft as a spec; raises with every problem of the document and of the files that it names."""
    problems: list[Problem] = []
    spec: DeploymentSpec | None = None
    name = endpoint or session.flags.endpoint_name
    try:
        spec = deployment_from_document(
            draft.document, endpoint_name=name, kind=kind, lines=draft.lines, file=draft.file
        )
    except InvalidSpec as error:
        problems += error.problems
    try:
        drafts.find_files(draft)
    except InvalidSpec as error:
        problems += error.problems
    if spec is None or problems:
        raise InvalidSpec(problems)
    drafts.check(session, draft, spec)
    return spec


def _owned(draft: Draft, spec: DeploymentSpec) -> Draft:
    return draft.changed({**draft.document, "endpoint_name": spec.endpoint_name})


def _finish(session: Session, reply: Reply, path: str, title: str) -> None:
    if session.flags.no_wait:
        session.answer(reply.json())
        return
    with progress(title, session.note, quiet=session.quiet) as shown:
        Waiter(session.control).wait(reply, shown)
    session.answer(session.control.get(path))


def _path(session: Session) -> str:
    return path_of("endpoints", session.flags.endpoint_name, "deployments", session.flags.name)


def show(session: Session) -> None:
    """Print one deployment."""
    session.answer(session.control.get(_path(session)))


def show_all(session: Session) -> None:
    """Print the deployments of one endpoint."""
    session.answer(session.control.get(path_of("endpoints", session.flags.endpoint_name, "deployments"))["value"])


def delete(session: Session) -> None:
    """DELETE, after asking; prints nothing."""
    session.confirm(f"Delete the deployment {session.flags.name!r} of {session.flags.endpoint_name!r}?")
    reply = session.control.call("DELETE", _path(session))
    if not session.flags.no_wait:
        with progress(f"delete deployment {session.flags.name}", session.note, quiet=session.quiet) as shown:
            Waiter(session.control).wait(reply, shown)


def get_logs(session: Session) -> None:
    """Print the newest lines as they are."""
    content = session.control.call("POST", _path(session) + "/logs", {"tail": session.flags.lines}).json()["content"]
    if session.flags.output or session.flags.query:
        session.answer(content)
    else:
        sys.stdout.write(content if not content or content.endswith("\n") else content + "\n")


def restart(session: Session) -> None:
    """Replace the replicas one by one."""
    reply = session.control.call("POST", _path(session) + "/restart", {})
    _finish(session, reply, _path(session), f"restart {session.flags.name}")
