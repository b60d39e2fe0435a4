"""The rules that values share, each as a function from a value to a problem or None."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.contract.errors import InvalidSpec, Problem
from router.contract.frozen import freeze

NAME_PATTERN = re.compile(r"[a-zA-Z](?:-?[a-zA-Z0-9])*")
"""Starts with a letter; letters, digits and single dashes; no dash at the end."""
NAME_LENGTH = range(3, 33)


def rule(holds: bool, field_name: str, allowed: str, value: Any = None) -> Problem | None:
    """None when the rule holds, else the problem that says what is allowed."""
    return None if holds else Problem(field_name, allowed, value)


def name_rule(value: str, field_name: str) -> Problem | None:
    """Azure's rule for names of endpoints and deployments."""
    holds = len(value) in NAME_LENGTH and NAME_PATTERN.fullmatch(value) is not None
    return rule(holds, field_name, NAME.allowed, value)


def range_rule(field_name: str, value: float, low: float, high: float) -> Problem | None:
    """`low <= value <= high`; NaN is outside of every range."""
    return rule(low <= value <= high, field_name, f"a number from {low:g} to {high:g}", value)


def refuse(*problems: Problem | None) -> None:
    """Raise one `InvalidSpec` with every problem that is not None."""
    found = [problem for problem in problems if problem is not None]
    if found:
        raise InvalidSpec(found)


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers a field may have; an end is part of it unless it is called open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is inside; NaN never is."""
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)

    def words(self) -> str:
        """`a number from 1 to 5`, `a number above 0 and at most 1`."""
        if not self.open_low and not self.open_high:
            return f"a number from {self.low:g} to {self.high:g}"
        low = f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"a number {low} and {'below' if self.open_high else 'at most'} {self.high:g}"


@dataclass(frozen=True, slots=True)
class Pattern:
    """The form a field's text has, over its whole length."""

    expression: re.Pattern[str]
    allowed: str
    """In words."""
    lengths: range | None = None


NAME = Pattern(
    NAME_PATTERN,
    "3 to 32 letters, digits or single dashes, starting with a letter and not ending with a dash",
    NAME_LENGTH,
)


def ranged(
    low: float, high: float, default: Any = dataclasses.MISSING, *, open_low: bool = False, open_high: bool = False
) -> Any:
    """A dataclass field that keeps to a range, for `field_rules` to check and for schemas to say; None is outside of it."""
    return dataclasses.field(default=default, metadata={"rule": Range(low, high, open_low, open_high)})


def matching(pattern: Pattern, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field whose text has a form, for `field_rules` to check and for schemas to say."""
    return dataclasses.field(default=default, metadata={"rule": pattern})


def field_rules(value: Any) -> list[Problem | None]:
    """What the fields of the dataclass `value` say of themselves with `ranged` and `matching`."""
    problems: list[Problem | None] = []
    for field in dataclasses.fields(value):
        kept, found = field.metadata.get("rule"), getattr(value, field.name)
        if found is None:
            continue
        if isinstance(kept, Range):
            problems.append(rule(kept.holds(found), field.name, kept.words(), found))
        elif isinstance(kept, Pattern):
            fits = kept.lengths is None or len(found) in kept.lengths
            holds = fits and kept.expression.fullmatch(found) is not None
            problems.append(rule(holds, field.name, kept.allowed, found))
    return problems


def check_name(value: str, field_name: str) -> None:
    """Raise `InvalidSpec` unless `value` follows Azure's rules for endpoint and deployment names."""
    refuse(name_rule(value, field_name))


def check_range(field_name: str, value: float, low: float, high: float) -> None:
    """Raise `InvalidSpec` unless `low <= value <= high`."""
    refuse(range_rule(field_name, value, low, high))


def freeze_fields(value: Any) -> None:
    """Replace every map and list that a frozen dataclass was given by one that cannot change."""
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if isinstance(found, Mapping | list):
            object.__setattr__(value, field.name, freeze(found))


def lower_names(value: Any, *fields: str) -> list[Problem | None]:
    """Put the deployment names of these map fields in lower case; the problems are wrong and double names."""
    problems: list[Problem | None] = []
    for field in fields:
        given = getattr(value, field)
        lowered: dict[str, Any] = {}
        for name, share in given.items():
            problems.append(name_rule(name, f"{field}.{name}"))
            double = "named twice: names of deployments differ by more than case"
            problems.append(rule(name.lower() not in lowered, f"{field}.{name}", double, name))
            lowered[name.lower()] = share
        object.__setattr__(value, field, freeze(lowered))
    return problems
