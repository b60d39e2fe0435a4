"""No number stands for two words, whoever told one that nobody else knows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.control.versions import LIFE, MOST, Versions


def test_the_first_word_ever_is_the_first() -> None:
    assert Versions().next("e", first=True) == 1
    assert Versions().next("e", first=False) == 1


def test_within_a_life_numbers_have_no_holes_and_a_new_life_leaves_room() -> None:
    versions = Versions()
    versions.said("e", 7)
    assert versions.next("e", first=False) == 8
    assert versions.next("e", first=True) == 7 + LIFE
    versions.said("e", 3)
    assert versions.next("e", first=False) == 8, "an older word that is read late changes nothing"


def test_a_number_that_a_reporter_names_is_gone_above_and_one_that_is_known_is_no_news() -> None:
    versions = Versions()
    versions.said("e", 7)
    assert not versions.named("e", 7)
    assert not versions.outnumbered("e")
    assert versions.named("e", 50)
    assert versions.outnumbered("e")
    assert not versions.outnumbered("other")
    assert versions.next("e", first=False) == 51
    versions.said("e", 51)
    assert not versions.outnumbered("e")
    assert not versions.named("e", 50)


def test_a_reporter_that_names_what_cannot_be_does_no_harm() -> None:
    versions = Versions()
    versions.said("e", 7)
    assert not versions.named("e", MOST)
    assert not versions.named("e", 2**63 - 1)
    assert versions.next("e", first=False) == 8


events = st.lists(st.tuples(st.sampled_from(["said", "named", "next"]), st.integers(0, 10_000)))


@given(events, st.booleans())
def test_the_next_number_is_above_everything_heard_of(happened: list[tuple[str, int]], first: bool) -> None:
    versions, highest = Versions(), 0
    for what, number in happened:
        if what == "next":
            made = versions.next("e", first=first)
            assert made > highest
            versions.said("e", made)
            highest = made
        elif what == "said":
            versions.said("e", number)
            highest = max(highest, number)
        else:
            assert versions.named("e", number) is versions.outnumbered("e") or number <= highest
            highest = max(highest, number)
    assert versions.next("e", first=first) > highest
