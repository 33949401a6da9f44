"""Fields and arguments of all that users make themselves: spaces, problems, solvers, STAN's settings, searches."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import stantune as st
from stantune.errors import StantuneError
from stantune.images import data
from stantune.stan.config import Memo

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_problem  # isort: skip
from fuzz import Make  # isort: skip
from values import value  # isort: skip

PROBLEM = {each.name: getattr(tiny_problem.problem, each.name) for each in dataclasses.fields(tiny_problem.problem)}
SPACE = st.Space({"x": st.Float(-1, 1), "n": st.Integer(1, 9), "k": st.Categorical(("a", "b"))})
# Of texts that a field takes, so that not all are unknown.
KNOWN: dict[str, tuple[Any, ...]] = {
    "loss": ("cross entropy", "binary cross entropy", "mean squared error", "huber", lambda outputs, targets: 0),
    "measure": ("error", "accuracy", "loss", "macro F1", "mean IoU", "R2", lambda outputs, targets: "x"),
    "hold_out": ("stratified", "random", "first", "last"),
    "kind": ("sgd", "adam", "adamw", "rmsprop", "lbfgs", "adagrad", "SGD"),
    "policy": ("fixed", "cosine", "one-cycle", "step", "warm-up", data.Normalise(), st.Solver),
    "data": ("mnist", "mnits", tiny_problem.images, lambda root: (1, 2), lambda root: None, lambda: None),
    "network": (tiny_problem.network, lambda: None, lambda width=5: tiny_problem.network(), lambda a: a, dict),
    "validation": (0.2, 60, 60.0, 299, 300, 301, 1e-9, 0.999),
    "space": (SPACE, st.Space({"lr": st.Float(1e-3, 1)}), st.Space({"width": st.Integer(1, 9)})),
    "normalise": (data.Normalise(), data.Normalise(mean="image"), data.Normalise(scale=0.1)),
    "solver": (st.Solver(lr=0.1), st.Solver(lr=0.1, kind="adam"), st.Solver),
    "pattern": ("auto", "rows", "columns", "blocks"),
    "rate": (0.5, 0.25, 1, "auto", (0.5, 1), ((0, 0.5), (5, 1))),
    "memo": (None, True),
    "executor": ("local", "ray"),
    "sampler": ("random", "tpe", "bohb"),
    "variant": ("algorithm1", "table1"),
    "mode": ("sync", "async"),
    "enqueue": ([{"x": 0.5}], [{"x": 5}], [{}]),
    "fixed": ({"x": 0.5}, {"k": "c"}, {}),
    "storage": ("sqlite:///x.db", "sqlite://", "journal:///x.log"),
    "minimize": ("loss",),
    "budget": (0, "0s", "1h30m"),
    "rates": ("auto", (0.5, 1), (1,)),
    "threads": (1, "auto"),
    "device": ("cpu", "auto", "cuda:9"),
    "stan": (st.Stan(rate=0.5), None),
    "trial_memory": ("2G", 10**400),
    "seed": (0, 2**70),
    "step": (None, 0.1, 1),
    "log": (False, True),
    "low": (-1.7e308, 1e-3, 1),
    "high": (1.7e308, 9, 10**400),
}


class ReachedError(Exception):
    """What was given is taken: a search would begin."""


def given(rng: random.Random, of: Callable[..., Any], required: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return arguments for a call: what is required, and a few of these names with values of any kind."""
    arguments = dict(required)
    for name in rng.sample(names, min(len(names), rng.choice((1, 1, 1, 2, 3)))):
        arguments[name] = rng.choice(KNOWN[name]) if name in KNOWN and rng.random() < 0.4 else value(rng)
    return arguments


def use_problem(problem: st.Problem) -> None:
    """Do with a problem what a search does before it trains."""
    if isinstance(problem.data, str):
        return
    splits = problem.load()
    setting = {name: parameter.check(name, low_of(parameter)) for name, parameter in problem.space.items()}
    setting = {name: setting[name] for name in problem.space.active(setting)}
    model = problem.build(setting)
    optimizer = problem.optimizer(model, setting)
    problem.lasting(7).scheduled(optimizer, setting)(3)
    batch = problem.batches(splits, setting, 0, "cpu").at(0)
    problem.criterion(setting)(model(batch.inputs), batch.targets)
    problem.chance_loss(splits)
    problem.evaluate(model.eval(), splits, "validation", "cpu")


