from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def backend_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built environments of this test run, shared by its tests."""
    return tmp_path_factory.mktemp("environments")
