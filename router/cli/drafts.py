"""A document on its way out: read, checked as a whole, its files uploaded, and only then sent.

Nothing reaches the control plane before every problem that can be seen here has been found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from router.cli.assets import Asset, pack, upload
from router.cli.client import Refused
from router.cli.operations import progress
from router.cli.session import Session
from router.contract.azure import LocalFile, ineffective, local_files, missing_files, parse_traffic, without_read_only
from router.contract.documents import apply_set, read_document
from router.contract.errors import InvalidSpec, Problem
from router.contract.frozen import thaw
from router.contract.reading import Report
from router.contract.specs import DeploymentSpec, EndpointSpec


@dataclass(frozen=True, slots=True)
class Draft:
    """A document and where its parts come from."""

    document: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    file: str | None = None
    base: Path = field(default_factory=Path.cwd)
    """Folder that relative paths start from."""

    def changed(self, document: Mapping[str, Any]) -> Draft:
        """The same draft with another document."""
        return replace(self, document=document)

    def has(self, key: str) -> bool:
        """Whether the document says anything about `key`."""
        return key in self.document


def from_file(file: str | None) -> Draft:
    """The draft in `file`; an empty one without."""
    if file is None:
        return Draft({})
    path = Path(file)
    located = read_document(path, file=file)
    return Draft(located.document, located.lines, file, path.resolve().parent)


def from_shown(shown: Mapping[str, Any]) -> Draft:
    """What the control plane shows, as a document again; traffic without the zeros that it adds."""
    document = without_read_only(shown)
    for key in ("traffic", "mirror_traffic"):
        if key in document:
            document[key] = {name: share for name, share in (document[key] or {}).items() if share}
            if not document[key]:
                del document[key]
    return Draft(document)


def with_flags(draft: Draft, assignments: list[str], name: str | None = None) -> Draft:
    """`--set` in its order, then `--name`."""
    document: Mapping[str, Any] = draft.document
    for assignment in assignments:
        document = apply_set(document, assignment)
    if name is not None:
        document = {**document, "name": name}
    return draft.changed(document)


def with_traffic(draft: Draft, traffic: list[str] | None, mirror: list[str] | None) -> Draft:
    """`--traffic` and `--mirror-traffic`: each replaces its whole map. Shares of zero are left out, as az does."""
    document = thaw(draft.document)
    for key, words, flag in (("traffic", traffic, "--traffic"), ("mirror_traffic", mirror, "--mirror-traffic")):
        if words is not None:
            shares = parse_traffic(" ".join(words), flag)
            document[key] = {name: share for name, share in shares.items() if share}
    return draft.changed(document)


def check(session: Session, draft: Draft, spec: EndpointSpec | DeploymentSpec) -> None:
    """Say which keys of a checked document have no effect."""
    report = Report(draft.file, draft.lines)
    session.warn(replace(warning, file=draft.file, line=report.line(warning.field)) for warning in ineffective(spec))


@contextlib.contextmanager
def located(draft: Draft) -> Iterator[None]:
    """Give the control plane's complaints about fields the file and line they have here."""
    try:
        yield
    except Refused as error:
        problems = [problem for detail in error.details if (problem := _problem(draft, detail)) is not None]
        if not problems:
            raise
        raise InvalidSpec(problems) from error


def _problem(draft: Draft, detail: Mapping[str, Any]) -> Problem | None:
    if not isinstance(detail.get("field"), str) or not isinstance(detail.get("message"), str):
        return None
    line = Report(draft.file, draft.lines).line(detail["field"])
    return Problem(detail["field"], detail["message"], detail.get("value"), detail.get("suggestion"), draft.file, line)


def find_files(draft: Draft) -> dict[str, Path]:
    """Field → the local file or folder it names. Raises `InvalidSpec` with a problem for each that is not there."""
    found: dict[str, Path] = {}
    missing: list[LocalFile] = []
    for one in local_files(draft.document):
        path = draft.base / Path(one.path).expanduser()
        there = {"folder": path.is_dir, "file": path.is_file}.get(one.kind, path.exists)
        if there():
            found[one.field] = path.resolve()
        else:
            missing.append(one)
    problems = [*missing_files(missing, lines=draft.lines, file=draft.file), *_script_problems(draft, found)]
    if problems:
        raise InvalidSpec(problems)
    return found


def _script_problems(draft: Draft, found: Mapping[str, Path]) -> list[Problem]:
    """A scoring script that is not in the code folder would fail minutes later, in a replica."""
    code = found.get("code_configuration.code")
    script = (draft.document.get("code_configuration") or {}).get("scoring_script") if code else None
    if code is None or not isinstance(script, str) or (code / script).is_file():
        return []
    name = "code_configuration.scoring_script"
    line = Report(draft.file, draft.lines).line(name)
    return [Problem(name, f"a file in {code}", script, file=draft.file, line=line)]


def uploaded(session: Session, draft: Draft) -> Draft:
    """The draft with its local files sent and named by what they contain.

    As in Azure, a model's folder keeps its name inside AZUREML_MODEL_DIR: `./model` is `$AZUREML_MODEL_DIR/model`.
    """
    files = find_files(draft)
    document = thaw(draft.document)
    for name, path in files.items():
        asset = send(session, path, named=name in ("model", "model.path"))
        node = document
        *above, last = name.split(".")
        for key in above:
            node = node[key]
        node[last] = asset.reference
    return draft.changed(document)


def send(session: Session, path: Path, *, named: bool) -> Asset:
    """Upload a file or folder, unless it is there already; with `named`, a folder keeps its name in the asset."""
    asset = pack(path, named=named)
    with progress(f"upload {path.name}", session.detail, quiet=session.quiet) as shown:
        done = 0

        def count(sent: int) -> None:
            nonlocal done
            done += sent
            if shown is not None:
                shown.show("Sending", min(1.0, done / asset.size), f"{done / 1e6:.1f} of {asset.size / 1e6:.1f} MB")

        was_sent = upload(session.control, asset, count)
    size = f"{asset.size / 1e6:.2f} MB"
    session.detail(f"{path}: {size} sent" if was_sent else f"{path}: already there")
    return asset
