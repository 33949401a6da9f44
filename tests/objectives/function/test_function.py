"""A function as an objective: what it says of itself, how it travels, and what is refused."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import textwrap

import cloudpickle
import pytest
import torch

from stantune.errors import UsageError
from stantune.objectives.function.objective import FunctionObjective, objective
from stantune.objectives.told import ToldObjective
from stantune.parameters import Float
from stantune.protocols import Conditions, Metric, Objective, Place, Segment
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Workers
from stantune.space import Space
from stantune.stan.config import Stan
from stantune.testing import check_objective

SPACE = Space({"x": Float(0, 1)})
LOSS = Metric("loss")


def train(run):
    """Return something that a seed and a setting decide."""
    total = [0.0]
    run.keep(total=total)
    for _ in run.steps():
        total[0] += run.params["x"] * torch.rand(()).item()
    return {"loss": total[0]}


class Callable:
    """Trains where it is called."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, run):
        return {"loss": self.factor * train(run)["loss"]}


def wrapped(function):
    @functools.wraps(function)
    def inner(run):
        return function(run)

    return inner


def closure():
    factor = 2.0

    def train_so(run):
        return {"loss": factor * train(run)["loss"]}

    return train_so


FUNCTIONS = {
    "function": train,
    "lambda": lambda run: train(run),
    "closure": closure(),
    "wrapped": wrapped(train),
    "object": Callable(3.0),
    "method": Callable(3.0).__call__,
    "partial": functools.partial(lambda run, factor: train(run)["loss"] * factor, factor=2),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_every_kind_of_function_is_an_objective(kind):
    check_objective(FunctionObjective(FUNCTIONS[kind], SPACE, LOSS))


def test_they_travel_to_worker_processes(tmp_path):
    for kind, function in FUNCTIONS.items():
        one = FunctionObjective(function, SPACE, LOSS)
        segment = Segment(0, {"x": 0.5}, 0, 2, 5, tmp_path / f"{kind}.pt", bracket=0)
        with Workers(Order(one, Place(threads=1)), 1) as workers:
            workers.submit(segment)
            ((_, how),) = workers.finished(lambda: False, lambda segment, done: None)
        segment.checkpoint.unlink()
        assert how == one.trainer(Place(threads=1)).train(segment, lambda: False, lambda done: None), kind


def test_its_name_is_the_functions():
    names = [FunctionObjective(function, SPACE, LOSS).name for function in FUNCTIONS.values()]
    assert names == ["train", "objective", "train_so", "train", "Callable", "__call__", "objective"]
    assert FunctionObjective(train, SPACE, LOSS, name="mine").name == "mine"


def test_what_it_says_of_itself():
    one = FunctionObjective(train, SPACE, Metric("f1", "maximize"), unit="round", length=9)
    assert isinstance(one, Objective)
    assert (one.rate, one.length, one.unit) == (None, 9, "round")
    identity = dict(one.identity)
    assert len(identity.pop("code")) == 16
    assert identity == {
        "problem": "train",
        "metric": "f1",
        "direction": "maximize",
        "unit": "round",
        "accelerate": "none",
        "rate": None,
    }
    fast = FunctionObjective(train, SPACE, LOSS, stan=Stan(rate=0.25, layers=("a", "b"), seed=3))
    assert fast.rate == 0.25
    assert (fast.identity["accelerate"], fast.identity["rate"]) == ("stan", 0.25)
    assert fast.identity["stan"]["layers"] == ["a", "b"]
    assert json.loads(json.dumps(dict(fast.identity))) == fast.identity
    assert "seed" not in fast.identity["stan"]


@pytest.mark.parametrize(
    ("conditions", "threads"),
    [
        ({}, None),
        ({"threads": 3}, 3),
        ({"side_by_side": True, "here": False}, 1),
        ({"begun": {"threads": 5}, "side_by_side": True}, 5),
        ({"begun": {"threads": 5}, "threads": 2}, 2),
    ],
)
def test_threads(conditions, threads):
    expected = torch.get_num_threads() if threads is None else threads
    one = FunctionObjective(train, SPACE, LOSS)
    assert one.prepared(Conditions(9, **conditions)) == (one, expected)


@pytest.mark.parametrize(
    ("threads", "sentence"),
    [
        ("auto", "`threads`=auto times the training of a Problem, and train is none; give a number"),
        (0, "`threads`=0 is no number of threads; give 1 or more"),
        (True, "`threads`=True is no number"),
    ],
)
def test_threads_that_are_refused(threads, sentence):
    with pytest.raises(UsageError, match=sentence):
        FunctionObjective(train, SPACE, LOSS).prepared(Conditions(9, threads=threads))


def generator(run):
    yield 1


async def coroutine(run):
    return 1


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (3, "3 is nothing that trains; give a function of a Run"),
        (Callable, "Callable is a class; give a function of a Run, or an object that can be called with one"),
        (generator, "generator does not return but yield or await"),
        (coroutine, "coroutine does not return but yield or await"),
        (lambda: 1, r"objective\(\) cannot be called with a Run alone; give a function of one argument, run, and take"),
        (lambda run, lr: 1, r"objective\(run, lr\) cannot be called with a Run alone"),
        (lambda *, run: 1, r"objective\(\*, run\) cannot be called"),
    ],
)
def test_what_is_no_function_of_a_run_is_refused(function, sentence):
    with pytest.raises(UsageError, match=sentence):
        FunctionObjective(function, SPACE, LOSS)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"space": {"x": Float(0, 1)}}, "`space` of train is a dict; give a Space of its parameters"),
        ({"metric": "loss"}, r"`metric` of train is 'loss'; give a Metric, such as Metric\('loss', 'minimize'\)"),
        ({"unit": ""}, "`unit` of train is empty; give a word for what its steps are, such as epoch"),
        ({"unit": 3}, "`unit` of train is 3; give a word"),
        ({"name": 3}, "`name`=3 is no text; give one in quotes"),
        ({"length": 0}, "the length of train is 0; give a whole number of epochs, 1 or more"),
        ({"length": 2.5}, "the length of train is 2.5; give a whole number"),
        ({"length": True}, "the length of train is True; give a whole number"),
    ],
)
def test_other_settings_that_are_refused(setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        FunctionObjective(**{"function": train, "space": SPACE, "metric": LOSS, **setting})


def test_the_decorator_says_what_tune_would_be_told():
    decorated = objective(space=SPACE, maximize="f1", unit="round", max_resource=27, name="mine")(train)
    assert decorated == FunctionObjective(train, SPACE, Metric("f1", "maximize"), "round", 27, "mine")

    class Fake:
        def __init__(self):
            self.params = {"x": 1.0}

        def keep(self, **things):
            pass

        def steps(self):
            return range(3)

    assert decorated(Fake())["loss"] > 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "nothing says by which metric the trials of train are compared; name one .* `minimize` or `maximize`"),
        ({"minimize": "a", "maximize": "b"}, "`minimize`=a and `maximize`=b are two metrics, .*; give that one alone"),
    ],
)
def test_one_metric_is_compared(given, sentence):
    with pytest.raises(UsageError, match=sentence):
        objective(space=SPACE, **given)(train)


