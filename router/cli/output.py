"""What a command prints: `--query` first, then one of az's formats. Nothing here talks to anybody.

json sorts its keys and indents by two; tsv prints a string bare, one line per list item, no header; table shows
scalars only; an empty answer (None) prints nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from router.contract.errors import TidegateError

FORMATS = ("json", "jsonc", "yaml", "yamlc", "table", "tsv", "none")


class BadQuery(TidegateError):
    """`--query` is no JMESPath expression, or does not fit the answer."""

    code = "BadArgument"
    status = 400


def select(value: Any, expression: str | None) -> Any:
    """The part of `value` that a JMESPath `expression` picks; all of it without one."""
    if expression is None:
        return value
    import jmespath
    from jmespath.exceptions import JMESPathError

    try:
        return jmespath.search(expression, value)
    except (JMESPathError, ValueError) as error:
        raise BadQuery(f"--query {expression!r}: {error}") from None


def render(value: Any, form: str, *, colour: bool = False) -> str:
    """`value` as the text of `form`, ending with a line feed; empty for None."""
    if value is None or form == "none":
        return ""
    if form == "tsv":
        return to_tsv(value)
    if form == "table":
        return to_table(value)
    if form in ("yaml", "yamlc"):
        return to_yaml(value)
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
    return paint(text) if form == "jsonc" and colour else text


def paint(text: str) -> str:
    """JSON with terminal colours."""
    from rich.console import Console
    from rich.json import JSON

    console = Console(force_terminal=True, soft_wrap=True)
    with console.capture() as capture:
        console.print(JSON(text, sort_keys=True))
    return capture.get()


def to_yaml(value: Any) -> str:
    """Block style, keys in order of arrival."""
    import yaml

    text: str = yaml.safe_dump(value, allow_unicode=True, default_flow_style=False, sort_keys=False)
    return text.removesuffix("...\n")


def scalar(value: Any) -> str:
    """One value as a word; booleans as JSON writes them, None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else str(value)


def _tsv_cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, list):
        return str(len(value))
    return scalar(value)


def _tsv_row(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\t".join(_tsv_cell(cell) for cell in value.values())
    if isinstance(value, list):
        return "\t".join(_tsv_cell(cell) for cell in value)
    return _tsv_cell(value)


def to_tsv(value: Any) -> str:
    """One line per item; a list inside a cell shows as its length, an object as nothing (both as az does)."""
    rows = value if isinstance(value, list) else [value]
    return "".join(_tsv_row(row) + "\n" for row in rows)


def heading(key: str) -> str:
    """A key as a column title: `provisioning_state` → `Provisioning_state`, as az capitalizes."""
    return key[:1].upper() + key[1:]


def _table_row(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        cells = sorted(value.items(), key=lambda item: item[0] != "name")  # what it is about comes first
        return {
            heading(str(key)): scalar(cell)
            for key, cell in cells
            if not isinstance(cell, Mapping | list) and not str(key).startswith("$")
        }
    if isinstance(value, list):
        return {f"Column{index + 1}": scalar(cell) for index, cell in enumerate(value)}
    return {"Result": scalar(value)}


def to_table(value: Any) -> str:
    """Columns from the scalar fields of each item; nested values, `$schema` and empty columns are left out."""
    rows = [_table_row(row) for row in (value if isinstance(value, list) else [value])]
    columns = list(dict.fromkeys(column for row in rows for column, cell in row.items() if cell))
    if not columns:
        return ""
    return grid(columns, [[row.get(column, "") for column in columns] for row in rows])


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns with a dashed rule under the titles."""
    flat = [[cell.replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(line[at]) for line in [columns, *flat]) for at in range(len(columns))]
    rule = ["-" * width for width in widths]
    lines = [columns, rule, *flat]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )
