"""From a conda file or pip requirements to pip requirement lines. Nothing is lost in silence: what has no pip
counterpart becomes one warning each.

Pure: text in, values out. Version rules follow conda's "package match specification": `=1.2` means 1.2 and anything
below it (`1.2.*`), `==1.2` exactly that, a third `=`-field is a build string, which pip does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

SERVER_PACKAGE = "azureml-inference-server-http"
"""Serves a scoring script; what `azureml-defaults` was a bundle for."""

PIP_NAMES = {
    "azureml-defaults": SERVER_PACKAGE,
    "faiss-cpu": "faiss-cpu",
    "faiss": "faiss-cpu",
    "jpeg": None,
    "lightgbm-gpu": "lightgbm",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "opencv": "opencv-python-headless",
    "protobuf-python": "protobuf",
    "py-lightgbm": "lightgbm",
    "py-opencv": "opencv-python-headless",
    "py-xgboost": "xgboost",
    "py-xgboost-cpu": "xgboost",
    "py-xgboost-gpu": "xgboost",
    "pyarrow-core": "pyarrow",
    "pytables": "tables",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "python-flatbuffers": "flatbuffers",
    "python-graphviz": "graphviz",
    "python-xxhash": "xxhash",
    "ruamel_yaml": "ruamel.yaml",
    "seaborn-base": "seaborn",
    "snappy-python": "python-snappy",
    "spacy-model-en_core_web_sm": None,
    "tensorflow-base": "tensorflow",
    "tensorflow-cpu": "tensorflow-cpu",
    "tensorflow-gpu": "tensorflow",
    "torchvision-cpu": "torchvision",
}
"""Conda name → pip name where they differ; None where pip has nothing. Any other name is taken to be the same."""

_NOT_FOR_PIP = re.compile(
    r"_.*|lib.*|gcc.*|gxx.*|gfortran.*|binutils.*|sysroot.*|ld_impl.*|cuda|cuda-.*|cudatoolkit.*|cudnn|nccl"
    r"|.*[-_]linux[-_]64|mkl|blas|openblas|lapack|openssl|openjdk|ca-certificates|readline|sqlite|tk|xz|zlib|bzip2"
    r"|ncurses|icu|hdf5|ffmpeg|git|make|cmake|nodejs|r-.*|vc|vs20.*|pytorch-cuda|pytorch-mutex|cpuonly|nomkl"
    r"|intel-openmp|llvm-openmp|geos|proj|gdal-core|boost-cpp|conda|mamba"
)
_PYTHON_LIBRARIES = frozenset({"libsvm", "librosa", "libtorrent", "libcst", "libclang", "libsass", "libusb1"})
"""Names that only look like C libraries."""

_SPEC = re.compile(
    r"(?:[^\s:]+::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*)(?:\[(?P<extras>[^\]]*)\])?\s*(?P<rest>.*)", re.DOTALL
)
_CLAUSE = re.compile(r"(?P<operator>~=|==|!=|>=|<=|>|<|=)?\s*(?P<version>[0-9][0-9A-Za-z.!+_*-]*)")
_PIP_VERSION = re.compile(r"(?:\d+!)?\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\.\*)?")
_DROPPED_OPTIONS = ("-e", "--editable", "-r", "--requirement", "-c", "--constraint")


@dataclass(frozen=True, slots=True)
class Requirements:
    """What an environment needs, for pip."""

    lines: tuple[str, ...] = ()
    """Requirement lines and index options, in the file's order, without duplicates."""
    python: str | None = None
    """The wanted interpreter as version specifiers (`==3.10.*`), None when any will do."""
    warnings: tuple[str, ...] = ()
    """One sentence per thing that could not be carried over."""

    def names(self) -> frozenset[str]:
        """Normalized names (PEP 503) of the packages asked for."""
        return frozenset(normalized(found[0]) for line in self.lines if (found := _NAME.match(line)) is not None)

    def with_package(self, package: str) -> Requirements:
        """The same, with `package` in it."""
        if normalized(package) in self.names():
            return self
        return Requirements((*self.lines, package), self.python, self.warnings)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class NotAnEnvironment(ValueError):
    """The file is neither a conda environment nor pip requirements; the message says what is wrong with it."""


def normalized(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str, name: str = "") -> Requirements:
    """Requirements from the text of a conda YAML or a pip requirements file.

    `name` is the file's; `.txt` and `.in` are pip's, `.yml` and `.yaml` conda's, anything else is told by its content.
    Raises `NotAnEnvironment`.
    """
    if name.endswith((".txt", ".in")):
        return from_requirements(text.splitlines())
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if not name.endswith((".yml", ".yaml")):
            return from_requirements(text.splitlines())
        raise NotAnEnvironment(f"the conda file is not valid YAML: {error}") from error
    if isinstance(document, Mapping):
        return from_conda(document)
    if name.endswith((".yml", ".yaml")) and document is not None:
        raise NotAnEnvironment("the conda file must be a mapping with `dependencies`")
    return from_requirements(text.splitlines() if document is not None else ())


def from_requirements(lines: Iterable[str]) -> Requirements:
    """Requirements from the lines of a pip requirements file."""
    kept: list[str] = []
    warnings: list[str] = []
    for line in _joined(lines):
        if line.startswith(_DROPPED_OPTIONS):
            warnings.append(f"{line!r} refers to another file, which is not part of the environment; left out")
        else:
            kept.append(_renamed(line))
    return Requirements(tuple(dict.fromkeys(kept)), None, tuple(warnings))


