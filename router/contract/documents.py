"""YAML text → plain trees that remember the line of everything. The only module of the contract that knows YAML.

Plain scalars follow YAML 1.2's core schema: `on`, `12:30`, `010` in a version, and dates stay the text they are.
Keys are always text. What plain data cannot hold (several documents, tags of one's own, cycles) is a problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from router.contract.errors import InvalidSpec, Problem
from router.contract.frozen import thaw
from router.contract.reading import join

MAX_NODES = 20_000
"""Values a document may have, aliases written out: far above any real one, far below a bomb of aliases."""
MAX_DEPTH = 50

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_WORDS: dict[str, Any] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_PREFIX = "tag:yaml.org,2002:"
_STRING = f"{_PREFIX}str"
_PLAIN = "plain"
_SCALAR_TAGS: dict[str, type] = {_PLAIN: object, f"{_PREFIX}null": type(None)}
_SCALAR_TAGS |= {f"{_PREFIX}{kind.__name__}": kind for kind in (int, float, bool)}
_COLLECTION_TAGS = {f"{_PREFIX}map", f"{_PREFIX}seq"}


class _Loader(yaml.BaseLoader):
    """Leaves plain scalars unresolved and tells them from quoted ones and from those with a tag."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool] | bool) -> str:
        if kind is yaml.ScalarNode and isinstance(implicit, tuple) and implicit[0]:
            return _PLAIN
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Located:
    """A document and where everything in it stands."""

    document: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    """Dotted path (list items by index, "" for the whole) → 1-based line of its key."""
    file: str | None = None


def read_document(source: str | Path, *, file: str | None = None) -> Located:
    """The one document in `source`: YAML text, or a `Path` to read it from; `file` is the name to report.

    Raises `InvalidSpec` for text that is no YAML, no map, or more than one document, and for keys given twice.
    """
    if isinstance(source, Path):
        file = file or str(source)
        source = _read(source, file)
    tree = _Tree(file)
    node = tree.compose(source)
    document = tree.value(node, "", 0) if node is not None else None
    if node is not None and not tree.problems and not isinstance(document, dict):
        tree.add("document", "a map of keys and values", node, document)
    if tree.problems:
        raise InvalidSpec(tree.problems)
    assert isinstance(document, dict)
    return Located(document, tree.lines, file)


def apply_set(document: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    r"""A copy of `document` with one value set: `instance_count=2`, `tags.team=blue`, `tidegate.hosts.0=a.example`.

    The value is read as YAML reads a scalar (quotes make a string), or as a collection when it starts with `{` or `[`.
    Missing maps on the way are made; a list takes its next index as well; `\.` is a dot inside a key.
    """
    path, equals, text = assignment.partition("=")
    keys = [key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", re.sub(r"\[([0-9]+)\]", r".\1", path.strip()))]
    if not equals or not all(keys):
        raise InvalidSpec([Problem("--set", "<key>=<value>, such as instance_count=2", assignment)])
    changed: dict[str, Any] = thaw(document)
    node: Any = changed
    for at, key in enumerate(keys[:-1]):
        node = _step(node, key, ".".join(keys[: at + 1]))
    _assign(node, keys[-1], _value(text, path.strip()), ".".join(keys))
    return changed


def _read(path: Path, file: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidSpec([Problem("document", f"a file that can be read: {reason}", file=file)]) from error


class _Tree:
    """One reading: the values, the lines, the problems."""

    def __init__(self, file: str | None) -> None:
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}
        self._file = file
        self._open: set[int] = set()
        self._nodes = 0
        self._refused = False

    def add(self, path: str, message: str, node: yaml.Node | None = None, value: Any = None) -> None:
        line = node.start_mark.line + 1 if node is not None and node.start_mark is not None else None
        self.problems.append(Problem(path or "document", message, value, None, self._file, line))

    def compose(self, text: str) -> yaml.Node | None:
        """The root node of the only document."""
        try:
            nodes = list(yaml.compose_all(text, Loader=_Loader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = f"YAML that can be read: {error.problem or error.context}"
            line = mark.line + 1 if mark else None
            self.problems.append(Problem("document", message, None, None, self._file, line))
            return None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            self.add("document", f"YAML that can be read: {str(error).splitlines()[0][:200]}")
            return None
        if len(nodes) == 1:
            return nodes[0]
        self.add("document", "exactly one document", nodes[1] if nodes else None, f"{len(nodes)} documents")
        return None

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        """The plain value of `node`; anything after a problem."""
        self._nodes += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in _COLLECTION_TAGS:
            self.add(path, "plain YAML without tags", node, node.tag)
            return None
        if id(node) in self._open or depth > MAX_DEPTH or self._nodes > MAX_NODES:
            if not self._refused:
                self.add(path, f"a tree of at most {MAX_NODES} values and {MAX_DEPTH} levels", node)
            self._refused = True
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, join(path, str(at)), depth + 1) for at, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, path, depth)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.add(path, "keys that are plain words", key)
                continue
            if key.value == "<<" and key.style is None:
                merged.append(item)
                continue
            at = join(path, key.value)
            if key.value in values:
                self.add(at, f"given once; it stands in line {self.lines[at]} already", key)
                continue
            self.lines[at] = key.start_mark.line + 1
            values[key.value] = self.value(item, at, depth + 1)
        for item in merged:
            self._merge(item, path, depth, values)
        return values

    def _merge(self, item: yaml.Node, path: str, depth: int, values: dict[str, Any]) -> None:
        """YAML's `<<`: keys of other maps, where the map itself does not have them."""
        found = self.value(item, path, depth + 1)
        for source in found if isinstance(found, list) else [found]:
            if not isinstance(source, dict):
                self.add(path, "`<<` takes a map or a list of maps", item)
                continue
            for name, value in source.items():
                values.setdefault(name, value)

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        if node.tag == _STRING:
            return node.value
        found = resolve(node.value)
        kind = _SCALAR_TAGS.get(node.tag)
        if kind is None:
            self.add(path, "plain YAML without tags", node, node.tag)
        elif not isinstance(found, kind):
            self.add(path, f"what the tag {node.tag.replace(_PREFIX, '!!')} says", node, node.value)
        return found


def resolve(text: str) -> Any:
    """What a plain (unquoted) scalar means in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return text


def _value(text: str, path: str) -> Any:
    """The right side of `--set`."""
    if text[:1] in ("{", "[", '"', "'"):
        tree = _Tree(None)
        node = tree.compose(text)
        found = tree.value(node, path, 0) if node is not None else None
        if tree.problems:
            raise InvalidSpec(tree.problems)
        return found
    return resolve(text) if text else ""


def _step(node: Any, key: str, path: str) -> Any:
    """The collection under `key`, made if there is none."""
    if isinstance(node, list):
        index = _index(node, key, path)
        if index == len(node):
            node.append({})
        return _collection(node[index], path)
    return _collection(node.setdefault(key, {}), path)


def _collection(found: Any, path: str) -> Any:
    if not isinstance(found, dict | list):
        raise InvalidSpec([Problem(path, "a map or a list, to set something in it", found)])
    return found


def _assign(node: Any, key: str, value: Any, path: str) -> None:
    if isinstance(node, list):
        index = _index(node, key, path)
        node[index : index + 1] = [value]
    else:
        node[key] = value


def _index(node: list[Any], key: str, path: str) -> int:
    if not key.isascii() or not key.isdecimal() or int(key[:9]) > len(node):
        raise InvalidSpec([Problem(path, f"an index from 0 to {len(node)}", key)])
    return int(key[:9])