def test_making_one_imports_no_torch():
    code = """
        import sys
        from stantune.objectives.choose import objective_of
        from stantune.objectives.function.run import Run
        from stantune.parameters import Float
        from stantune.space import Space
        def train(run: Run): return 1.0
        objective_of(train, Space({"x": Float(0, 1)}), minimize="loss").identity
        print("torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_script_is_the_same_objective_each_time_and_travels(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from pathlib import Path
            import torch
            import stantune.objectives.function.objective as f
            from stantune.protocols import Metric, Place, Segment
            from stantune.search.workers.order import Order
            from stantune.search.workers.workers import Workers
            from stantune.parameters import Float
            from stantune.space import Space

            class Net(torch.nn.Linear):
                pass

            @f.objective(space=Space({"x": Float(0, 1)}), minimize="loss", max_resource=3)
            def train(run):
                net = Net(3, 1)
                run.keep(net=net)
                for _ in run.steps():
                    run.loss(net(torch.randn(3)).item())
                return net.weight.sum()

            print(train.identity["code"])
            segment = Segment(0, {"x": 0.5}, 0, 3, 5, Path(sys.argv[1]), bracket=0)
            with Workers(Order(train, Place(threads=1)), 1) as workers:
                workers.submit(segment)
                print(workers.finished(lambda: False, lambda segment, done: None)[0].how.metrics)
        """)
    )
    said = []
    for number in range(2):
        command = [sys.executable, str(script), str(tmp_path / f"{number}.pt")]
        said.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert said[0] == said[1]
    assert "{'loss': " in said[0]


def test_a_module_that_cannot_be_imported_elsewhere_travels_itself():
    code = "def helper(run): return 2.0\ndef train(run): return helper(run)\n"
    module = type(sys)("nowhere_to_be_found")
    exec(code, vars(module))
    sys.modules[module.__name__] = module
    pickled = cloudpickle.dumps(FunctionObjective(module.train, SPACE, LOSS))
    del sys.modules[module.__name__]
    assert cloudpickle.loads(pickled)(None) == 2.0


def test_what_is_told_by_others_is_not_trained_here():
    one = ToldObjective("mine", SPACE, LOSS)
    assert isinstance(one, Objective)
    assert one.prepared(Conditions(9)) == (one, 1)
    assert json.loads(json.dumps(dict(one.identity))) == one.identity
    with pytest.raises(UsageError, match="the trainings of mine are yours: ask for segments and tell their metrics"):
        one.trainer(Place())
