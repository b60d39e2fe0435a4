"""What a slow body is, and who one client is."""

from __future__ import annotations

import pytest

from router.policy.admission import HELD_TOTAL_BYTES, may_hold
from router.policy.clients import client_of
from router.policy.pacing import Pace


def test_a_body_is_slow_when_a_whole_window_brought_too_little() -> None:
    pace = Pace(1000, 10, now=0, received=50)
    assert not pace.is_slow(9, 50), "the window is not over"
    assert not pace.is_slow(10, 1050)
    assert not pace.is_slow(19, 1051), "a new window has begun"
    assert pace.is_slow(20, 2049)


def test_a_byte_in_time_moves_no_deadline() -> None:
    pace = Pace(1000, 10, now=0, received=0)
    assert [pace.is_slow(now, now) for now in range(1, 11)] == [False] * 9 + [True]


def test_time_in_which_nothing_was_read_does_not_count() -> None:
    pace = Pace(1000, 10, now=0, received=0)
    pace.restart(95, 0)
    assert not pace.is_slow(100, 0)
    assert pace.is_slow(105, 0)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("no:address", "no:address"),
    ],
)
def test_a_client_is_an_address_of_ipv4_or_a_network_of_ipv6(address: str, client: str) -> None:
    assert client_of(address) == client


def test_an_endpoints_waiting_bodies_may_have_as_much_as_is_free_besides() -> None:
    half, third = HELD_TOTAL_BYTES // 2, HELD_TOTAL_BYTES // 3
    assert may_hold(half, half)
    assert not may_hold(half + 1, half + 1)
    assert may_hold(third, 2 * third)
    assert may_hold(0, HELD_TOTAL_BYTES)
    assert not may_hold(1, HELD_TOTAL_BYTES)
