"""The package's public face: its names, each of them there, and an import that does no work."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import stantune


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import stantune; print(sorted(set(sys.modules) - before))"
    new = in_new_process(code)
    for heavy in ("torch", "optuna", "numpy", "sqlalchemy", "pydantic", "rich", "typer", "PIL"):
        assert f"'{heavy}" not in new
    assert "'stantune'" in new


def test_a_problem_takes_little_longer_than_pytorch() -> None:
    # torch._dynamo, with sympy, takes longer than PyTorch itself.
    new = in_new_process("import sys; from stantune import Problem; print(sorted(sys.modules))")
    for heavy in ("torch._dynamo", "sympy", "triton", "optuna", "sqlalchemy", "pydantic", "rich", "pandas"):
        assert f"'{heavy}'" not in new
    assert "'torch'" in new


def test_each_name_is_there() -> None:
    assert stantune.__all__ == sorted(set(stantune.__all__))
    for name in stantune.__all__:
        found = getattr(stantune, name)
        assert found.__name__ == name
        assert found.__doc__


def test_each_name_is_used_in_code_that_is_run() -> None:
    # tests/test_docs.py runs the page.
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert [name for name in stantune.__all__ if not re.search(rf"\b{name}\b", code)] == []


def test_no_submodule_takes_a_name_s_place() -> None:
    # The import system makes each submodule an attribute of the package.
    submodules = {module.name for module in pkgutil.iter_modules(stantune.__path__)}
    assert submodules.isdisjoint(stantune.__all__)


def test_dir_lists_them_before_they_are_used() -> None:
    assert in_new_process("import stantune; print(dir(stantune))") == str(stantune.__all__)


def test_a_star_brings_them_all() -> None:
    code = "from stantune import *; print(Problem.__name__, run.__name__, accelerate_.__name__)"
    assert in_new_process(code) == "Problem run accelerate_"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'stantune' has no attribute 'search_'"):
        stantune.search_  # noqa: B018
    assert not hasattr(stantune, "__path_of_nothing__")


def test_the_package_is_installed_under_its_name() -> None:
    assert version("stantune")
