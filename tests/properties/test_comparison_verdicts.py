"""The verdict is reflexive, symmetric, blind to key order and framing, and finds every planted difference."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mirror.comparison import Body, compare_bodies, events_of, first_difference

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
ENCODINGS = st.sampled_from(["", "gzip", "deflate", "br"])
TYPES = st.sampled_from(["application/json", "text/event-stream", ""])


def json_body(value: Any) -> Body:
    data = json.dumps(value).encode()
    return Body(len(data), data, content_type="application/json")


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    data = draw(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
    kept = draw(st.booleans())
    return Body(len(data), data if kept else None, "" if kept else data.hex(), draw(TYPES), draw(ENCODINGS))


@given(bodies())
def test_a_body_equals_itself(body: Any) -> None:
    assert compare_bodies(body, body).equal


@given(bodies(), bodies())
def test_the_verdict_does_not_depend_on_who_is_live(one: Body, two: Body) -> None:
    assert compare_bodies(one, two).equal == compare_bodies(two, one).equal


@given(bodies(), bodies())
def test_a_difference_is_named_exactly_when_there_is_one(one: Body, two: Body) -> None:
    found = compare_bodies(one, two)
    assert bool(found.difference) != found.equal
    json.dumps(found.difference).encode()  # whatever the bodies hold, the event can be written


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(key, shuffled(inner, chance)) for key, inner in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(inner, chance) for inner in value] if isinstance(value, list) else value


@given(VALUES, st.randoms(use_true_random=False))
def test_key_order_and_white_space_do_not_matter(value: Any, chance: random.Random) -> None:
    spaced = json.dumps(shuffled(value, chance), indent=1).encode()
    assert compare_bodies(json_body(value), Body(len(spaced), spaced)).equal


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list) and value:
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
    return [path]


def planted(value: Any, path: tuple[Any, ...], leaf: Any) -> Any:
    if not path:
        return leaf
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = planted(value[path[0]], path[1:], leaf)
    return copy


@given(VALUES, st.data())
def test_any_one_changed_leaf_is_found(value: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(leaves(value)))
    other = planted(value, path, "a value that text() does not draw by accident")
    assert first_difference(value, other) is not None
    assert not compare_bodies(json_body(value), json_body(other)).equal


@given(st.floats(-1e300, 1e300), st.floats(-4e-7, 4e-7), st.floats(3e-6, 1))
def test_numbers_have_a_relative_tolerance(number: float, small: float, large: float) -> None:
    assert first_difference([number], [number * (1 + small)]) is None
    if abs(number) > 1e-5:
        assert first_difference([number], [number * (1 + large)]) is not None


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1),
       st.sampled_from(["\n", "\r\n", "\r"]))  # fmt: skip
def test_events_do_not_depend_on_line_ends(texts: list[str], end: str) -> None:
    stream = "".join(f": note{end}id: 7{end}event: token{end}data: {text}{end}{end}" for text in texts)
    assert events_of(stream.encode()) == [("token", text) for text in texts]
