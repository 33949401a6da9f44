"""A digest of code: the same for the same code, another one for other code."""

from __future__ import annotations

import copy
import functools
import linecache
import subprocess
import sys
import textwrap
import threading
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from stantune.user_code.digest import digest

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
    path.write_text(BASE + "\nfrom stantune.user_code.digest import digest\nprint(digest(train), digest(shifted))")
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


def test_plain_globals_of_code_without_a_file_count_by_their_values():
    """As in a notebook, whose cells are no statements of a file."""

    def run(**given):
        names = {"__name__": "made", **given}
        exec("def used(): return SIZES\ndef train(run): return BATCH + used()['a']", names)
        return digest(names["train"])

    before = run(BATCH=50, SIZES={"a": [1, 2]}, UNUSED=1)
    assert run(BATCH=50, SIZES={"a": [1, 2]}, UNUSED=2) == before
    assert run(BATCH=500, SIZES={"a": [1, 2]}) != before
    assert run(BATCH=50, SIZES={"a": [1, 3]}) != before
    # Data and the like may be others in each run.
    assert run(BATCH=object(), SIZES={"a": [1, 2]}) == run(BATCH=object(), SIZES={"a": [1, 2]})


def cell(text, names):
    """Run a notebook's cell: code whose lines are known, though they are in no file."""
    name = f"<cell {hash(text)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), names)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("kept = []", "kept.append(run)"),
        ("kept = {}", "kept.setdefault('a', []).append(run)"),
        ("kept = {'a': []}", "kept['a'].append(run)"),
        ("kept = set()", "if run: kept.add(run)"),
        ("kept = [0]", "kept[0] += run"),
        ("kept = [0]", "_, kept[0] = 0, run"),
        ("kept = {0: 1}", "del kept[0]"),
        ("kept = 0", "global kept; kept += run"),
        ("kept = 0", "global kept; kept = run"),
        ("kept = [1]", "return kept.pop()"),
    ],
)
def test_what_the_code_of_a_notebook_changes_does_not_count(before, change):
    names = {"__name__": "made"}
    cell(f"{before}\nBATCH = 50", names)
    cell(f"def note(run):\n    {change}", names)
    cell("def train(run):\n    note(run)\n    size = BATCH\n    return kept, size", names)
    first, kept = digest(names["train"]), str(names["kept"])
    names["train"](3)
    assert str(names["kept"]) != kept
    assert digest(names["train"]) == first
    names["BATCH"] = 500
    assert digest(names["train"]) != first


@pytest.mark.parametrize(
    "change", ["kept['lr'] = run", "kept['log'].append(run)", "kept['lr'] += run; del kept['log']"]
)
def test_of_what_the_code_of_a_notebook_changes_the_rest_counts(change):
    names = {"__name__": "made", "kept": {"batch": 50, "lr": 0.1, "log": []}}
    cell(f"def train(run):\n    {change}\n    return kept['batch']", names)
    first = digest(names["train"])
    names["train"](3)
    assert digest(names["train"]) == first
    names["kept"]["batch"] = 500
    assert digest(names["train"]) != first


@pytest.mark.parametrize(
    "change",
    [
        "log = kept['log']; log.append(run); kept['lr'] = run",
        "(lambda of: of.update(a=run))(kept); kept['lr'] = run",
    ],
)
def test_what_the_code_of_a_notebook_changes_by_another_name_does_not_count(change):
    names = {"__name__": "made", "kept": {"batch": 50, "lr": 0.1, "log": []}}
    cell(f"def train(run):\n    {change}\n    return kept['batch']", names)
    first, kept = digest(names["train"]), str(names["kept"])
    names["train"](3)
    assert str(names["kept"]) != kept
    assert digest(names["train"]) == first


def test_variables_of_a_comprehension_are_no_globals_that_code_changes():
    names = {"__name__": "made", "BATCH": 50}
    cell("def train(run):\n    return [BATCH for BATCH in range(3)], (lambda: BATCH)()", names)
    first = digest(names["train"])
    names["BATCH"] = 500
    assert digest(names["train"]) != first


def test_a_global_that_code_without_lines_gives_a_value_does_not_count():
    names = {"__name__": "made"}
    exec("number = 0\nBATCH = 50\ndef train(run):\n    global number\n    number += BATCH\n    return number", names)
    first = digest(names["train"])
    names["train"](3)
    assert digest(names["train"]) == first
    names["BATCH"] = 500
    assert digest(names["train"]) != first


def test_a_local_variable_of_a_notebooks_code_is_no_global_that_it_changes():
    names = {"__name__": "made", "BATCH": 50, "SIZE": 3}
    cell("def train(run):\n    BATCH = run\n    BATCH += SIZE\n    return BATCH", names)
    cell("def other(run):\n    return train(BATCH)", names)
    first = digest(names["other"])
    names["BATCH"] = 500
    assert digest(names["other"]) != first


