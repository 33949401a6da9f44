"""The page of options names each one of `stantune search`, and the parameter of `tune` that it is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import stantune
from stantune.cli import app
from stantune.cli.training.composition import composed
from stantune.images.problem.built_in import find
from stantune.tuning.compose import compose

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


@pytest.mark.parametrize("built_in", [True, False])
def test_with_data_elsewhere_the_row_is_the_command_s_search(built_in: bool, tiny_file: Path, tmp_path: Path) -> None:
    name = "lenet" if built_in else f"{tiny_file}:problem"
    problem = find(name)
    [row] = re.findall(r"^\| `--data` \|(.*)", SECTION, re.MULTILINE)
    of_built_in, of_any_other = re.findall(r"`(Stan\(.*?\))`", row)
    stan = eval(of_built_in if built_in else of_any_other, {"Stan": stantune.Stan, "problem": problem})
    named, sizes = composed(name, False, 27, None, 3, (None, None, None, None, 0, 0, None), tmp_path)

    def identity(objective: Any, **options: Any) -> dict[str, Any]:
        what, settings = compose(objective, **options)
        return settings.identity(what)

    typed = identity(named, **sizes)
    assert identity(stantune.ProblemObjective(problem, data=tmp_path, stan=stan), max_resource=27) == typed
    assert identity(stantune.ProblemObjective(problem, data=tmp_path), max_resource=27) != typed
