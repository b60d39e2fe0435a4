"""YAML becomes plain data that remembers its lines; what plain data cannot hold is refused with its line."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract.documents import MAX_DEPTH, apply_set, read_document
from router.contract.errors import InvalidSpec


def problem(text: Any) -> Any:
    with pytest.raises(InvalidSpec) as caught:
        read_document(text, file="a.yml")
    assert caught.value.problems[0].file == "a.yml"
    return caught.value.problems[0]


def test_every_path_has_its_line() -> None:
    located = read_document(
        "# comment\n$schema: x\na:\n  b:\n  - c: 1\n    d: |\n      two\n      lines\n  - e\nf: {g: 1}\n"
    )
    assert located.document == {"$schema": "x", "a": {"b": [{"c": 1, "d": "two\nlines\n"}, "e"]}, "f": {"g": 1}}
    assert located.lines == {
        "": 2, "$schema": 2, "a": 3, "a.b": 4, "a.b.0": 5, "a.b.0.c": 5, "a.b.0.d": 6, "a.b.1": 9, "f": 10, "f.g": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), ("+3", 3), ("0", 0), ("0x1f", 31), ("0o17", 15), ("1.5", 1.5), (".5", 0.5), ("5.", 5.0),
        ("1e3", 1000.0), ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("on", "on"),
        ("yes", "yes"), ("12:30", "12:30"), ("010", "010"), ("007", "007"), ("2024-01-01", "2024-01-01"), ("1_000", "1_000"),
        (".inf", ".inf"), (".nan", ".nan"), ("1e999", "1e999"), ("'1'", "1"), ('"true"', "true"), ("!!str 1", "1"),
        ("!!int 1", 1), ("a b", "a b"), ("1.2.3", "1.2.3"), ("9" * 30, "9" * 30),
    ],
)  # fmt: skip
def test_plain_scalars_mean_what_yaml_1_2_says(text: Any, value: Any) -> None:
    found = read_document(f"key: {text}").document["key"]
    assert (found, type(found)) == (value, type(value))


def test_keys_are_always_text() -> None:
    assert read_document("{1: a, on: b, true: c, ~: d, 'x.y': e}").document == {
        "1": "a", "on": "b", "true": "c", "~": "d", "x.y": "e",
    }  # fmt: skip


def test_anchors_and_merged_maps_are_written_out() -> None:
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: [*base, {c: 4}]}\nsame: *base\n"
    document = read_document(text).document
    assert document["one"] == {"a": 1, "b": 3}
    assert document["two"] == {"a": 1, "b": 2, "c": 4}
    document["same"]["a"] = 9
    assert document["base"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3),
        ("a:\n  b: 1\n  b: 2\n", "a.b", 3),
        ("a: 1\n---\nb: 2\n", "document", 3),
        ("", "document", None),
        ("# nothing\n", "document", None),
        ("- 1\n- 2\n", "document", 1),
        ("text", "document", 1),
        ("a: [1\nb: 2\n", "document", 2),
        ("a: b: c\n", "document", 1),
        ("\ta: 1\n", "document", 1),
        ("a: *nowhere\n", "document", 1),
        ("a: 1\nb: !!python/object:os.system x\n", "b", 2),
        ("a: !custom {b: 1}\n", "a", 1),
        ("a: !!set {b}\n", "a", 1),
        ("a: !!int x\n", "a", 1),
        ("? [1, 2]\n: 3\n", "document", 1),
        ("a: &a\n  b: *a\n", "a.b", 1),
        ("a: {<<: 3}\n", "a", 1),
        ("a: \x00\n", "document", None),
    ],
)
def test_what_cannot_be_taken_is_refused_at_its_line(text: Any, field: Any, line: Any) -> None:
    found = problem(text)
    assert (found.field, found.line) == (field, line)


def test_every_double_key_is_one_problem() -> None:
    with pytest.raises(InvalidSpec) as caught:
        read_document("a: 1\na: 2\nb: 1\nb: 2\n")
    assert [(one.field, one.line) for one in caught.value.problems] == [("a", 2), ("b", 4)]


def test_a_bomb_of_aliases_and_a_deep_nest_end_early() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "at most" in problem("\n".join(["l0: &l0 [x]", *levels])).message
    assert "at most" in problem("a: " + "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2)).message
    assert problem("a: " + "[" * 1200 + "]" * 1200).message


def test_a_path_is_read_and_named(tmp_path: Any) -> None:
    path = tmp_path / "blue.yml"
    path.write_text("name: blue\n", encoding="utf-8")
    located = read_document(path)
    assert (located.document, located.file) == ({"name": "blue"}, str(path))
    with pytest.raises(InvalidSpec, match="No such file"):
        read_document(tmp_path / "green.yml")
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(InvalidSpec, match="not UTF-8"):
        read_document(path, file="blue.yml")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("instance_count=2", {"instance_count": 2}),
        ("name=green", {"name": "green"}),
        ("name='2'", {"name": "2"}),
        ("tags.team=a=b", {"tags": {"team": "a=b", "old": "1"}}),
        ("tags={}", {"tags": {}}),
        ("tags.new.deep=true", {"tags": {"old": "1", "new": {"deep": True}}}),
        ("list.0=x", {"list": ["x", {"a": 1}]}),
        ("list[1].a=5", {"list": [0, {"a": 5}]}),
        ("list.2=end", {"list": [0, {"a": 1}, "end"]}),
        ("list.2.b=end", {"list": [0, {"a": 1}, {"b": "end"}]}),
        (r"limits.nvidia\.com/gpu=1", {"limits": {"nvidia.com/gpu": 1}}),
        ("description=", {"description": ""}),
        ("description=a: b", {"description": "a: b"}),
        ("hosts=[a, b]", {"hosts": ["a", "b"]}),
    ],
)
def test_set_changes_one_value_of_a_copy(assignment: Any, expected: Any) -> None:
    document = {"instance_count": 1, "name": "blue", "tags": {"old": "1"}, "list": [0, {"a": 1}]}
    assert apply_set(document, assignment) == {**document, **expected}
    assert document == {"instance_count": 1, "name": "blue", "tags": {"old": "1"}, "list": [0, {"a": 1}]}


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("instance_count", "--set"), ("=2", "--set"), ("a..b=1", "--set"), ("name.x=1", "name"), ("list.9=1", "list.9"),
        ("list.x=1", "list.x"), ("list.x.y=1", "list.x"), ("tags=[1", "document"),
    ],
)  # fmt: skip
def test_a_set_that_fits_nowhere_is_a_problem(assignment: Any, field: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        apply_set({"name": "blue", "list": [1]}, assignment)
    assert caught.value.problems[0].field == field
