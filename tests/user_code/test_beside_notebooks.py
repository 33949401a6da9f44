"""Modules beside a notebook, and beside what is typed, count as those beside a script do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = """
LIMIT = 1
def helper(x):
    return x + LIMIT
def unused(x):
    return x
"""
# A notebook's program finds the folder behind Python's own library.
AS_NOTEBOOK = "import sys; sys.path.remove(''); sys.path.append(''); "
# Where IPython's `%cd` has been: the folder that the notebook began in, and now another one.
ELSEWHERE = "import helpers, os; _dh = [os.getcwd(), '/']; os.chdir('/'); "
CODE = """
import helpers, sys
from stantune.user_code.digest import digest
def train(run): return helpers.helper(run)
def other(run): return run
print(digest(train), digest(other))
"""


def digests(folder: Path, code: str, helpers: str = HELPERS) -> list[str]:
    (folder / "helpers.py").write_text(helpers)
    run = [sys.executable, "-c", code]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=folder).stdout.split()


@pytest.mark.parametrize("code", [CODE, AS_NOTEBOOK + CODE, AS_NOTEBOOK + ELSEWHERE + CODE])
@pytest.mark.parametrize(("before", "after"), [("LIMIT = 1", "LIMIT = 2"), ("x + LIMIT", "x - LIMIT")])
def test_modules_beside_a_notebook_count(tmp_path: Path, code: str, before: str, after: str) -> None:
    train, other = digests(tmp_path, code)
    changed = digests(tmp_path, code, HELPERS.replace(before, after))
    assert changed[0] != train
    assert changed[1] == other
    assert digests(tmp_path, code, HELPERS.replace("return x\n", "return -x\n")) == [train, other]


def test_modules_of_another_folder_and_installed_ones_do_not(tmp_path: Path) -> None:
    elsewhere = f"import os; sys.path.insert(0, {str(tmp_path)!r}); os.chdir('/'); "
    installed = tmp_path / "site-packages"
    installed.mkdir()
    for folder, code in ((tmp_path, f"import sys; {elsewhere}{CODE}"), (installed, CODE)):
        found = digests(folder, code)
        assert digests(folder, code, HELPERS.replace("x + LIMIT", "x - LIMIT")) == found
