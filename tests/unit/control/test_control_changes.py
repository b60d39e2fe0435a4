"""What a request makes of an endpoint, as values."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract.errors import Conflict, InvalidSpec, NotFound
from router.control import changes
from router.control.content import Change, Content, KeyPair, OperationKind, Standing

KEYS = KeyPair("p" * 64, "s" * 64)
DEPLOYMENT: dict[str, Any] = {"environment": {"image": "x/y:1"}, "instance_type": "small", "instance_count": 1}


def standing(change: Change, before: Standing | None = None) -> Standing:
    number = 1 if before is None else before.revision + 1
    keys = change.keys or (before.keys if before else None)
    return Standing("shop", number, 0, change.content, change.deleted, keys)


def endpoint(*deployments: str, **document: Any) -> Standing:
    """`shop` with these deployments, then `document`."""
    now = standing(changes.put_endpoint(None, "shop", {}, KEYS))
    for name in deployments:
        now = standing(changes.put_deployment(now, "shop", name, DEPLOYMENT), now)
    return standing(changes.put_endpoint(now, "shop", document, KEYS), now) if document else now


def test_keys_show_in_no_representation() -> None:
    change = changes.put_endpoint(None, "shop", {}, KEYS)
    assert KEYS.primary not in repr(change)
    assert KEYS.primary not in repr(standing(change))
    assert len(set(KEYS.hashes())) == 2


def test_what_cannot_change_may_be_left_to_the_default_that_it_has() -> None:
    egress = "egress_public_network_access"
    now = standing(changes.put_deployment(endpoint(), "shop", "blue", DEPLOYMENT | {egress: "enabled"}), endpoint())
    changes.put_deployment(now, "shop", "blue", DEPLOYMENT)
    with pytest.raises(InvalidSpec, match="cannot be changed: it is 'enabled'"):
        changes.put_deployment(endpoint("blue"), "shop", "blue", DEPLOYMENT | {egress: "disabled"})


def test_an_update_keeps_the_deployments_and_says_what_changed() -> None:
    now = endpoint("blue", "green")
    change = changes.put_endpoint(now, "SHOP", {"traffic": {"Blue": 90, "green": 10}, "description": "x"}, KEYS)
    assert change.kind is OperationKind.UPDATE
    assert change.keys is None
    assert set(change.content.deployments) == {"blue", "green"}
    assert change.words == "update description, name, traffic to blue=90 green=10"
    assert change.content.traffic == {"blue": 90, "green": 10}


def test_live_and_mirrored_traffic_exclude_each_other() -> None:
    with pytest.raises(InvalidSpec, match="never both"):
        endpoint("blue", traffic={"blue": 100}, mirror_traffic={"blue": 10})


def test_a_mirror_of_the_extras_must_exist_too_and_blocks_deletion() -> None:
    target = {"deployment": "Green", "fraction": 0.001}
    now = endpoint("blue", "green", tidegate={"mirror": [target]})
    with pytest.raises(
        Conflict, match=r"first run: tidegate online-endpoint update --name shop --set tidegate\.mirror"
    ):
        changes.delete_deployment(now, "shop", "green")
    with pytest.raises(InvalidSpec) as refused:
        endpoint("blue", tidegate={"mirror": [target]})
    assert refused.value.problems[0].field == "tidegate.mirror.green"


def test_all_traffic_ends_the_mirror_to_the_same_deployment_only() -> None:
    mirror = [{"deployment": "Green", "fraction": 0.1}, {"deployment": "red", "fraction": 0.1}]
    now = endpoint("blue", "green", "red", traffic={"blue": 100}, tidegate={"mirror": mirror})
    document = changes.give_all_traffic(now, "shop", "green").content.document
    assert document["traffic"] == {"green": 100}
    assert [one["deployment"].lower() for one in document["tidegate"]["mirror"]] == ["red"]
    now = endpoint("blue", "green", traffic={"blue": 100}, mirror_traffic={"green": 10})
    assert not changes.give_all_traffic(now, "shop", "GREEN").content.document.get("mirror_traffic")


def test_deleting_the_only_deployment_with_traffic_names_the_command_that_stops_it() -> None:
    with pytest.raises(Conflict, match='--traffic "blue=0"'):
        changes.delete_deployment(endpoint("blue", traffic={"blue": 100}), "shop", "blue")


def test_a_deleted_deployment_leaves_nothing_in_the_document() -> None:
    now = endpoint("blue", "green", traffic={"blue": 100, "green": 0}, mirror_traffic={"green": 0})
    now = standing(changes.restart_deployment(now, "shop", "green"), now)
    content = changes.delete_deployment(now, "shop", "Green").content
    assert "green" not in content.to_text()
    assert content == Content.from_text(content.to_text())


def test_a_roll_back_never_turns_a_restart_count_back() -> None:
    old = endpoint("blue")
    now = standing(changes.restart_deployment(old, "shop", "blue"), old)
    now = standing(changes.restart_deployment(now, "shop", "blue"), now)
    assert changes.roll_back(now, "shop", old).content.restarts == {"blue": 2}


def test_a_deletion_cannot_be_rolled_back_to() -> None:
    now = endpoint("blue")
    gone = standing(changes.delete_endpoint(now, "shop"), now)
    with pytest.raises(Conflict, match="is the deletion"):
        changes.roll_back(now, "shop", gone)
    with pytest.raises(NotFound, match="does not exist"):
        changes.roll_back(gone, "shop", now)


def test_the_number_of_deployments_is_bounded() -> None:
    now = endpoint("blue")
    many = {f"d{number:03d}": now.content.deployments["blue"] for number in range(changes.MAX_DEPLOYMENTS)}
    full = Standing("shop", 2, 0, now.content.replace(deployments=many), deleted=False, keys=KEYS)
    with pytest.raises(Conflict, match="delete one first"):
        changes.put_deployment(full, "shop", "more", DEPLOYMENT)
    assert changes.put_deployment(full, "shop", "d001", DEPLOYMENT).kind is OperationKind.UPDATE


@pytest.mark.parametrize("act", [changes.delete_deployment, changes.restart_deployment, changes.give_all_traffic])
def test_an_unknown_deployment_is_named_beside_those_that_are_there(act: Any) -> None:
    with pytest.raises(NotFound, match="it has blue, green"):
        act(endpoint("blue", "green"), "shop", "red")


def test_regenerating_keys_that_are_not_known_makes_both_new() -> None:
    now = endpoint()
    lost = Standing("shop", 2, 0, now.content, deleted=False, keys=None, key_hashes=("a", "b"))
    fresh = KeyPair("1" * 64, "2" * 64)
    assert changes.regenerate_key(lost, "shop", "primary", fresh).keys == fresh
    assert changes.regenerate_key(now, "shop", "secondary", fresh).keys == KeyPair(KEYS.primary, fresh.secondary)
