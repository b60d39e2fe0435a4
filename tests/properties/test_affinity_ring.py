"""Affinity: evenly dealt, the same everywhere, little moved by a change, and never above the bound."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.affinity import LOOKED_AT_BYTES, POINTS, Prefix, Ring, hash_of, most, points_of
from router.policy.balancing import least_loaded

IDS = st.lists(st.text("abcdef0123456789-", min_size=1, max_size=12), min_size=1, max_size=12, unique=True)
KEYS = [hash_of(b"caller-%d" % number) for number in range(4000)]


def owners(ring: Ring) -> list[str]:
    return [ring.owner(key) for key in KEYS]


@given(IDS, st.data())
def test_a_change_moves_what_it_must_and_the_ring_is_as_if_made_anew(ids: list[str], data: st.DataObject) -> None:
    before = Ring().changed(ids)
    staying = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True))
    after = before.changed([*staying, "fresh"])
    anew = Ring().changed(reversed([*staying, "fresh"]))
    assert owners(after) == owners(anew)
    for was, now in zip(owners(before), owners(after), strict=True):
        assert was == now or was not in staying or now == "fresh"


@pytest.mark.parametrize("count", [2, 3, 10, 40])
def test_shares_are_even_and_one_more_replica_moves_its_share(count: int) -> None:
    ids = [f"replica-{number}" for number in range(count)]
    before = Ring().changed(ids)
    found = Counter(owners(before))
    even = len(KEYS) / count
    slack = 5 * math.sqrt(even + even**2 / POINTS)  # of the keys, and of the points
    assert all(abs(found[one] - even) < slack for one in ids), found
    moved = sum(was != now for was, now in zip(owners(before), owners(before.changed([*ids, "new"])), strict=True))
    assert 0 < moved < len(KEYS) / (count + 1) + slack


def test_the_ring_is_the_same_in_every_life() -> None:
    assert hash_of(b"caller") == 0xB5CFE15F82C3F5FA
    assert points_of("replica")[0] == 0x2D888D5E7F1898
    assert len(points_of("replica")) == POINTS


def place(ring: Ring, loads: dict[str, int], key: int, bound: float) -> str:
    """As a lane does it."""
    limit = most(bound, sum(loads.values()) + 1, len(loads))
    for replica in ring.from_point(key):
        if loads[replica] < limit:
            return replica
    ids = list(loads)
    found = least_loaded([loads[one] for one in ids], 1 << 30)
    assert found is not None
    return ids[found]


@given(IDS, st.floats(1.01, 3), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200), st.randoms())
def test_no_replica_takes_one_beyond_the_bound(
    ids: list[str], bound: float, steps: list[tuple[int, bool]], dice: object
) -> None:
    ring = Ring().changed(ids)
    loads = dict.fromkeys(ids, 0)
    under_way: list[str] = []
    for key, ends in steps:
        if ends and under_way:
            loads[under_way.pop(key % len(under_way))] -= 1
            continue
        chosen = place(ring, loads, KEYS[key], bound)
        loads[chosen] += 1
        under_way.append(chosen)
        assert loads[chosen] <= math.ceil(bound * len(under_way) / len(ids))


@given(IDS, st.integers(0, len(KEYS) - 1))
def test_a_key_prefers_the_same_replica_while_that_has_room(ids: list[str], number: int) -> None:
    ring = Ring().changed(ids)
    assert next(iter(ring.from_point(KEYS[number]))) == ring.owner(KEYS[number])


TEXTS = st.text(max_size=40)


@given(TEXTS, st.dictionaries(TEXTS.filter(lambda name: name != "prompt"), TEXTS, max_size=3), st.booleans())
def test_a_string_tells_requests_apart_wherever_it_stands(prompt: str, others: dict[str, str], first: bool) -> None:
    parts = {"prompt": prompt, **others} if first else {**others, "prompt": prompt}
    for spaced in (None, 1):
        found, final = Prefix("prompt", 4096).of(json.dumps(parts, indent=spaced).encode())
        assert json.loads(found) == prompt
        assert final


@given(st.binary(max_size=200), st.integers(1, 64), st.integers(0, 200))
def test_what_is_final_stays_as_it_is(rest: bytes, length: int, cut: int) -> None:
    body = b'{"model": "m", "prompt": "' + rest
    for prefix in (Prefix("prompt", length), Prefix("", length)):
        found, final = prefix.of(body[:cut])
        if final:
            assert prefix.of(body) == (found, True)


@pytest.mark.parametrize(
    ("body", "found", "final"),
    [
        (b'{"prompt":"hi", "n": 1}', b'"hi"', True),
        (b'{"prompt" :\n "a\\"b" }', b'"a\\"b"', True),
        (b'{"x": "\\"prompt\\": 1", "prompt": [1, 2, 3, 4]}', b"[1, 2, 3", True),
        (b'{"prompt": "long enough"}', b'"long en', True),
        (b'{"prompt": "shor', b'"shor', False),
        (b'{"prompt":  ', b"", False),
        (b'{"promp', b"", False),
        (b"", b"", False),
        (b" " * LOOKED_AT_BYTES + b'{"prompt": "hi"}', b"", True),
    ],
)
def test_what_of_a_body_is_hashed(body: bytes, found: bytes, final: bool) -> None:
    assert Prefix("prompt", 8).of(body) == (found, final)
