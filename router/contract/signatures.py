"""Signatures that open one uploaded file to whoever shows them. Pure.

A pod that fetches its files needs no token that would open more. A signature has no end of its own, because a pod may be
started again at any time; it ends with its key.
"""

from __future__ import annotations

import hashlib
import hmac

QUERY = "signature"
"""Where it stands in the address of an asset."""
_WHAT = b"tidegate asset "


def sign(key: str, sha256: str) -> str:
    """Of the asset `sha256`: 64 hex digits."""
    return hmac.new(key.encode(), _WHAT + sha256.encode(), hashlib.sha256).hexdigest()


def is_signed(key: str, sha256: str, signature: str) -> bool:
    """Whether `signature` was made with `key`; compared in constant time."""
    return hmac.compare_digest(sign(key, sha256).encode(), signature.encode("utf-8", "surrogateescape"))
