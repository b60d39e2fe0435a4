"""Names in a cluster: short enough, right to Kubernetes, the same every time, different for different things."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.backends.kubernetes import names

ENDPOINTS = st.from_regex(r"[a-zA-Z](-?[a-zA-Z0-9]){2,15}", fullmatch=True)
TEMPLATES = st.from_regex(r"[0-9a-f]{16}(-[1-9][0-9]?)?", fullmatch=True)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@given(ENDPOINTS, ENDPOINTS, TEMPLATES)
def test_they_are_what_kubernetes_takes_with_room_for_what_it_adds(
    endpoint: str, deployment: str, template: str
) -> None:
    for name in (
        names.deployment_name(endpoint, deployment, template),
        names.account_name(endpoint),
        names.budget_name(endpoint, deployment),
    ):
        assert len(f"{name}-0123456789-") <= 58  # beyond that, pod names are cut
        assert _SUBDOMAIN.fullmatch(name)
    assert all(names.is_label(value) for value in names.labels(endpoint, deployment, template).values())


Things = st.tuples(ENDPOINTS, ENDPOINTS, TEMPLATES)


@given(Things, Things)
def test_different_things_have_different_names(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (names.deployment_name(*one) == names.deployment_name(*other)) is (one == other)
    assert (names.budget_name(*one[:2]) == names.budget_name(*other[:2])) is (one[:2] == other[:2])
    assert (names.account_name(one[0]) == names.account_name(other[0])) is (one[0] == other[0])


@given(ENDPOINTS, ENDPOINTS, TEMPLATES)
def test_dashes_and_capitals_do_not_make_two_things_one(endpoint: str, deployment: str, template: str) -> None:
    shifted = names.deployment_name(f"{endpoint}-x", deployment, template)
    assert shifted != names.deployment_name(endpoint, f"x-{deployment}", template)
    if endpoint != endpoint.swapcase():
        assert names.account_name(endpoint) != names.account_name(endpoint.swapcase())


def test_a_name_says_to_people_what_it_is() -> None:
    assert names.deployment_name("shop", "blue", "t1") == "shop-blue-3e626c2a87f4"
    assert names.account_name("shop").startswith("shop-")


def test_what_cannot_be_a_label_is_known() -> None:
    assert names.is_label("A-1.b_c")
    for text in ("", "-a", "a-", "a b", "ä", "a" * 64):
        assert not names.is_label(text)


def test_only_what_is_ours_is_selected() -> None:
    assert names.OURS == "app.kubernetes.io/managed-by=tidegate,app.kubernetes.io/name=tidegate-replica"
    assert names.selector({"a": "b", "c": "d"}) == "a=b,c=d"
