"""Counts that are beyond all use are found at once, or computed without counting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Stantune = Callable[..., Any]
HUGE = 9999999999999999999999999
LARGE = 2**62
# Where a command would count, it would count for hours.
SECONDS = 30
ASYNC = ("brackets", "{file}:problem", "--mode", "async", "--min-iterations", 6)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((*ASYNC, "--trials", HUGE), "--trials"),
        ((*ASYNC, "--trials", LARGE), f"this search would have {LARGE} trials, and 1000000 is the most; give fewer "),
        (("brackets", "{file}:problem", "--max-iterations", HUGE), "--max-iterations"),
        (("brackets", "{file}:problem", "--min-iterations", HUGE), "--min-iterations"),
        (("brackets", "{file}:problem", "--brackets", HUGE), "--brackets"),
        (("brackets", "{file}:problem", "--workers", HUGE), "--workers"),
        (("brackets", "{file}:problem", "--finalists", HUGE), "--finalists"),
        (
            ("brackets", "{file}:problem", "--finalists", LARGE),
            f"--finalists {LARGE} is more than any search has trials",
        ),
        (("search", "{file}:problem", "--workers", LARGE), "--workers"),
        (("search", "{file}:problem", "--mode", "async", "--trials", LARGE), "trials"),
        (("compare", "{file}:problem", "--seeds", HUGE), "--seeds"),
        (("compare", "{file}:problem", "--seeds", LARGE), "--seeds"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_found_at_once(stantune: Stantune, tiny_file: Path, tmp_path: Path, typed: tuple[Any, ...], said: str) -> None:
    out = ("--out", tmp_path / "out") if typed[0] != "brackets" else ()
    began = time.monotonic()
    run = stantune(*(str(part).format(file=tiny_file) for part in typed), "--threads", 1, *out)
    assert time.monotonic() - began < SECONDS
    assert run.code == 2
    assert said in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--seed", 9999999999999999999999999), ("--eta", LARGE)], ids=lambda x: x[0])
def test_computed_without_counting(stantune: Stantune, tiny_file: Path, options: tuple[Any, ...]) -> None:
    began = time.monotonic()
    run = stantune("brackets", f"{tiny_file}:problem", *options, "--threads", 1, "--json", "-")
    assert time.monotonic() - began < SECONDS
    assert run.code == 0, run.err
    assert run.json["trials"] >= 1
