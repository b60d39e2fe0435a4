"""The wheel's build hook: what it is asked by, and what it names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_TOP = Path(__file__).parents[3]


@pytest.fixture
def compiling() -> ModuleType:
    path = _TOP / "deploy" / "compiling.py"
    found = importlib.util.spec_from_file_location("compiling", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_all_of_the_live_path_is_compiled_but_what_is_named(compiling: ModuleType) -> None:
    found = compiling.modules(_TOP)
    assert {"router/policy/splitting.py", "router/gateway/exchange.py"} <= set(found)
    assert [one for one in compiling.INTERPRETED if one in found or not (_TOP / one).is_file()] == []


def test_nothing_is_compiled_unless_the_environment_asks(
    compiling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TIDEGATE_COMPILE", raising=False)
    hook: Any = compiling.CompiledWheel(str(tmp_path), {}, None, None, str(tmp_path), "wheel")
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize("standard", data)
    assert hook.dependencies() == []
    assert data == {"force_include": {}}


def test_an_answer_that_is_none_is_refused(compiling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_COMPILE", "yes")
    with pytest.raises(ValueError, match="TIDEGATE_COMPILE is 'yes': 1 compiles"):
        compiling.asked_for()
