"""Command lines: every command with options of every kind, up to where a training would begin."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from typer.main import get_command

from stantune import errors
from stantune.cli import app, main, options
from stantune.compare import comparison
from stantune.compare.study import study
from stantune.images import estimate, objective
from stantune.report import diagnosis
from stantune.search.table.looking import dashboard
from stantune.training import planning, threads, train
from stantune.tuning import tune as tuning

from fuzz import Make  # isort: skip
from values import text  # isort: skip

TINY = str(Path(__file__).parents[1] / "tiny_problem.py")
PROBLEMS = (f"{TINY}:problem", f"{TINY}:flat", TINY, f"{TINY}:network", f"{TINY}:images", "lenet", "mlp", "cq")
# What options that are texts may well be given.
LIKELY = {
    "--brackets": ("all", "1", "2", "3"),
    "--variant": ("algorithm1", "table1"),
    "--mode": ("sync", "async"),
    "--sampler": ("random", "tpe", "bohb"),
    "--accelerate": (
        "stan",
        "none",
        "stan:auto",
        "stan:0.25,0.5,1",
        "stan:0.5,1",
        "stan:²",
        "stan:nan,1",
        "stan:1e400,1",
    ),
    "--rate": ("auto", "0.5", "0.25", "1"),
    "--fill": ("neighbour", "memo"),
    "--pattern": ("auto", "rows", "columns", "blocks"),
    "--period": ("none", "1", "9"),
    "--set": ("lr=0.01", "lr=²", "momentum=0.9", "lr=1e400", "hidden=" + "9" * 5000, "hidden=1e400", "lr=nan"),
    "--enqueue": ("lr=0.01", "lr=0.01,momentum=0.5", "lr=", "momentum=²"),
    "--device": ("auto", "cpu", "cuda", "cuda:0", "cuda:²", "cpu:0", "cuda:" + "9" * 5000),
    "--threads": ("auto", "1", "2", "²", "2147483648"),
    "--workers": ("1", "2"),
    "--executor": ("local", "ray", "loca"),
    "--address": ("auto", "127.0.0.1:1", "x:y"),
    "--budget": ("0", "1s", "1h30m", "9" * 400 + "d", "²s", "1.5m"),
    "--trial-timeout": ("1s", "9" * 400 + "h", "1h30"),
    "--trial-memory": ("2G", "9" * 400, "²G", "9" * 400 + "T", "0"),
    "--storage": (
        "sqlite:///x.db",
        "journal:///x.log",
        "journal:///",
        "sqlite://",
        "sqlite:///" + "a" * 300,
        "a://h:x/d",
    ),
    "--json": ("-", "r.json", "no/r.json", "a" * 300),
    "--out": ("s", "s/s", "p.png", "a" * 300 + ".png", "~nosuchuser"),
    "--checkpoint": ("c.pt", "s/c.pt", "a" * 300),
    "--start-from": ("s", "t", "a" * 300),
    "--data": ("d", "~nosuchuser", "~", "a" * 300),
    "--ways": ("none", "none,native,stan:auto", "stan:0.25,0.5,1/9@*,memo", "meprop:²", "stan+meprop:80", "stan:1e400"),
    "--final-iterations": ("1/1", "1/2", "²/1", "1/" + "9" * 5000, "60"),
    "--layers": ("conv*", "conv2", "1"),
    "--checkpoints": ("s3://b/x", "file:///tmp", "c"),
}


class Reached(errors.StantuneError):
    """What the command line was given is taken: a training would begin."""

    exit_code = 0


def reached(*_: Any, **__: Any) -> Any:
    raise Reached("reached")


def without_trainings() -> contextlib.ExitStack:
    """Have whatever trains, times, fetches or serves do nothing."""
    stack = contextlib.ExitStack()

    def replace(where: object, name: str, by: Callable[..., Any] = reached) -> None:
        stack.enter_context(mock.patch.object(where, name, by))

    for module in (threads, objective):
        replace(module, "measure_threads")
    for module in (planning, objective):
        replace(module, "planned_stan")
    replace(planning, "times_of")
    replace(train, "run")
    replace(comparison, "run")
    replace(comparison, "train_in_turns")
    replace(comparison, "warm_up")
    replace(estimate, "_time")
    replace(objective, "fetch")
    replace(diagnosis, "diagnose")
    replace(dashboard, "make_server")
    replace(tuning, "Workers")
    replace(study._Study, "run")
    replace(torch, "set_num_threads", lambda count: None)
    from stantune.images import data
    from stantune.search.ray import cluster

    replace(data, "fetch")
    replace(cluster.Cluster, "__init__")
    return stack


def prepare(place: Path) -> Make:
    """Have command lines made that are run in `place`."""
    without_trainings()
    # No data sets here: they take seconds to load.
    os.environ["STANTUNE_DATA"] = str(place / "no-data")
    group: Any = get_command(app)
    commands = {name: command for name, command in group.commands.items() if name != "data"}
    commands["data fetch"] = group.commands["data"].commands["fetch"]
    files: Any = place / "work"

    def line(rng: random.Random) -> list[str]:
        name = rng.choice(("search", "search", "brackets", "brackets", "train", "compare", *commands))
        typed = name.split()
        takes = [parameter for parameter in commands[name].params if parameter.name != "help"]
        chosen = [
            each for each in takes if each.param_type_name == "argument" or rng.random() < rng.choice((0.05, 0.2))
        ]
        for each in chosen:
            if each.param_type_name == "argument":
                given = text(rng, *PROBLEMS, *PROBLEMS) if rng.random() < 0.4 else rng.choice(PROBLEMS)
                # What lies in the whole system takes as long as it may.
                typed.append("s" if os.path.normpath(given) in ("/", "//") else given)
                continue
            option = rng.choice([opt for opt in each.opts if opt.startswith("--")])
            if option in ("--debug", "--fresh"):
                continue
            likely = LIKELY.get(option, ("1", "2", "20", "60"))
            typed += [option] if each.is_flag else [option, text(rng, *likely, *likely)]
        if name == "search" and rng.random() < 0.5:
            typed += ["--budget", "0"]
        if rng.random() < 0.02:
            typed.insert(rng.randrange(len(typed)), text(rng))
        return typed

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        typed = line(rng)
        return repr(typed), lambda: run(typed, files)

    return make


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Be in a folder of one's own, three levels deep, whatever names lead out of it."""
    inner = path / "a" / "b" / "c"
    inner.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(inner):
        yield
    shutil.rmtree(path, ignore_errors=True)


def run(typed: list[str], files: Path) -> str:
    """Run a command line as the program does; say what became of it."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    options._state["debug"] = False
    with (
        folder(files),
        mock.patch.object(sys, "argv", ["stantune", *typed]),
        mock.patch.object(sys, "stdin", io.StringIO()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    said = err.getvalue()
    if "failed unexpectedly" in said or "Traceback" in said:
        return f"{code}: {said[-1500:]}"
    if code == 0:
        return "works"
    if code not in (1, 2, 3) or not said:
        return f"{code}: {said[-1500:]}"
    if code == 2 and not said.startswith("Usage: ") and len(said.splitlines()) != 1:
        return f"not one line: {said!r}"
    if len(said) > 1500 + 3 * sum(map(len, typed)):
        return f"very long: {said[:1500]}"
    return "refused"
