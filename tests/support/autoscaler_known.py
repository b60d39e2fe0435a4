"""What an autoscaler knows of demand, in a form in which two of them can be compared to the bit."""

from __future__ import annotations

from typing import Any

from autoscaler.policy.demand import DemandState, Load, load_at
from tests.support.autoscaler_fleet import SECOND

EXPIRE = 10 * SECOND


def known(state: DemandState, now_ns: int) -> dict[str, Any]:
    """Everything that decisions are made from, by name: rows and cells may have other numbers."""
    load = load_at(state, now_ns, EXPIRE)
    loads = {
        (*target, name): getattr(load, name)[row].tolist()
        for target, row in state.rows.items()
        for name in Load.__slots__
    }
    words = {
        (endpoint, writer): (word.sequence, word.at_ns, word.replicas_version, word.shadow, dict(word.draining))
        for endpoint, by_writer in state.words.items()
        for writer, word in by_writer.items()
    }
    ids = {
        (endpoint, writer): (one.until, one.beyond.tolist())
        for endpoint, by_writer in state.ids.items()
        for writer, one in by_writer.items()
    }
    cells = {key: (state.cell_gauges[:, at].tolist(), int(state.cell_ns[at])) for key, at in state.cells.items()}
    return {
        "loads": loads,
        "words": words,
        "ids": ids,
        "cells": cells,
        "spoke": state.spoke_ns,
        "mirrors": state.mirrors,
    }


def sorted_text(part: Any) -> list[str]:
    """For comparing to the bit, NaN included."""
    return sorted(map(repr, part.items() if isinstance(part, dict) else part))
