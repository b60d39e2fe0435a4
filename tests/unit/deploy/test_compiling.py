"""The wheel's build hook: what it is asked by, and what it names."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
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


def functions(path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse((_TOP / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_errors_that_are_caught_under_one_name_are_of_one_kind(compiling: ModuleType) -> None:
    """Compiled, a name has the type of the first: the second kind would end in a TypeError."""
    for path in compiling.modules(_TOP):
        for function in functions(path):
            caught: dict[str, str] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
                    kind = ast.unparse(node.type)
                    assert caught.setdefault(node.name, kind) == kind, (path, function.name, node.name)


def test_nothing_that_was_set_to_none_is_looked_at_behind_a_loop(compiling: ModuleType) -> None:
    """Compiled, it is taken for None still, whatever the calls in the loop have put there."""
    for path in compiling.modules(_TOP):
        for function in functions(path):
            for at, statement in enumerate(function.body):
                if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)):
                    continue
                if statement.value.value is not None or not isinstance(statement.targets[0], ast.Attribute):
                    continue
                name, behind = ast.unparse(statement.targets[0]), function.body[at + 1 :]
                loops = [here for here, one in enumerate(behind) if isinstance(one, ast.For | ast.While)]
                later = behind[loops[0] + 1 :] if loops else []
                tests = [ast.unparse(one.test) for one in later if isinstance(one, ast.If)]
                assert not any(name in test for test in tests), (path, function.name, name)


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


def test_what_is_shipped_is_optimised_and_what_is_tested_need_not_be(
    compiling: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_COMPILE", "1")
    assert (compiling.asked_for(), compiling.optimisation()) == (True, "2")
    monkeypatch.setenv("TIDEGATE_COMPILE", "quickly")
    assert (compiling.asked_for(), compiling.optimisation()) == (True, "0")
