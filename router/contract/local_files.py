"""Which keys of a deployment's document name files beside it, and what to say of those that are not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from router.contract.errors import Problem
from router.contract.reading import Report

ELSEWHERE = ("azureml:", "asset:", "http://", "https://", "abfss://", "wasbs://", "adl://")
"""Beginnings of values that name something other than a file beside the document."""


class LocalFile(NamedTuple):
    """One key that names a local file or folder."""

    field: str
    """Dotted path of the key."""
    path: str
    """As written, without `file:`; relative to the document's folder."""
    kind: str
    """What must be there: `folder`, `file`, or `any` of both."""


def local_files(document: Mapping[str, Any]) -> list[LocalFile]:
    """Every key of a deployment's document that names a local file or folder; wrong types are not its business."""
    found = [
        _local(document, "code_configuration.code", "folder"),
        _local(document, "model", "any"),
        _local(document, "model.path", "any"),
        _local(document, "environment", "file"),
        _local(document, "environment.conda_file", "file"),
        _local(document, "environment.build.path", "folder"),
    ]
    return [one for one in found if one is not None]


def missing_files(
    missing: Iterable[LocalFile], *, lines: Mapping[str, int] | None = None, file: str | None = None
) -> tuple[Problem, ...]:
    """One problem for each of the `local_files` that whoever can look did not find."""
    report = Report(file, lines)
    for one in missing:
        what = {"folder": "a folder", "file": "a file"}.get(one.kind, "a file or folder")
        report.add(one.field, f"{what} that exists, relative to the document", one.path)
    return tuple(report.problems)


def _local(document: Mapping[str, Any], field: str, kind: str) -> LocalFile | None:
    node: Any = document
    for name in field.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, str) or not node or node.startswith(ELSEWHERE):
        return None
    return LocalFile(field, node.removeprefix("file:"), kind)
