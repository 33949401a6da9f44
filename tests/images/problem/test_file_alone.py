"""A file is a problem's name where it has one, in every command as in a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from stantune.errors import UsageError
from stantune.images.problem.built_in import find

MADE = "from tests.tiny_problem import problem as {}\n"


def test_a_file_with_one_problem_is_that(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MADE.format("mine"))
    assert find(str(file)) is find(f"{file}:mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MADE.format("a") + MADE.format("b"), r"has one Problem, and it has 2 of them \(a, b\); give .*mine.py:NAME"),
        ("x = 1\n", "has one Problem, and it has none; make one"),
    ],
)
def test_a_file_with_others_is_asked_for_the_name(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        find(str(file))
