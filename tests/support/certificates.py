"""Certificates made at run time, for tests of TLS; skipped where `openssl` is not there to make them."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from loadtests.kafka.security import Certificates


def made(factory: pytest.TempPathFactory, name: str = "certificates") -> Certificates:
    """A fresh authority with a server's and a client's pair."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    certificates = Certificates(factory.mktemp(name))
    with asyncio.Runner() as runner:
        runner.run(certificates.create())
    return certificates
