"""The digest of code sees what it names in its own file and in the modules beside it, and nothing of installed ones."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stantune.user_code.digest import digest

FILES = {
    "mine.py": """
import functools, os, time
import nets
import parts.heads
from nets import make, Base
from nets import SLOPE as STEEP
from parts.heads import *
from parts import heads as other

WIDTH: int = 8
KINDS = {"a": len}
KINDS["b"] = abs
DEPTHS, steps = (1, 2), 3
STARTED = time.time()
HERE = os.getcwd()
if WIDTH > 4:
    BIAS = 1
else:
    BIAS = 2

@functools.cache
def cached(x):
    return x * 5

class Net(Base):
    def forward(self, x):
        return x * WIDTH

def train(run):
    run.steps(STARTED, HERE)
    return make(run), nets.half(1), parts.heads.head(2), other.tail(3), Net, cached(1), KINDS, DEPTHS, BIAS, STEEP, STAR

lazy = lambda: nets.half(2)

if __name__ == "__main__":
    import sys
    from stantune.user_code.digest import digest
    result = [digest(each) for each in (train, lazy)]
    print(*result)
""",
    "nets.py": """
from math import sqrt
SLOPE = 0.5
LIMIT = 7
UNUSED = 1
def make(run):
    return run * LIMIT
def half(x):
    return inner(x) / 2
def inner(x):
    return x
def unused(x):
    return x
class Base:
    def shape(self):
        return 11
""",
    "parts/__init__.py": "",
    "parts/heads.py": """
from .sizes import SIZE
STAR = 21
def head(x):
    return x + 31
def tail(x):
    return x + 41 + SIZE
""",
    "parts/sizes.py": "SIZE = 51\n",
}


def digests(folder: Path) -> list[str]:
    run = [sys.executable, folder / "mine.py"]
    return subprocess.run(run, capture_output=True, text=True, check=True, cwd=folder.parent).stdout.split()


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("code")
    (folder / "parts").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder, digests(folder)


def changed(before: tuple[Path, list[str]], file: str, old: str, new: str) -> list[bool]:
    """Return which digests are others after one change, which is undone."""
    folder, found = before
    text = FILES[file]
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    try:
        return [one != other for one, other in zip(found, digests(folder), strict=True)]
    finally:
        (folder / file).write_text(text)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.py", "WIDTH: int = 8", "WIDTH: int = 9"),
        ("mine.py", '["b"] = abs', '["b"] = sum'),
        ("mine.py", "(1, 2), 3", "(1, 4), 3"),
        ("mine.py", "WIDTH > 4", "WIDTH > 9"),
        ("mine.py", "x * 5", "x * 6"),
        ("nets.py", "SLOPE = 0.5", "SLOPE = 0.6"),
        ("nets.py", "LIMIT = 7", "LIMIT = 8"),
        ("nets.py", "return run * LIMIT", "return run + LIMIT"),
        ("nets.py", "return 11", "return 12"),
        ("parts/heads.py", "STAR = 21", "STAR = 22"),
        ("parts/heads.py", "x + 31", "x + 32"),
        ("parts/heads.py", "x + 41", "x + 42"),
        ("parts/sizes.py", "51", "52"),
    ],
)
def test_globals_and_modules_beside_count(before: tuple[Path, list[str]], file: str, old: str, new: str) -> None:
    assert changed(before, file, old, new) == [True, False]


def test_a_lambda_counts_with_the_module_that_it_names(before: tuple[Path, list[str]]) -> None:
    assert changed(before, "nets.py", "inner(x) / 2", "inner(x) / 3") == [True, True]
    assert changed(before, "nets.py", "    return x\n", "    return -x\n") == [True, True]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.py", "result = ", "other = result = "),
        ("nets.py", "UNUSED = 1", "UNUSED = 2"),
        ("nets.py", "def unused(x):\n    return x", "def unused(x):\n    return 1"),
        ("nets.py", "SLOPE", "# steep\nSLOPE"),
    ],
)
def test_what_is_not_named_does_not_count(before: tuple[Path, list[str]], file: str, old: str, new: str) -> None:
    assert changed(before, file, old, new) == [False, False]


def test_values_that_are_others_in_each_run_do_not_count(before: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, found = before
    run = [sys.executable, folder / "mine.py"]
    assert subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split() == found


STATEMENTS = """
import random
from stantune.texts import brief
GIVEN = {}
def fill(of, value):
    of["a"] = value + 11
