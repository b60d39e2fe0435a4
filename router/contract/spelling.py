"""The nearest right spelling of a word that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None when nothing is close.

    Close means an edit distance of at most a third of the longer word, two at least; case, `-`, `_` and blanks count
    for nothing, so `RequestSettings` finds `request_settings`. Ties go to the word named first. When nothing is close, a word that
    begins alike will do (`mlflow` for `mlflow_model`).
    """
    known = tuple(known)
    folded = _fold(word)
    best: tuple[int, str] | None = None
    for candidate in known:
        other = _fold(candidate)
        allowed = max(2, max(len(folded), len(other)) // 3)
        away = distance(folded, other)
        if away <= allowed and away < max(len(folded), len(other)) and (best is None or away < best[0]):
            best = (away, candidate)
    return best[1] if best else _begun(folded, known)


def _begun(folded: str, known: Iterable[str]) -> str | None:
    """The first known word that goes on where `folded` ends, or that `folded` goes on from."""
    for candidate in known if len(folded) >= 3 else ():
        other = _fold(candidate)
        if other.startswith(folded) or (len(other) >= 3 and folded.startswith(other)):
            return candidate
    return None


def distance(a: str, b: str) -> int:
    """Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours, one each."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i] + [0] * len(b)
        for j, y in enumerate(b, 1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], before[j - 2] + 1)
        before = previous
    return row[-1]


def _fold(word: str) -> str:
    return "".join(character for character in word.lower() if character not in "-_ ")
