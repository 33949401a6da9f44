"""The code of installed modules does not count, wherever a function holds it; what they hold of the user's does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from decorators import INSTALLED

from stantune.user_code.digest import digest

FILES = {
    "site-packages/lib.py": f"""{INSTALLED}
def loss(x):
    return scale(x)
def scale(x):
    return x * 1
class Optimizer:
    rate = 0.1
    def step(self):
        return 2
    @classmethod
    def made(cls):
        return cls()
""",
    "helpers.py": """
def helper(x):
    return x + 11
""",
    "mine.py": """
import collections, dataclasses, functools
import helpers, lib

class Net:
    loss = lib.loss
    kind = lib.Optimizer
    @lib.around
    def evaluate(self):
        return 21

@dataclasses.dataclass
class Settings:
    width: int = 31

def make(held):
    def train(run):
        return held
    return train

@lib.around
def train(run):
    return helpers.helper(run), Net().evaluate(), Settings()

@lib.around
def inner(x):
    return x + 41

if __name__ == "__main__":
    from stantune.user_code.digest import digest
    held = (lib.loss, lib.Optimizer, lib.Optimizer().step, lib.Optimizer.made, functools.partial(lib.loss, 1), inner)
    print(*map(digest, [train, *map(make, held)]))
""",
}


def digests(folder: Path, **texts: str) -> list[str]:
    """Return the digests of mine.py, where some files have other texts."""
    for name, text in {**FILES, **texts}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    path = os.pathsep.join([str(folder / "site-packages"), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = [sys.executable, folder / "mine.py"]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(run, capture_output=True, text=True, check=True, env=env).stdout.split()


def changed(tmp_path: Path, file: str, before: str, after: str) -> list[bool]:
    """Return which digests are others after a change."""
    assert FILES[file].count(before) == 1
    found = digests(tmp_path / "before")
    others = digests(tmp_path / "after", **{file: FILES[file].replace(before, after)})
    return [one != other for one, other in zip(found, others, strict=True)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return function(*given)", "result = function(*given)\n        return result"),
        ("return scale(x)", "return -scale(x)"),
        ("x * 1", "x * 3"),
        ("rate = 0.1", "rate = 0.2"),
        ("return 2", "return 4"),
        ("return cls()", "return cls"),
    ],
)
def test_another_version_of_an_installed_module_changes_nothing(tmp_path: Path, before: str, after: str) -> None:
    assert not any(changed(tmp_path, "site-packages/lib.py", before, after))


@pytest.mark.parametrize(
    ("file", "before", "after", "where"),
    [
        ("helpers.py", "x + 11", "x - 11", 0),
        ("mine.py", "return 21", "return 29", 0),
        ("mine.py", "loss = lib.loss", "loss = lib.scale", 0),
        ("mine.py", "kind = lib.Optimizer", "kind = lib.loss", 0),
        ("mine.py", "width: int = 31", "width: int = 39", 0),
        ("mine.py", "(lib.loss, lib.Opt", "(lib.scale, lib.Opt", 1),
        ("mine.py", ", lib.Optimizer, ", ", lib.scale, ", 2),
        ("mine.py", "partial(lib.loss, 1)", "partial(lib.loss, 2)", 5),
        ("mine.py", "partial(lib.loss, 1)", "partial(lib.scale, 1)", 5),
        ("mine.py", "x + 41", "x - 41", 6),
    ],
)
def test_what_the_user_has_of_it_counts(tmp_path: Path, file: str, before: str, after: str, where: int) -> None:
    assert changed(tmp_path, file, before, after) == [place == where for place in range(7)]


def test_what_an_installed_module_made_for_the_user_counts() -> None:
    def holding(width: int) -> Any:
        # Its module is one of Python's, where it is not found.
        made = dataclasses.make_dataclass("Settings", [("width", int, width)])
        made.__module__ = "types"
        return lambda run: made

    assert digest(holding(1)) == digest(holding(1))
    assert digest(holding(1)) != digest(holding(2))
