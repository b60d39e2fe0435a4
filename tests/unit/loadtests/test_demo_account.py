"""The demo's bookkeeping: what it counts as lost, what it plots, and when it says that a promise was broken."""

from __future__ import annotations

from typing import Any

from loadtests.demo.__main__ import problems
from loadtests.demo.plot import timeline
from loadtests.demo.traffic import Tally


def summary(**changes: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "requests": 500,
        "lost": 0,
        "stages": {"split": {"requests": 400, "lost": 0}},
        "split_seen": {"blue": 0.9, "green": 0.1},
        "shadows": {"compared": 40, "equal": 40, "dropped": 0},
        "peak_replicas": 3,
        "tokens_streamed": 40,
    }
    return {**kept, **changes}


def test_a_run_that_kept_its_promises_has_no_problem() -> None:
    assert problems(summary()) == []


def test_every_broken_promise_is_named() -> None:
    assert problems(summary(lost=1)) == ["1 requests were lost"]
    assert problems(summary(shadows={"compared": 0, "equal": 0, "dropped": 9})) == ["no shadow was compared"]
    assert problems(summary(peak_replicas=1)) == ["the burst did not scale out"]
    assert problems(summary(tokens_streamed=0)) == ["nothing was streamed"]
    assert len(problems(summary(split_seen={"blue": 0.89, "green": 0.11}))) == 2


def test_a_request_without_an_answer_is_lost_in_the_sum_too() -> None:
    total = Tally()
    total.add(Tally(sent=3, answered=2))
    total.add(Tally(sent=1, answered=1))
    assert (total.sent, total.lost) == (4, 1)


def test_the_timeline_shows_the_largest_value_of_each_slice_and_holds_it_until_the_next() -> None:
    lines = timeline([(0.0, {"blue": 1}), (1.0, {"blue": 2}), (3.0, {"blue": 0})], width=4)
    assert lines[0] == "blue │▄██ │ peak 2"
    assert lines[-1].endswith("3 s")


def test_no_samples_give_no_timeline() -> None:
    assert timeline([]) == []