def low_of(parameter: Any) -> Any:
    return parameter.choices[0] if isinstance(parameter, st.Categorical) else parameter.low


def use_space(space: st.Space) -> None:
    """Do with a space what a search does before it trains."""
    from stantune.search.propose.sampling import from_distribution, sample, to_distribution

    space.as_json()
    for number in range(2):
        setting = sample(space, 0, number)
        assert space.check(setting, complete=True) == setting
    for parameter in space.values():
        assert from_distribution(to_distribution(parameter)) == parameter


def use_solver(solver: st.Solver) -> None:
    import torch

    model = torch.nn.Linear(2, 2)
    solver.set_iteration(solver.optimizer(model), 5, solver.course({}, 10))


def use_setting(made: Any) -> None:
    """A setting of any kind is checked by a space."""
    SPACE.check(made)


def parameters_of(call: Callable[..., Any], *but: str) -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(call).parameters if name not in but)


def square(run: st.Run) -> float:
    return float(run.params["x"]) ** 2


def tune(**arguments: Any) -> None:
    """Give `tune` all that is given; where a search would begin, it is over."""
    with contextlib.suppress(ReachedError):
        st.tune(square, arguments.pop("space", SPACE), **arguments)


def reached(*_: Any, **__: Any) -> Any:
    raise ReachedError


def nothing(made: Any) -> None:
    """It is made; that is all."""


TARGETS: list[tuple[Callable[..., Any], dict[str, Any], tuple[str, ...], Callable[[Any], None]]] = [
    (st.Float, {"low": 1e-3, "high": 1.0}, parameters_of(st.Float), lambda made: use_space(st.Space({"x": made}))),
    (st.Integer, {"low": 1, "high": 9}, parameters_of(st.Integer), lambda made: use_space(st.Space({"x": made}))),
    (st.Categorical, {"choices": ("a", 1)}, ("choices",), lambda made: use_space(st.Space({"x": made}))),
    (st.Space, {"parameters": dict(SPACE)}, ("parameters", "when"), use_space),
    (dict, {"x": 0.5, "n": 2, "k": "a"}, ("x", "n", "k", "y"), use_setting),
    (st.Problem, PROBLEM, tuple(PROBLEM), use_problem),
    (st.Problem, PROBLEM, tuple(PROBLEM), use_problem),
    (st.Solver, {"lr": 0.1}, parameters_of(st.Solver), use_solver),
    (st.Stan, {"rate": 0.5}, parameters_of(st.Stan), nothing),
    (Memo, {"samples": 5, "epoch": 2}, parameters_of(Memo), nothing),
    (data.Normalise, {}, parameters_of(data.Normalise), nothing),
    (
        tune,
        {"minimize": "loss", "max_resource": 3},
        parameters_of(st.tune, "objective", "out", "fresh"),
        nothing,
    ),
    (
        tune,
        {"minimize": "loss", "max_resource": 3},
        parameters_of(st.tune, "objective", "out", "fresh"),
        nothing,
    ),
]


def prepare(place: Path) -> Make:
    """Have arguments made; what is written is in `place`."""
    from stantune.tuning import tune as tuning

    mock.patch.object(tuning, "search", reached).start()
    mock.patch.object(tuning, "Workers", reached).start()
    mock.patch.object(tuning, "cluster_for", reached_cluster).start()

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        of, required, names, use = rng.choice(TARGETS)
        arguments = given(rng, of, required, names)
        if of is dict and rng.random() < 0.1:
            arguments = {value_name(rng): each for each in arguments.values()}

        def tries() -> str:
            try:
                use(of(**arguments))
            except StantuneError as error:
                said = str(error)
                return "refused" if "\n" not in said.strip() and len(said) < 3000 else f"words: {said[:2000]!r}"
            return "works"

        return f"{of.__name__}({shown(arguments, required)})", tries

    return make


@contextlib.contextmanager
def reached_cluster(executor: Any, address: Any, checkpoints: Any) -> Any:
    if executor == "ray":
        raise ReachedError
    yield None


def value_name(rng: random.Random) -> str:
    return rng.choice(("x", "n", "k", "", "é", "x "))


def shown(arguments: Mapping[str, Any], required: Mapping[str, Any]) -> str:
    parts = []
    for name, one in arguments.items():
        if name in required and one is required[name]:
            continue
        try:
            parts.append(f"{name}={repr(one)[:100]}")
        except Exception as error:
            parts.append(f"{name}=<{type(one).__name__}: {error}>")
    return ", ".join(parts)
