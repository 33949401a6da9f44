"""A digest of code: the same for the same code, another one for other code."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import textwrap

import pytest

from stantune.code_digest import digest

numbers = itertools.count()

BASE = '''
import functools
import torch
LIMIT = 3

class Net(torch.nn.Module):
    """A network."""
    width = 4
    def forward(self, x):
        return x * 2

def helper(x):
    return x + 1

def unused(x):
    return x

def make(factor):
    def train(run):
        """Train."""
        net = Net()
        for i in run.steps():  # each
            run.loss(helper(i) * factor)
        return f"{net.width!r:>10} {1.5}"
    return train

def noisy(function):
    @functools.wraps(function)
    def wrapper(run):
        print("begins")
        return function(run)
    return wrapper

train = noisy(make(2.0))
shifted = lambda run: run.stop + 1
'''


@pytest.fixture
def loaded(tmp_path):
    def load(text, name="train"):
        path = tmp_path / f"code_{next(numbers)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("mine", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)

    return load


@pytest.mark.parametrize("name", ["train", "shifted"])
def test_the_same_code_has_the_same_digest(loaded, name):
    assert digest(loaded(BASE, name)) == digest(loaded(BASE, name))
    assert digest(loaded(f"\n\n# moved down\n{BASE}", name)) == digest(loaded(BASE, name))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# each", "# every single one"),
        ('"""Train."""', '"""Train, and what have you."""'),
        ('"""A network."""', ""),
        ("run.loss(helper(i) * factor)", "run.loss(\n                helper(i)\n                * factor)"),
        ("return x\n", "return -x\n"),
        ("LIMIT = 3", "LIMIT = 4"),
    ],
)
def test_what_changes_nothing_does_not_count(loaded, before, after):
    assert before in BASE
    assert digest(loaded(BASE.replace(before, after))) == digest(loaded(BASE))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("helper(i) * factor", "helper(i) + factor"),
        ("return x + 1", "return x + 2"),
        ('print("begins")', 'print("starts")'),
        ("return x * 2", "return x * 3"),
        ("width = 4", "width = 5"),
        ("make(2.0)", "make(3.0)"),
        ("def helper(x):", "def helper(x, y=3):"),
        (":>10", ":>11"),
        ("Net(torch.nn.Module)", "Net(torch.nn.Identity)"),
    ],
)
def test_what_changes_something_counts(loaded, before, after):
    assert before in BASE
    assert digest(loaded(BASE.replace(before, after))) != digest(loaded(BASE))


def test_a_lambdas_own_code_counts(loaded):
    assert digest(loaded(BASE.replace("run.stop + 1", "run.stop + 2"), "shifted")) != digest(loaded(BASE, "shifted"))


def test_other_processes_have_the_same_digest(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(BASE + "\nfrom stantune.code_digest import digest\nprint(digest(train), digest(shifted))")
    said = {
        subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_code_without_a_file_has_one_too():
    def run(text):
        names = {"__name__": "made"}
        exec(textwrap.dedent(text), names)
        return digest(names["train"])

    text = """
    def train(run):
        return {"a": [run.stop for _ in (1, 2)], "b": run.seed in {"x", "y"}}
    """
    assert run(text) == run(text)
    assert run(text) != run(text.replace("(1, 2)", "(1, 3)"))


def test_functions_that_name_each_other_end():
    def one(run):
        return two(run)

    def two(run):
        return one(run)

    assert digest(one) != digest(two)
