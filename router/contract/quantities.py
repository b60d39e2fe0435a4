"""Kubernetes quantities: `500m`, `2`, `0.5`, `2Gi`, `1e3`."""

from __future__ import annotations

import re
from fractions import Fraction

_FORM = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,2}))?")
_SUFFIXES = {"m": Fraction(1, 1000)}
_SUFFIXES |= {letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)}
_SUFFIXES |= {f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)}


def quantity(text: str) -> Fraction:
    """The exact number a Kubernetes quantity stands for; `ValueError` when it is none or negative."""
    match = _FORM.fullmatch(text)
    if match is None or len(text) > 30:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    digits, suffix, exponent = match.groups()
    scale = _SUFFIXES[suffix] if suffix else Fraction(10) ** int(exponent or 0)
    return Fraction(digits) * scale
