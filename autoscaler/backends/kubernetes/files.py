"""Which uploaded files a document names, and what opens them to the pod that needs them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscaler.backends.local.launch import section
from router.contract.signatures import sign


def digests(document: Mapping[str, Any]) -> list[str]:
    """SHA-256 of every asset that `document` names. Raises `Unlaunchable`."""
    environment = section(document, "environment")
    named = (
        (document.get("code_configuration") or {}).get("code"),
        section(document, "model").get("path"),
        environment.get("conda_file"),
    )
    found = (str(one).removeprefix("asset:").partition("/")[0] for one in named if one is not None)
    return list(dict.fromkeys(found))


def signatures(document: Mapping[str, Any], key: str) -> dict[str, str]:
    """Asset → signature; nothing without a `key`. Raises `Unlaunchable`."""
    return {digest: sign(key, digest) for digest in digests(document)} if key else {}
