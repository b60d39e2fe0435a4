"""What a soak has to say, as a table and small plots, and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from loadtests.demo.plot import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.soak.soak import Outcome

_SHOWN = 30
"""Problems that are printed; the JSON has all."""


def quantile_ms(seconds: Sequence[float], share: float) -> float:
    """Of some latencies, in milliseconds; 0 of none."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def told(outcome: Outcome) -> dict[str, Any]:
    """Everything as plain data."""
    account, verdict = outcome.account, outcome.verdict
    return {
        "seconds": outcome.seconds,
        "seed": outcome.seed,
        "requests": account.asked,
        "ok": verdict.ok,
        "explained": dict(verdict.explained),
        "unexplained": [account.told(one) for one in verdict.unexplained],
        "failures": [account.told(one) for one in account.failures],
        "sent_again": account.resent,
        "streams_at_once": account.streams_at_once,
        "causes": [_plain(asdict(cause), account.started) for cause in account.causes],  # type: ignore[call-overload] # dataclasses all
        "kinds": {
            name: {"asked": kind.asked, "ok": kind.ok, "explained": kind.explained}
            | {f"p{share:g}_ms": round(quantile_ms(kind.seconds, share / 100), 1) for share in (50, 99, 100)}
            for name, kind in sorted(account.kinds.items())
        },
        "done": outcome.done,
        "split_off_by_at_most": round(outcome.split_off, 2),
        "generator": {"late_seconds": round(outcome.load.late_seconds, 2), "skipped": outcome.load.skipped},
        "memory": [asdict(one) | {"flat": one.flat} for one in outcome.vitals.trends()],
        "left_open": outcome.left_open,
        "problems": outcome.problems,
        "series": [
            {
                "name": name,
                "pid": pid,
                "samples": [(round(one.at, 1), one.resident, one.descriptors) for one in samples],
            }
            for (name, pid), samples in outcome.vitals.series.items()
        ],
    }


def _plain(words: dict[str, Any], started: float) -> dict[str, Any]:
    times = ("stopped", "dead", "begun", "gone", "at", "over")
    shown: dict[str, Any] = {
        key: sorted(value) if isinstance(value, frozenset) else value for key, value in words.items()
    }
    return shown | {key: round(shown[key] - started, 3) for key in times if key in shown and shown[key] != float("inf")}


def show(outcome: Outcome) -> None:
    """For people."""
    console, account, verdict = Console(), outcome.account, outcome.verdict
    table = Table(title=f"soak of {outcome.seconds:g} s, SEED={outcome.seed}", title_justify="left")
    for name in ("requests", "asked", "ok", "explained", "p50 ms", "p99 ms", "longest ms"):
        table.add_column(name, justify="left" if name == "requests" else "right")
    for name, kind in sorted(account.kinds.items()):
        times = [f"{quantile_ms(kind.seconds, share):.0f}" for share in (0.5, 0.99, 1)]
        table.add_row(name, str(kind.asked), str(kind.ok), str(kind.explained or ""), *times)
    console.print(table)
    for title, counts in (("done meanwhile", outcome.done), ("explained failures", dict(verdict.explained))):
        console.print(f"{title}: {', '.join(f'{count} {name}' for name, count in sorted(counts.items())) or 'none'}")
    console.print(
        f"sent again behind `connection: close` or GOAWAY: {account.resent}; splits off by at most {outcome.split_off:.2f} requests"
    )
    _memory(console, outcome)
    for problem in outcome.problems[:_SHOWN]:
        console.print(f"✗ {problem}", style="red", markup=False)
    words = f"{account.asked} requests: {verdict.ok} ok, {verdict.explained.total()} explained, {len(verdict.unexplained)} unexplained"
    console.print(f"{'✗' if outcome.problems else '✓'} {words}; {len(outcome.problems)} problems")


def _memory(console: Console, outcome: Outcome) -> None:
    table = Table(title="memory over the second half of each process's life", title_justify="left")
    for name in ("process", "lived s", "MB", "MB/hour", "MB/million requests", "grown MB", "flat"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for one in outcome.vitals.trends():
        if not one.name.startswith("keeper") or not one.flat:
            figures = (one.first_bytes / 1e6, one.per_hour / 1e6, one.per_million_requests / 1e6, one.growth / 1e6)
            table.add_row(
                f"{one.name} ({one.pid})",
                f"{one.seconds:.0f}",
                *(f"{x:.2f}" for x in figures),
                "yes" if one.flat else "NO",
            )
    if table.row_count:
        console.print(table)
    for title, value in (("resident MB", lambda one: one.resident / 1e6), ("descriptors", lambda one: one.descriptors)):
        console.print(title)
        for line in timeline(outcome.vitals.timeline(value)):
            console.print(f"  {line}", markup=False, highlight=False)