def test_functions_that_name_each_other_end():
    def one(run):
        return two(run)

    def two(run):
        return one(run)

    assert digest(one) != digest(two)


class Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self, run):
        return self.train(run)

    def train(self, run):
        return run.stop


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held


class Picky:
    """Says itself what counts of it."""

    def __init__(self, held):
        self.held = held
        self.log = object()

    def __getstate__(self):
        return {"held": 1}


def closed(held):
    return lambda run: held


def defaulting(held):
    def train(run, held=held):
        return held

    return train


HOLDING = {
    "object": Holder,
    "method": lambda held: Holder(held).train,
    "closure": closed,
    "default": defaulting,
    "partial": lambda held: functools.partial(lambda held, run: held, held),
    "object in an object": lambda held: Holder(Holder(held)),
    "slots": lambda held: closed(Slotted(held)),
    "list in a dict": lambda held: Holder({"a": [held]}),
    "set": lambda held: closed({(1, held)} if held.__hash__ else {repr(held)}),
    "namespace": lambda held: closed(types.SimpleNamespace(held=held)),
    "subclass of dict": lambda held: closed(OrderedDict(held=held)),
    "array of objects": lambda held: closed(np.array([Slotted(held), None], dtype=object)),
}
HELD = {
    "number": (1, 5),
    "text": ("a", "b"),
    "tensor": (torch.arange(4), torch.arange(4) + 1),
    "tensor of another kind": (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
    "tensor of another shape": (torch.zeros(4, dtype=torch.bfloat16), torch.zeros(2, 2, dtype=torch.bfloat16)),
    "array": (np.arange(4.0)[::2], np.arange(4.0)[1::2]),
    "masked": (np.ma.masked, np.ma.array([1.0, 2.0], mask=[True, False])),
    "path": (Path("a"), Path("b")),
    "huge": (10**9999, 10**9999 + 1),
    "function": (len, abs),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("way", HOLDING)
def test_what_a_function_holds_counts(way, held):
    one, other = HELD[held]
    made = HOLDING[way]
    assert digest(made(one)) != digest(made(other))
    # It is the content that counts, not which object it is.
    assert digest(made(one)) == digest(made(copy.deepcopy(one)))


def test_a_model_that_is_held_counts_by_its_weights():
    def model(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))

    assert digest(closed(model(1))) == digest(closed(model(1)))
    assert digest(closed(model(1))) != digest(closed(model(2)))


def test_what_an_object_leaves_out_of_its_state_does_not_count():
    assert digest(Picky(1).__getstate__) == digest(Picky(2).__getstate__)
    assert digest(closed(Picky(1))) == digest(closed(Picky(2)))


def test_a_class_that_is_held_counts_with_its_methods(loaded):
    text = """
class Held:
    def value(self):
        return 1

class Train:
    def __init__(self):
        self.held = Held()
    def __call__(self, run):
        return self.own(run)
    def own(self, run):
        return self.held.value()

train = Train()
"""
    assert digest(loaded(text)) == digest(loaded(text))
    for before, after in (("return 1", "return 2"), ("self.held.value()", "-self.held.value()")):
        assert digest(loaded(text.replace(before, after))) != digest(loaded(text))


def test_what_no_pickle_takes_counts_by_its_kind():
    for make in (threading.Lock, lambda: (each for each in ()), lambda: sys, lambda: types.MappingProxyType({})):
        assert digest(closed(make())) == digest(closed(make()))


def test_circles_depths_and_masses_end():
    circle = Holder([])
    circle.held.append(circle)
    circle.held.append(circle.held)
    deep = None
    for _ in range(5000):
        deep = Holder(deep)
    many = [Slotted(number) for number in range(200_000)]
    knot = Holder(None)
    knot.held = {Slotted(knot), Slotted(knot), Slotted((knot, 1))}
    for thing in (circle, deep, many, knot):
        assert digest(Holder(thing)) == digest(Holder(thing))


def test_other_processes_have_the_same_digest_of_what_is_held(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("""
import functools, logging, random, re, threading, types
import numpy as np, torch
from pathlib import Path
from stantune.user_code.digest import digest

class Holder:
    def __init__(self, *held): self.held = held
    def __call__(self, run): return run
    def train(self, run): return run

held = (1, torch.ones(3), np.ones(2), {"x", "y"}, {Path("a"), Path("b"), None}, object(), Holder(object()), len,
        threading.Lock(), threading.Event(), logging.getLogger("a"), re.compile("a"), random.Random(1), print, Holder,
        np.random.default_rng(1), torch.Generator(), torch.nn.Linear(1, 1, device="meta"), types, iter([1]),
        torch.optim.SGD([torch.ones(1)], 0.1), functools.lru_cache(len), lambda: 3, torch.relu, range(3), np.float32(1))
for each in (Holder(*held), Holder(*held).train, lambda run: held, functools.partial(Holder, held)):
    print(digest(each))
""")
    said = {
        subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
