"""What is printed of a search's result."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import stantune as st
from stantune.report.text import show_search


def fails(run: st.Run) -> float:
    """Train nothing."""
    raise RuntimeError("these shapes do not fit")


def test_a_search_whose_trials_all_failed_does_not_say_that_they_diverged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = st.tune(
        fails, st.Space({"x": st.Float(0, 1)}), minimize="loss", max_resource=1, retries=0, out=tmp_path / "out"
    )
    capsys.readouterr()
    show_search(Console(width=200), found.summary, found.path)
    assert "no final training: every trial diverged or failed" in capsys.readouterr().out