fill(GIVEN, 21)
fill(value=31, of=GIVEN)
print(GIVEN, 41)
brief((GIVEN, 141))
if __name__ == "__main__":
    fill(GIVEN, 151)
(FIRST, (SECOND, *REST)) = (1, (51, 61))
for STEP in [71]:
    print(STEP, 81)
random.seed(91)
DRAWN = [random.random() for _ in range(3)]
random.seed(101)
def make():
    return random.random()
MADE = make()
class Kinds(dict):
    def add(self, function):
        self[function.__name__] = function
        return function
KINDS = Kinds()
@KINDS.add
def built(x):
    return x + 121
NAME = "a"
random.choice(NAME)
STARTED = len(NAME) + 131
random.seed(111)

def train(run):
    return GIVEN, SECOND, REST, STEP, DRAWN, MADE, KINDS

def lazy(run):
    return NAME, STARTED
"""


@pytest.mark.parametrize("value", [11, 21, 31, 51, 61, 71, 91, 101, 121])
def test_statements_that_give_a_global_its_value_count(loaded: Callable[..., Any], value: int) -> None:
    other = re.sub(rf"\b{value}\b", f"{value + 1}", STATEMENTS)
    assert digest(loaded(other)) != digest(loaded(STATEMENTS))
    assert digest(loaded(other, "lazy")) == digest(loaded(STATEMENTS, "lazy"))


@pytest.mark.parametrize("value", [41, 81, 111, 131, 141, 151])
def test_statements_that_give_none_do_not_count(loaded: Callable[..., Any], value: int) -> None:
    other = re.sub(rf"\b{value}\b", f"{value + 1}", STATEMENTS)
    assert digest(loaded(other)) == digest(loaded(STATEMENTS))


@pytest.mark.parametrize(
    "what",
    [
        "st.tune",
        "tune_it(train)",
        "st.tuning.tune.tune",
        "st.study()",
        "SEARCH.ask()",
        "[st.tune(train, seed=seed) for seed in range(3)]",
        "max((st.tune(train, seed=seed) for seed in range(3)), key=str)",
        "again = lambda: st.tune(train)",
        "st.testing.check_objective(train)",
        "from stantune import tune",
        "import stantune; stantune.tune(train)",
    ],
)
def test_what_searches_may_be_edited(loaded: Callable[..., Any], what: str) -> None:
    """A script without `if __name__ == "__main__"` may give what it trains with to its own main function."""
    script = (
        "import stantune as st\nfrom stantune import tune as tune_it\nSEARCH = object.__new__(st.OpenSearch)\n"
        "import argparse\nargs = argparse.Namespace(width=8)\ndef train(run):\n"
        f"    return args.width\ndef search(args, brackets):\n    {what}\ndef main(args):\n    brackets = 1\n"
        "    search(args, brackets)\nif False:\n    main(args)\n"
    )
    other = script.replace("brackets = 1", "brackets = 2")
    assert digest(loaded(other)) == digest(loaded(script))
    assert digest(loaded(script.replace("width=8", "width=9"))) != digest(loaded(script))


@pytest.mark.parametrize(
    "more",
    [
        "st.Stan(rate=0.5)",
        "SPACE",
        "st.Stan(rate=0.5), name.search",
        "st, name.tune",
        "[st.Stan(rate=rate) for rate in (0.5, 1)]",
    ],
)
def test_what_only_uses_this_package_may_change_what_it_is_given(loaded: Callable[..., Any], more: str) -> None:
    script = (
        "import stantune as st\nclass Name(str):\n    search = tune = 1\nKINDS, SPACE = {}, st.Space({})\n"
        "def search():\n    st.tune(train, SPACE)\n"
        f"def register(kinds, name, width):\n    kinds[name] = width, {more}\n"
        'register(KINDS, Name("cnn"), 64)\ndef train(run):\n    return KINDS["cnn"]\n'
    )
    assert digest(loaded(script.replace("64", "128"))) != digest(loaded(script))


def test_what_a_plain_value_is_given_to_cannot_change_it(loaded: Callable[..., Any]) -> None:
    other = STATEMENTS.replace("random.choice(NAME)", "random.choices(NAME)")
    assert digest(loaded(other, "lazy")) == digest(loaded(STATEMENTS, "lazy"))
    assert digest(loaded(STATEMENTS.replace('"a"\n', '"b"\n'), "lazy")) != digest(loaded(STATEMENTS, "lazy"))
