"""Reading one plain tree against tables of keys: every problem is collected, none stops the reading.

A *reader* takes (report, path, found) and returns the value; it reports what is wrong and then returns `WRONG`. What is
made of other readers (`Record`, `MapOf`, …) shows them, so that a schema can be made from the same tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.contract.errors import InvalidSpec, Problem
from router.contract.spelling import nearest

_DIGITS = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
WRONG: Any = object()
"""Stands for a value that was reported as a problem."""


class Report:
    """Every problem of one document, each with its line. One problem per field: the first says most."""

    def __init__(self, file: str | None = None, lines: Mapping[str, int] | None = None) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._lines = {path.lower(): line for path, line in (lines or {}).items()}

    def add(self, path: str, message: str, value: Any = None, suggestion: str | None = None) -> Any:
        """Note one problem and return `WRONG`."""
        if not self.has(path):
            shown = _shown(value)
            self.problems.append(Problem(path or "document", message, shown, suggestion, self._file, self.line(path)))
        return WRONG

    def adopt(self, prefix: str, problems: Sequence[Problem]) -> None:
        """Note the problems of a value that could not be built from what stands at `prefix`.

        A rule over several fields is not broken by a field that is wrong by itself, so it is skipped then.
        """
        for problem in problems:
            path = join(prefix, problem.field)
            if not any(other.field.startswith(path + ".") for other in self.problems):
                self.add(path, problem.message, problem.value, problem.suggestion)

    def has(self, path: str) -> bool:
        """True when the field has been reported already."""
        return any(problem.field == (path or "document") for problem in self.problems)

    def line(self, path: str) -> int | None:
        """1-based line of `path`, or of the nearest thing around it that the document does have."""
        path = path.lower()
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return self._lines.get(path)

    def close(self) -> None:
        """Raise `InvalidSpec` when there was any problem, in the order of the document's lines."""
        if self.problems:
            raise InvalidSpec(sorted(self.problems, key=lambda problem: problem.line or 0))