def _joined(lines: Iterable[str]) -> list[str]:
    """Lines with continuations joined, comments and blank lines gone."""
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in bare if line]


def _renamed(line: str) -> str:
    """Azure's bundle of server packages is replaced by the server itself; its own version means nothing there."""
    found = _NAME.match(line)
    return SERVER_PACKAGE if found and normalized(found[0]) == "azureml-defaults" else line


def from_conda(document: Mapping[str, Any]) -> Requirements:
    """Requirements from a conda environment document. Channels say where conda looks and are ignored."""
    dependencies = document.get("dependencies")
    if dependencies is None:
        dependencies = []
    if not isinstance(dependencies, list):
        raise NotAnEnvironment("`dependencies` must be a list")
    lines: list[str] = []
    warnings: list[str] = []
    python: str | None = None
    for item in dependencies:
        if isinstance(item, Mapping):
            found = _pip_section(item)
            lines.extend(found.lines)
            warnings.extend(found.warnings)
        elif isinstance(item, str):
            translated = translate(item)
            python = translated.python or python
            lines.extend(translated.lines)
            warnings.extend(translated.warnings)
        else:
            raise NotAnEnvironment(f"{item!r} in `dependencies` is neither a package nor a `pip:` list")
    return Requirements(tuple(dict.fromkeys(lines)), python, tuple(warnings))


def _pip_section(item: Mapping[str, Any]) -> Requirements:
    strange = [str(key) for key in item if key != "pip"]
    entries = item.get("pip") or []
    if strange or not isinstance(entries, list):
        raise NotAnEnvironment(f"only `pip:` with a list may stand among the packages, not {strange or entries!r}")
    return from_requirements([str(entry) for entry in entries])


def translate(spec: str) -> Requirements:
    """One conda package specification: at most one line, and a warning when something could not be carried over."""
    found = _SPEC.fullmatch(spec.strip())
    if found is None:
        return Requirements(warnings=(f"{spec!r} is not a conda package specification; left out",))
    name, versions = found["name"].lower(), _version_text(found["extras"], found["rest"])
    if name == "python":
        specifiers, dropped = _specifiers(versions)
        return Requirements((), specifiers or None, (f"python: {dropped}",) if dropped else ())
    if name in ("pip", "setuptools", "wheel") and not versions:
        return Requirements()  # uv brings its own, or the build asks for them
    if name == "pip":
        return Requirements()
    pip_name = PIP_NAMES.get(name, name)
    if pip_name is None or (name not in PIP_NAMES and name not in _PYTHON_LIBRARIES and _NOT_FOR_PIP.fullmatch(name)):
        return Requirements(warnings=(f"{name} is a conda-only package without a counterpart for pip; left out",))
    if pip_name == SERVER_PACKAGE and name != SERVER_PACKAGE:
        return Requirements((SERVER_PACKAGE,))
    specifiers, dropped = _specifiers(versions)
    warnings = (f"{name}: {dropped}",) if dropped else ()
    return Requirements((pip_name + specifiers,), None, warnings)


def _version_text(bracket: str | None, rest: str) -> str:
    """The version part: conda writes it behind the name or as `[version='…']`."""
    inside = re.search(r"version\s*=\s*['\"]?([^'\"\]]*)['\"]?", bracket or "")
    return inside[1].strip() if inside else rest.strip()


def _specifiers(text: str) -> tuple[str, str]:
    """(PEP 440 specifiers, what could not be carried over) of a conda version expression; both may be empty."""
    if not text or text == "*":
        return "", ""
    if "|" in text:
        return "", f"the alternative versions {text!r} cannot be said to pip; any version is taken"
    clauses = [_clause(part.strip()) for part in text.split(",")]
    if any(clause is None for clause in clauses):
        return "", f"the version {text!r} cannot be said to pip; any version is taken"
    return ",".join(clause for clause in clauses if clause), ""


def _clause(part: str) -> str | None:
    """One comparison in PEP 440; None when it has none there."""
    fields = part.split()
    # `=1.2=build`, `1.2 build` and `==1.2=build`: the build string goes.
    head = fields[0] if fields and _CLAUSE.match(fields[0]) else "".join(fields)
    exact = re.fullmatch(r"={0,2}([^=<>!~]+)=([^=]+)", head)
    if exact:
        head = f"=={exact[1]}"
    found = _CLAUSE.fullmatch(head)
    if found is None:
        return None
    operator, version = found["operator"] or "==", found["version"]
    if version.endswith("*") and not version.endswith(".*"):
        version = version[:-1] + ".*"
    if operator == "=":
        operator, version = "==", version if version.endswith(".*") else f"{version}.*"
    elif operator not in ("==", "!=") and version.endswith(".*"):
        version = version[:-2]  # conda reads `>=1.2.*` as `>=1.2`; PEP 440 forbids the star there
    if operator == "~=" and "." not in version:
        return None
    suffixed = re.search(r"(a|b|rc|post|dev)\d+\.\*$", version)
    return None if _PIP_VERSION.fullmatch(version) is None else operator + (version[:-2] if suffixed else version)
