"""What is printed is what scripts for az expect."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from router.cli.output import BadQuery, render, select

ENDPOINTS = [
    {"name": "a", "traffic": {"blue": 90, "green": 10}, "revision": 3, "tags": ["x", "y"], "open": True},
    {"name": "bee", "traffic": {}, "revision": 12, "tags": [], "open": None},
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("secret", "secret\n"),
        (["blue", "green"], "blue\ngreen\n"),
        ([["blue", 90], ["green", 10]], "blue\t90\ngreen\t10\n"),
        ({"name": "a", "n": 1}, "a\t1\n"),
        (ENDPOINTS, "a\t\t3\t2\ttrue\nbee\t\t12\t0\t\n"),
        (90, "90\n"),
        (True, "true\n"),
        (None, ""),
        ([], ""),
    ],
)
def test_tsv_is_bare_text(value: Any, text: str) -> None:
    assert render(value, "tsv") == text


def test_json_is_indented_by_two_and_sorted() -> None:
    assert render({"b": 1, "a": "ü"}, "json") == '{\n  "a": "ü",\n  "b": 1\n}\n'
    assert render("x", "json") == '"x"\n'


def test_nothing_is_printed_for_nothing() -> None:
    assert [render(None, form) for form in ("json", "yaml", "table", "tsv", "none")] == [""] * 5
    assert render({"a": 1}, "none") == ""


def test_a_table_shows_scalars_under_capitalized_titles() -> None:
    assert render(ENDPOINTS, "table") == (
        "Name  Revision  Open\n"
        "----  --------  ----\n"
        "a     3         true\n"
        "bee   12\n"
    )  # fmt: skip


def test_a_table_of_one_object_has_one_row() -> None:
    assert render({"primaryKey": "p", "secondaryKey": "s"}, "table") == (
        "PrimaryKey  SecondaryKey\n----------  ------------\np           s\n"
    )


def test_a_table_of_bare_values_has_a_result_column() -> None:
    assert render(["blue", "green"], "table") == "Result\n------\nblue\ngreen\n"
    assert render({"traffic": {"blue": 1}}, "table") == ""


def test_coloured_json_is_the_same_json() -> None:
    import re

    coloured = render({"a": [1, None, "x"]}, "jsonc", colour=True)
    assert "\x1b[" in coloured
    assert json.loads(re.sub(r"\x1b\[[0-9;]*m", "", coloured)) == {"a": [1, None, "x"]}
    assert render({"a": 1}, "jsonc") == render({"a": 1}, "json")


def test_a_query_picks_and_reshapes() -> None:
    assert select(ENDPOINTS, "[].name") == ["a", "bee"]
    assert select(ENDPOINTS[0], "traffic.green") == 10
    assert select(ENDPOINTS[0], "absent") is None
    assert select(ENDPOINTS, None) is ENDPOINTS


@pytest.mark.parametrize("expression", ["[", "name ||", "unknown(@)", "length(@.revision)", ""])
def test_a_broken_query_is_named(expression: str) -> None:
    with pytest.raises(BadQuery, match="--query"):
        select(ENDPOINTS[0], expression)


words = st.text(alphabet="abXY09 äß–:#-'\"\\\t\n{}[]&*!|>%@,?~=.", max_size=12)  # what YAML finds special
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_and_yaml_read_back_as_what_was_printed(value: Any) -> None:
    if value is None:
        return
    assert json.loads(render(value, "json")) == value
    assert yaml.safe_load(render(value, "yaml")) == value


@given(st.lists(st.dictionaries(st.sampled_from("abc"), json_values, max_size=3), max_size=4))
def test_a_table_has_one_line_per_row(rows: list[dict[str, Any]]) -> None:
    text = render(rows, "table")
    assert text == "" or text.count("\n") == len(rows) + 2


def test_a_table_starts_with_the_name_and_leaves_out_the_schema_and_empty_columns() -> None:
    rows = [{"$schema": "a", "kind": "managed", "name": "blue", "reason": ""}, {"kind": "managed", "name": "green"}]
    assert render(rows, "table") == "Name   Kind\n-----  -------\nblue   managed\ngreen  managed\n"
