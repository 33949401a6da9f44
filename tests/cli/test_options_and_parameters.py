"""The page of options names each one of `stantune search`, and the parameter of `tune` that it is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import typer

import stantune
from stantune.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Options and parameters")[2]
PARAMETERS = set(inspect.signature(stantune.tune).parameters)
OPTIONS = {
    option
    for parameter in typer.main.get_command(app).commands["search"].params  # type: ignore[attr-defined]
    for option in parameter.opts
    if option.startswith("--")
}


def test_each_option_is_there_once() -> None:
    named = [option for code in re.findall(r"`(--[^`]*)`", SECTION) for option in re.findall(r"--[a-z-]+", code)]
    assert set(named) == OPTIONS
    # One stands in two lines, for two parameters.
    assert sorted(named) == sorted([*OPTIONS, "--accelerate"])


def test_each_parameter_is_there() -> None:
    rows = re.findall(r"^\| `.*? \| `(\w+)`", SECTION, re.MULTILINE)
    alike, _, others = SECTION.partition("Named alike:")[2].partition("Of the command alone")
    same = [option.replace("-", "_") for option in re.findall(r"`--([a-z-]+)`", alike)]
    python = re.findall(r"`(\w+)`", others.partition("of Python alone")[2])
    assert not set(rows) & set(same)
    assert {*rows, *same, *python} == PARAMETERS
