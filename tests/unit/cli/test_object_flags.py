"""The flags of objects mean the same to `tidegate control` and to the control plane of `tidegate up`."""

from __future__ import annotations

from router.cli.parser import build_parser
from router.compute import object_settings, objects_passed_on
from router.runtime.settings import ObjectSettings

WORDS = ("--kubernetes-objects", "--kubeconfig=k", "--kubernetes-context=c", "--kubernetes-namespace=n")


def test_objects_are_followed_only_when_asked_for() -> None:
    for role in ("control", "up"):
        assert object_settings(build_parser().parse_args([role])) is None
    assert objects_passed_on(build_parser().parse_args(["up", "--kubeconfig=k"])) == ()


def test_up_tells_its_control_plane() -> None:
    passed = objects_passed_on(build_parser().parse_args(["up", *WORDS]))
    assert passed == WORDS
    assert object_settings(build_parser().parse_args(["control", *passed])) == ObjectSettings("k", "c", "n")


def test_the_context_says_what_is_not_said() -> None:
    flags = build_parser().parse_args(["control", "--kubernetes-objects"])
    assert object_settings(flags) == ObjectSettings(None, None, None)
