"""What the command says of itself: help, version, completion; none of it loads what a search needs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

from stantune.cli.panels import PANELS
from stantune.cli.training.brackets import brackets
from stantune.cli.training.search import search

Stantune = Callable[..., Any]
SAY_LOADED = """
import sys
from stantune.cli import main
sys.argv = ["stantune", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("search", "--help")])
def test_it_loads_nothing_that_takes_seconds(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", SAY_LOADED, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "optuna", "sqlalchemy", "numpy", "pandas", "rich"}


@pytest.mark.parametrize("arguments", [("problems",), ("problems", "mlp", "--json", "-")])
def test_built_in_problems_are_shown_without_pytorch(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", SAY_LOADED, *arguments], capture_output=True, text=True, check=True)
    assert "top_k" in done.stdout
    assert not set(done.stderr.split()) & {"torch", "optuna", "sqlalchemy", "numpy", "pandas"}


def test_version(stantune: Stantune) -> None:
    run = stantune("--version")
    assert (run.code, run.out, run.err) == (0, f"stantune {version('stantune')}\n", "")


@pytest.mark.parametrize("command", [(), ("search",), ("data", "fetch")])
def test_a_short_name_for_help(stantune: Stantune, command: tuple[str, ...]) -> None:
    short, long = stantune(*command, "-h"), stantune(*command, "--help")
    assert (short.code, short.out) == (0, long.out)
    assert "-h, --help" in long.out


def test_every_option_of_a_search_is_in_one_panel(stantune: Stantune) -> None:
    listed = [name for names in PANELS.values() for name in names]
    assert len(listed) == len(set(listed))
    asked = {*inspect.signature(search).parameters, *inspect.signature(brackets).parameters}
    assert set(listed) == asked - {"ctx", "problem"} | {"help"}
    said = stantune("search", "--help").out
    titles = [line.removesuffix(":") for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[-len(PANELS) :] == list(PANELS)
    size = said.partition("\nSize:\n")[2].partition("\nSampling:\n")[0]
    assert "--max-iterations" in size
    assert "--rate" not in size


def test_the_shell_completes_commands() -> None:
    words = {"_STANTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "stantune sta", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from stantune.cli import main; main()"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["status"]
