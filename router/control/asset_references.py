"""Where a deployment's document names uploaded files, and what is wrong with those names. Pure.

A reference is `asset:<sha256>` (the folder that was uploaded) or `asset:<sha256>/<path in it>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from router.contract import azure
from router.contract.errors import InvalidSpec, Problem

SHA256 = re.compile(r"[0-9a-f]{64}")
_REFERENCE = re.compile(r"asset:([0-9a-f]{64})(?:/(.+))?")
FIELDS = (
    "code_configuration.code",
    "model",
    "model.path",
    "environment",
    "environment.conda_file",
    "environment.build.path",
)


class Reference(NamedTuple):
    """One name of uploaded files."""

    sha256: str
    path: str
    """Inside the asset; empty = its root."""


Exists = Callable[[Reference], bool]


def parse_reference(text: str) -> Reference | None:
    """`text` as a reference; None when it is none, or leads out of its asset."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    path = match[2] or ""
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        return None
    return Reference(match[1], path)


def check_files(document: Mapping[str, Any], exists: Exists) -> None:
    """Raise `InvalidSpec` unless every file that `document` names has been uploaded."""
    problems = [
        Problem(
            one.field,
            "a file of the sender: upload it (`tidegate asset upload PATH`) and write the asset:… that it prints",
            one.path,
        )
        for one in azure.local_files(document)
    ]
    for field in FIELDS:
        text = _at(document, field)
        if isinstance(text, str) and text.startswith("asset:"):
            problems += _problems_of(field, text, exists)
    problems += _script_problem(document, exists)
    if problems:
        raise InvalidSpec(problems)


def _problems_of(field: str, text: str, exists: Exists) -> list[Problem]:
    reference = parse_reference(text)
    if reference is None:
        return [Problem(field, "asset:<sha256 in hex> or asset:<sha256>/<path in it>", text)]
    if not exists(Reference(reference.sha256, "")):
        return [Problem(field, f"has not been uploaded: PUT /v1/assets/{reference.sha256} first", text)]
    if not exists(reference):
        return [Problem(field, f"the asset has no file {reference.path!r}", text)]
    return []


def _script_problem(document: Mapping[str, Any], exists: Exists) -> list[Problem]:
    code, script = _at(document, "code_configuration.code"), _at(document, "code_configuration.scoring_script")
    reference = parse_reference(code) if isinstance(code, str) else None
    if reference is None or not isinstance(script, str) or not exists(reference):
        return []
    inside = parse_reference(f"{code}/{script}")
    if inside is not None and exists(inside):
        return []
    return [Problem("code_configuration.scoring_script", "a file in the folder that code names", script)]


def _at(document: Mapping[str, Any], field: str) -> Any:
    found: Any = document
    for name in field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
