"""Conda files and pip requirements become pip requirement lines, and what cannot is warned of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from autoscaler.backends.local.conda import (
    NotAnEnvironment,
    Requirements,
    from_conda,
    from_requirements,
    parse,
    translate,
)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("numpy", "numpy"),
        ("numpy=1.26", "numpy==1.26.*"),
        ("numpy=1.26.4", "numpy==1.26.4.*"),
        ("numpy==1.26.4", "numpy==1.26.4"),
        ("numpy=1.26.4=py311h64a7726_0", "numpy==1.26.4"),
        ("numpy==1.26.4=py311h64a7726_0", "numpy==1.26.4"),
        ("numpy 1.26.4 py311h64a7726_0", "numpy==1.26.4"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("numpy=1.26*", "numpy==1.26.*"),
        ("numpy>=1.20,<2", "numpy>=1.20,<2"),
        ("numpy >=1.20, <2.0a0", "numpy>=1.20,<2.0a0"),
        ("numpy>=1.20.*", "numpy>=1.20"),
        ("numpy!=1.25.0", "numpy!=1.25.0"),
        ("numpy~=1.26.1", "numpy~=1.26.1"),
        ("conda-forge::scikit-learn=1.5", "scikit-learn==1.5.*"),
        ("numpy[version='>=1.20']", "numpy>=1.20"),
        ("NumPy", "numpy"),
        ("pytorch=2.3", "torch==2.3.*"),
        ("opencv", "opencv-python-headless"),
        ("py-xgboost>=2", "xgboost>=2"),
        ("msgpack-python", "msgpack"),
        ("tensorflow-gpu=2.16", "tensorflow==2.16.*"),
        ("librosa", "librosa"),
        ("azureml-defaults=1.60", "azureml-inference-server-http"),
        ("numpy=*", "numpy"),
    ],
)
def test_a_conda_package_becomes_one_pip_line(spec: str, line: str) -> None:
    found = translate(spec) if spec != "numpy=*" else translate("numpy *")
    assert found == Requirements((line,))


@pytest.mark.parametrize(
    "spec", ["cudatoolkit=11.8", "libgcc-ng", "mkl", "_openmp_mutex", "openssl=1.1.1k", "r-base=4"]
)
def test_a_package_without_a_pip_counterpart_is_one_warning(spec: str) -> None:
    found = translate(spec)
    assert found.lines == ()
    (warning,) = found.warnings
    assert warning.startswith(spec.partition("=")[0])


@pytest.mark.parametrize("spec", ["numpy=1.20|1.21", "numpy=2023c", "numpy~=1"])
def test_a_version_pip_cannot_say_is_left_out_with_a_warning(spec: str) -> None:
    found = translate(spec)
    assert found.lines == ("numpy",)
    assert len(found.warnings) == 1


def test_a_whole_conda_file() -> None:
    found = parse(
        """
        name: env
        channels: [conda-forge, defaults]
        dependencies:
          - python=3.10
          - pip=23.0
          - scikit-learn=1.5
          - cudatoolkit=11.8
          - pip:
              - --extra-index-url https://example.org/simple
              - azureml-defaults~=1.60
              - torch==2.3.0+cpu ; python_version < "3.12"
              - -r other.txt
              - git+https://example.org/model.git@v1
        """,
        "conda.yml",
    )
    assert found.python == "==3.10.*"
    assert found.lines == (
        "scikit-learn==1.5.*",
        "--extra-index-url https://example.org/simple",
        "azureml-inference-server-http",
        'torch==2.3.0+cpu ; python_version < "3.12"',
        "git+https://example.org/model.git@v1",
    )
    assert [warning.split()[0] for warning in found.warnings] == ["cudatoolkit", "'-r"]


def test_a_requirements_file_keeps_its_lines() -> None:
    text = "# models\nnumpy==1.26.4 \\\n    --hash=sha256:00\n\nscipy>=1 # for stats\n-e .\nurl @ https://example.org/a#egg=b\n"
    found = parse(text, "requirements.txt")
    assert found.lines == (
        "numpy==1.26.4      --hash=sha256:00",
        "scipy>=1",
        "url @ https://example.org/a#egg=b",
    )
    assert len(found.warnings) == 1


@pytest.mark.parametrize("name", ["", "env", "requirements.txt"])
def test_requirements_are_known_by_their_content(name: str) -> None:
    assert parse("numpy==1.26.4\nscipy\n", name).lines == ("numpy==1.26.4", "scipy")
    assert parse("", name).lines == ()


@pytest.mark.parametrize(
    "text", ["dependencies: numpy", "dependencies: [[numpy]]", "dependencies: [{npm: [x]}]", "- numpy", "a: [", "5"]
)
def test_what_is_no_environment_is_refused(text: str) -> None:
    with pytest.raises(NotAnEnvironment):
        parse(text, "conda.yml")


def test_the_server_is_added_once_however_it_is_spelled() -> None:
    given_already = from_requirements(["AzureML_Inference.Server-HTTP==1.5.1"])
    assert given_already.with_package("azureml-inference-server-http") == given_already
    assert Requirements(("numpy",)).with_package("x").lines == ("numpy", "x")


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,5})?", fullmatch=True)
VERSIONS = st.lists(st.integers(0, 300), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
OPERATORS = st.sampled_from(["=", "==", ">=", "<=", "<", ">", "!=", "~="])
CLAUSES = st.tuples(OPERATORS, VERSIONS, st.sampled_from(["", ".*"])).map("".join)


@given(NAMES, st.lists(CLAUSES, max_size=3))
def test_every_line_is_one_that_pip_understands(name: str, clauses: list[str]) -> None:
    found = translate(name + ",".join(clauses))
    assert len(found.lines) + len(found.warnings) >= (name not in ("pip", "setuptools", "wheel", "python"))
    for line in found.lines:
        Requirement(line)


@given(VERSIONS, st.lists(st.integers(0, 9), max_size=2))
def test_a_single_equals_sign_takes_everything_below_the_version(version: str, deeper: list[int]) -> None:
    (line,) = translate(f"numpy={version}").lines
    specifiers = SpecifierSet(line.removeprefix("numpy"))
    assert specifiers.contains(".".join([version, *map(str, deeper)]))


@given(st.text(max_size=40))
def test_no_specification_whatever_raises(text: str) -> None:
    found = translate(text)
    assert len(found.lines) <= 1


@given(st.text(max_size=200), st.sampled_from(["conda.yml", "requirements.txt", ""]))
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    try:
        found = parse(text, name)
    except NotAnEnvironment:
        return
    assert all(line == line.strip() and line for line in found.lines)


def test_duplicates_are_said_once() -> None:
    assert from_conda({"dependencies": ["numpy", "numpy", {"pip": ["numpy"]}]}).lines == ("numpy",)
