"""The backend in numbers: what the API server was asked, and whether what is watched is up to date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.runtime.exposition import Family
from router.runtime.kubernetes import Watched

_PREFIX = "tidegate_autoscaler_kubernetes"


def families(requests: Mapping[tuple[str, str, str], int], parts: Mapping[str, Watched[Any]]) -> Iterator[Family]:
    """`requests`: (verb, resource, code) → how often. `parts`: what is watched, by name."""
    asked = [
        ({"verb": verb, "resource": resource, "code": code}, float(count))
        for (verb, resource, code), count in sorted(requests.items())
    ]
    yield Family(f"{_PREFIX}_requests_total", "counter", "Requests to the API server; code none: no answer", asked)
    watched = [({"resource": name}, float(one.current)) for name, one in parts.items()]
    words = "1 while this kind of object is watched, 0 while what is known of it may be out of date"
    yield Family(f"{_PREFIX}_watched", "gauge", words, watched)