Reader = Callable[[Report, str, Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One known key of a section."""

    read: Reader
    attribute: str | None = None
    """The built value's argument, where it is not named like the key."""
    stand_in: Any = None
    """Set for required keys: a right value that lets the section's other rules be checked when this one is missing."""


def join(prefix: str, name: str) -> str:
    """The dotted path of `name` under `prefix`."""
    return f"{prefix}.{name}" if prefix else name


@dataclass(frozen=True, slots=True)
class Record:
    """Reader of a section with a fixed set of keys; `build` gets those that are there and may raise `InvalidSpec`."""

    build: Callable[..., Any]
    keys: Mapping[str, Key]

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        before = len(report.problems)
        values = read_keys(report, path, found, self.keys)
        if values is WRONG:
            return WRONG
        try:
            built = self.build(**values)
        except InvalidSpec as error:
            report.adopt(path, error.problems)
        return WRONG if len(report.problems) > before else built


@dataclass(frozen=True, slots=True)
class Likened:
    """A reader with rules of its own that takes no other kinds of values than `like` do."""

    read: Reader
    like: tuple[Reader, ...]

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        return self.read(report, path, found)


def read_keys(report: Report, path: str, found: Any, keys: Mapping[str, Key]) -> Any:
    """Arguments for the section's value: wrong optional keys are left out, wrong required ones stood in for."""
    if mapping(report, path, found) is WRONG:
        return WRONG
    for name, value in found.items():
        if name not in keys:
            near = nearest(str(name), keys)
            report.add(join(path, str(name)), f"unknown key; known here: {', '.join(keys)}", value, near)
    values = {}
    for name, key in keys.items():
        value = WRONG
        if name in found:
            value = key.read(report, join(path, name), found[name])
        elif key.stand_in is not None:
            report.add(join(path, name), "is required and missing")
        if value is WRONG:
            value = key.stand_in
        if value is not None:
            values[key.attribute or name] = value
    return values


# single values ----------------------------------------------------------------------------------------------------


def text(report: Report, path: str, found: Any) -> Any:
    """A string. Numbers are refused, because what YAML made of them (`1.10` → 1.1) is not what was written."""
    if isinstance(found, str):
        return found
    hint = f'"{_scalar_text(found)}"' if isinstance(found, bool | int | float) else None
    return report.add(path, "a string" + (", in quotes" if hint else _if_null(found)), found, hint)


def filled(report: Report, path: str, found: Any) -> Any:
    """A string that is not empty."""
    if found == "":
        return report.add(path, "a string that is not empty", found)
    return text(report, path, found)


def label(report: Report, path: str, found: Any) -> Any:
    """A string, or a whole number taken as its digits: versions are often written without quotes."""
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    return filled(report, path, found)


def scalar(report: Report, path: str, found: Any) -> Any:
    """A string, or a number or boolean as Azure's client sends it (`True`): tags and environment variables."""
    if isinstance(found, str | bool | int | float):
        return str(found)
    return report.add(path, "a string" + _if_null(found), found)


def integer(report: Report, path: str, found: Any) -> Any:
    """A whole number; neither a boolean nor a string of digits."""
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    hint = None
    if (isinstance(found, str) and _DIGITS.fullmatch(found)) or (isinstance(found, float) and found.is_integer()):
        hint = str(int(found))
    quotes = ", without quotes" if hint and isinstance(found, str) else ""
    return report.add(path, f"a whole number{quotes or _if_null(found)}", found, hint)


def number(report: Report, path: str, found: Any) -> Any:
    """A finite number; neither a boolean nor a string."""
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    if isinstance(found, float) and math.isfinite(found):
        return found
    hint = None
    if isinstance(found, str):
        try:
            hint = f"{float(found):g}" if math.isfinite(float(found)) else None
        except ValueError:
            hint = None
    quotes = ", without quotes" if hint else ""
    return report.add(path, f"a number{quotes or _if_null(found)}", found, hint)


def boolean(report: Report, path: str, found: Any) -> Any:
    """`true` or `false`."""
    if isinstance(found, bool):
        return found
    words = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
    hint = words.get(found.lower()) if isinstance(found, str) else None
    return report.add(path, f"true or false{_if_null(found)}", found, hint)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `options`. Case and underscores do not matter, as in Azure's own client (`SystemAssigned`)."""

    options: tuple[str, ...]

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        if isinstance(found, str):
            for option in self.options:
                if _folded(option) == _folded(found):
                    return option
        near = nearest(found, self.options) if isinstance(found, str) else None
        return report.add(path, f"one of {', '.join(self.options)}{_if_null(found)}", found, near)


def choice(*options: str) -> Choice:
    """Reader of one of `options`."""
    return Choice(tuple(str(option) for option in options))


@dataclass(frozen=True, slots=True)
class Between:
    """A number that `read` reads, from `low` to `high`."""

    read: Reader
    low: int
    high: int
    allowed: str

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        value = self.read(report, path, found)
        if value is not WRONG and not self.low <= value <= self.high:
            return report.add(path, self.allowed, found)
        return value


# collections ------------------------------------------------------------------------------------------------------


def mapping(report: Report, path: str, found: Any) -> Any:
    """Any map with string keys."""
    if not isinstance(found, Mapping):
        return report.add(path, f"a map of keys and values{_if_null(found)}", found)
    odd = [key for key in found if not isinstance(key, str)]
    return report.add(path, "a map whose keys are strings", odd[0]) if odd else found


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map with any keys whose values `value` reads."""

    value: Reader

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        if mapping(report, path, found) is WRONG:
            return WRONG
        values = {name: self.value(report, join(path, name), value) for name, value in found.items()}
        return WRONG if any(value is WRONG for value in values.values()) else values


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose items `item` reads, as a tuple."""

    item: Reader

    def __call__(self, report: Report, path: str, found: Any) -> Any:
        """Read `found`."""
        if not isinstance(found, list | tuple):
            return report.add(path, f"a list{_if_null(found)}", found)
        items = tuple(self.item(report, join(path, str(index)), item) for index, item in enumerate(found))
        return WRONG if any(item is WRONG for item in items) else items


def _folded(word: str) -> str:
    return word.replace("_", "").lower()


def _if_null(found: Any) -> str:
    return "; it is empty: write a value or remove the key" if found is None else ""


def _scalar_text(found: Any) -> str:
    return str(found).lower() if isinstance(found, bool) else str(found)


def _shown(value: Any) -> Any:
    """What a problem shows of a found value: scalars whole, collections by their kind."""
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return value if isinstance(value, str | bool | int | float) else None
