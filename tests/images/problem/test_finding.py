"""A problem is found by its name or in a user's file, or a sentence says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stantune.errors import UsageError
from stantune.images.problem.built_in import find


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenett", r"no problem is called 'lenett' \(did you mean lenet\?\): there are lenet, cq, .*FILE\.py:NAME"),
        ("CQ", "no problem is called 'CQ' .did you mean cq"),
        ("alexl", "did you mean alexlrn"),
        ("", "no problem is called '': there are lenet"),
        ("my_problem.py", "there is no file .*my_problem.py"),
        ("nowhere.py:problem", "there is no file nowhere.py"),
        ("lenet:problem", "there is no file lenet"),
    ],
)
def test_an_unknown_problem_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)


SOURCE = '''
"""A problem of the user's own."""
from torch import nn
from stantune import Float, Integer, Problem, Solver, Space


def net(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


mine = Problem(
    name="mine",
    network=net,
    data="mnist",
    space=Space({"lr": Float(1e-4, 1, log=True), "width": Integer(4, 64), "weight_decay": Float(0, 1)}),
    solver=Solver(lr=0.1),
    iterations=50,
)
other = Problem(name="other", network=net, data="mnist", space=Space({}), solver=Solver(lr=0.1), iterations=5)
number = 5
'''


def test_a_problem_in_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "my problem.py"
    path.write_text(SOURCE)
    problem = find(f"{path}:mine")
    assert (problem.name, list(problem.space)) == ("mine", ["lr", "width", "weight_decay"])
    assert problem.build({"width": 5, "lr": 0.5})[1].out_features == 5
    assert find(f"{path}:other").name == "other"
    path.write_text(SOURCE.replace('name="mine"', 'name="yours"'))
    assert find(f"{path}:mine").name == "yours"  # read anew, not remembered


@pytest.mark.parametrize(
    ("source", "attribute", "message"),
    [
        (SOURCE, "min", "has no Problem called 'min'; it has mine, other"),
        (SOURCE, "number", "has no Problem called 'number'; it has mine, other"),
        (SOURCE, "", "has no Problem called ''"),
        ("x = 1", "mine", "has no Problem called 'mine'; it has none"),
        ("def f(:", "mine", "cannot be imported: SyntaxError"),
        ("import nothing_of_that_name", "mine", "cannot be imported: ModuleNotFoundError: No module named 'nothing"),
        ("from stantune.data import Split", "mine", "stantune.data is stantune.images.data now"),
        (
            "import stantune.solver",
            "mine",
            "stantune.solver is stantune.images.solving.solver now, so import from there",
        ),
        ("import stantune.images.solver", "mine", "stantune.images.solver is stantune.images.solving.solver now, so"),
        ("from stantune.nets.caffe import LRN", "mine", "stantune.nets is stantune.images.nets now"),
        (SOURCE.replace("iterations=50", "iterations=0"), "mine", "problem 'mine': iterations=0 is too small"),
    ],
)
def test_a_file_without_the_problem_says_what_is_wrong(
    source: str, attribute: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "problems.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=message) as caught:
        find(f"{path}:{attribute}")
    assert str(path) in str(caught.value)


def test_a_range_that_is_refused_is_found_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "problems.py"
    path.write_text(SOURCE.replace("Integer(4, 64)", "\n    Integer(64, 4)"))
    number = 1 + path.read_text().splitlines().index('    Integer(64, 4), "weight_decay": Float(0, 1)}),')
    with pytest.raises(UsageError, match=rf"Integer\(.*is empty: low is above high \(line {number}\)$"):
        find(f"{path}:mine")


def test_a_module_beside_it_is_found_by_commands_in_any_folder(tmp_path: Path) -> None:
    (tmp_path / "net_beside.py").write_text(SOURCE)
    (tmp_path / "mine.v2.py").write_text("from net_beside import mine\n")
    command = [sys.executable, "-m", "stantune", "problems", f"{tmp_path / 'mine.v2.py'}:mine"]
    done = subprocess.run(command, cwd=tmp_path.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "weight_decay" in done.stdout


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "problem.txt").write_text(SOURCE)
    with pytest.raises(UsageError, match=r"problem\.txt is no Python file"):
        find(f"{tmp_path / 'problem.txt'}:mine")


def test_a_file_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text("raise RuntimeError('no')")
    before = set(sys.modules)
    with pytest.raises(UsageError, match="RuntimeError: no"):
        find(f"{tmp_path / 'failing.py'}:mine")
    assert set(sys.modules) == before
