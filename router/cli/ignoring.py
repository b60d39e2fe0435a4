"""Which files of a folder are not uploaded: `.amlignore`, else `.gitignore`, in gitignore's own grammar.

Later lines win; `!` takes back; a trailing `/` means folders only; a `/` elsewhere anchors to the folder of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FILES = (".amlignore", ".gitignore")
ALWAYS = frozenset({"__pycache__", ".git", ".amlignore", ".gitignore", ".ipynb_checkpoints", ".DS_Store"})
"""Never part of a model or its code."""


def to_regex(pattern: str) -> str:
    """A gitignore glob (without `!` and trailing `/`) as a regular expression over a `/`-separated relative path."""
    anchored = "/" in pattern.rstrip("/")
    rest = pattern.lstrip("/")
    out, at = ("" if anchored else r"(?:.*/)?"), 0
    while at < len(rest):
        if rest.startswith("**/", at):
            out, at = out + r"(?:.*/)?", at + 3
        elif rest.startswith("**", at):
            out, at = out + r".*", at + 2
        elif rest[at] == "*":
            out, at = out + r"[^/]*", at + 1
        elif rest[at] == "?":
            out, at = out + r"[^/]", at + 1
        elif rest[at] == "[" and "]" in rest[at + 2 :]:
            end = rest.index("]", at + 2)
            inside = rest[at + 1 : end].replace("\\", "\\\\")
            out, at = out + "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]", end + 1
        elif rest[at] == "\\" and at + 1 < len(rest):
            out, at = out + re.escape(rest[at + 1]), at + 2
        else:
            out, at = out + re.escape(rest[at]), at + 1
    return out


class IgnoreRules:
    """The rules of one folder."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for raw in lines:
            line = raw.rstrip()
            if not line or line.startswith("#"):
                continue
            kept = line.startswith("!")
            pattern = line[1:] if kept else line
            folder_only = pattern.endswith("/")
            try:
                compiled = re.compile(to_regex(pattern.rstrip("/")))
            except re.error:
                continue  # git, too, matches nothing with a broken pattern
            self._rules.append((compiled, kept, folder_only))

    @classmethod
    def of(cls, folder: Path) -> IgnoreRules:
        """The rules that lie in `folder`; none when it has no ignore file."""
        for name in FILES:
            file = folder / name
            if file.is_file():
                return cls(file.read_text(encoding="utf-8", errors="replace").splitlines())
        return cls(())

    def skips(self, path: str, *, folder: bool) -> bool:
        """Whether `path`, relative to the folder and `/`-separated, is left out."""
        if path.rsplit("/", 1)[-1] in ALWAYS:
            return True
        skipped = False
        for pattern, kept, folder_only in self._rules:
            if (folder or not folder_only) and pattern.fullmatch(path):
                skipped = not kept
        return skipped
