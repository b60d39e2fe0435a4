"""Replicas near by: with the same traffic in every zone each replica gets the same, and as little as possible crosses zones."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.zones import deal

ZONES = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=40)


@given(ZONES)
def test_every_replica_gets_the_same_when_every_zone_has_the_same_traffic(zones: list[str]) -> None:
    found = Counter(zones)
    if len(found) < 2 or not all(zone for zone in found):
        return
    got: Counter[str] = Counter()
    for mine in found:
        for zone, share in deal(mine, zones).items():
            got[zone] += share / len(found)  # type: ignore[assignment] # a share
    for zone, count in found.items():
        assert got[zone] == pytest.approx(count / len(zones))


@given(ZONES, st.sampled_from(["a", "b", "elsewhere", ""]))
def test_the_shares_add_up_and_only_what_is_short_leaves(zones: list[str], mine: str) -> None:
    shares = deal(mine, zones)
    if not shares:
        assert not mine or mine not in zones or set(zones) == {mine}
        return
    assert sum(shares.values()) == pytest.approx(1)
    even = 1 / len(set(zones))
    own = zones.count(mine) / len(zones)
    assert shares[mine] == pytest.approx(min(1, own / even))
    assert all(share > 0 and zones.count(zone) / len(zones) > even for zone, share in shares.items() if zone != mine)


@pytest.mark.parametrize(
    ("zones", "shares"),
    [
        ("ab", {"a": 1}), ("aabb", {"a": 1}), ("aaab", {"a": 1}), ("aaaa", {}), ("bb", {}), ("abbb", {"a": 0.5, "b": 0.5}),
        ("abbccc", {"a": 0.5, "c": 0.5}), ("aabbbc", {"a": 1}),
    ],
)  # fmt: skip
def test_as_seen_from_a(zones: str, shares: dict[str, float]) -> None:
    assert deal("a", zones) == pytest.approx(shares)
