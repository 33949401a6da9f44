"""What a search computes where nobody says a rate: half of the entries of built-in problems, all of others'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def planned(stantune: Any, *options: str) -> tuple[list[float | str], str]:
    """Return the rates that a search with these options would have, and what is said."""
    ran = stantune("brackets", *options, "--json", "-")
    assert ran.code == 0, ran.err
    return [each["rate"] for each in json.loads(ran.out)["rates"]], ran.err


@pytest.mark.parametrize(
    ("options", "rate", "words"),
    [
        ((), 1.0, "computes: all"),
        (("--rate", "0.5"), 0.5, "computes: 0.5"),
        (("--period", "3"), 0.5, "computes: 0.5"),
        (("--tolerance", "0.1"), 0.5, "computes: 0.5"),
        (("--layers", "*"), 0.5, "computes: 0.5"),
    ],
)
def test_of_an_own_problem(stantune: Any, tiny_file: Path, options: tuple[str, ...], rate: float, words: str) -> None:
    rates, said = planned(stantune, f"{tiny_file}:problem", "--max-iterations", "27", *options)
    assert rates == [rate]
    assert words in said


def test_of_a_built_in_problem(stantune: Any) -> None:
    rates, said = planned(stantune, "lenet", "--max-iterations", "27")
    assert rates == [0.5]
    assert "computes: 0.5" in said


def test_without_stan_there_is_none(stantune: Any, tiny_file: Path) -> None:
    rates, said = planned(stantune, f"{tiny_file}:problem", "--max-iterations", "27", "--accelerate", "none")
    assert rates == []
    assert "computes" not in said


def test_what_nothing_is_spared_by_saves_nothing(stantune: Any, tiny_file: Path, tmp_path: Path) -> None:
    ran = stantune("search", f"{tiny_file}:problem", "--max-iterations", "9", "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    assert "by STAN" not in ran.out + ran.err
