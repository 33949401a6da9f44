"""Rates by rung: a real search equals trainings put together by hand; kills and workers change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from stantune.cli.settings import accelerated_by_rung
from stantune.cli.training.composition import composed
from stantune.errors import UsageError
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import Problem, Splits, find
from stantune.images.solving.evaluation import error_percent
from stantune.protocols import Place
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.workers.executors import InProcess
from stantune.stan.config import Stan
from stantune.training.trial import Trial
from stantune.tuning.compose import compose

TESTS = Path(__file__).parents[1]
TINY = f"{TESTS / 'tiny_problem.py'}:problem"
RATES = (0.25, 0.5, 1.0)
# Rungs of 3, 9 and 27 iterations.
LENGTHS = ("--max-iterations", "27", "--min-iterations", "3", "--threads", "1")
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3, rates=RATES)


@pytest.mark.parametrize(
    ("accelerate", "period", "layers", "wanted"),
    [
        ("stan", None, None, (1, ("conv2",))),
        ("stan:auto", None, None, (9, ("*",))),
        ("stan:0.5,1", None, None, (9, ("*",))),
        ("stan:auto", "1", ["conv2"], (1, ("conv2",))),
    ],
)
def test_more_is_spared_by_rung_unless_told_otherwise(
    accelerate: str,
    period: str | None,
    layers: list[str] | None,
    wanted: tuple[int, tuple[str, ...]],
) -> None:
    named, sizes = composed("cq", True, None, None, 3, (accelerate, None, None, period, 0, 0, layers), None)
    what, settings = compose(named, **sizes)
    assert isinstance(what, ProblemObjective)
    assert what.stan is not None
    assert (what.stan.period, what.stan.layers) == wanted
    assert settings.rates == {"stan": (), "stan:auto": RATES, "stan:0.5,1": (0.5, 1.0)}[accelerate]


@pytest.mark.parametrize(
    ("accelerate", "said"),
    [
        ("stan:", "--accelerate stan: names no rates"),
        ("stan:fast", "stan:fast names no rates"),
        ("stan:0.25,", "stan:0.25, names no rates"),
        ("stan:0.5", "stan:0.5 is one rate for all rungs; give --accelerate stan --rate 0.5"),
        ("none:0.5,1", "--accelerate none:0.5,1 is unknown; give stan, stan:auto, stan:0.25,0.5,1 or none"),
    ],
)
def test_texts_that_name_no_rates(accelerate: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        accelerated_by_rung(accelerate)


@pytest.mark.parametrize("rates", [(0.3, 1.0), (0.25, 0.3, 1.0)])
def test_rates_that_stan_does_not_have(rates: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match=r"rate=0\.3 has no grid pattern"):
        compose(ProblemObjective(find("cq")), max_resource=4000, rates=rates, stan=Stan())


def by_hand(
    problem: Problem,
    splits: Splits,
    params: dict[str, Any],
    number: int,
    stops: Sequence[int],
    rates: Sequence[float] = RATES,
) -> Any:
    """Train a trial of SETTINGS with a new network, optimizer and STAN in each stretch; errors, divergence, weights."""
    seed = SETTINGS.trial_seed(number)
    state: dict[str, Any] | None = None
    errors: dict[int, float] = {}
    for rate, stop in zip(rates, (3, 9, 27), strict=True):
        trial = Trial(problem, params, splits, seed=seed, stan=Stan(rate=rate, period=3, seed=seed))
        if state is not None:
            trial.restore({**state, "stan": {"iteration": state["iteration"]}})
        diverged, _ = trial.train(stop, lambda: False, lambda iteration: None)
        if diverged:
            return errors, trial.iteration, None
        state = trial.state()
        if stop in stops:
            errors[stop] = error_percent(trial.model, splits.validation, splits.normaliser)
        if stop == stops[-1]:
            break
    assert state is not None
    return errors, None, state["model"]


@pytest.mark.usefixtures("one_thread")
def test_search_is_what_trainings_by_hand_are(tmp_path: Path) -> None:
    problem = find(TINY)
    tiny = ProblemObjective(problem, Stan(rate=0.25, period=3))
    splits = tiny.splits
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        state = search(tiny, SETTINGS, directory, InProcess(tiny.trainer(Place(threads=1))))
    assert state.complete
    assert [row.bracket for row in state.rows].count(0) == 3, "some trials pass all rates on the way to one rung"
    compared = 0
    for row in state.rows:
        rungs_of = [rung.iterations for bracket in state.plan if bracket.s == row.bracket for rung in bracket.rungs]
        reached = [stop for stop in rungs_of if stop in row.errors]
        on_the_way = rungs_of[: len(reached) + 1] if row.diverged_at is not None else reached
        errors, diverged_at, weights = by_hand(problem, splits, dict(row.params), row.number, on_the_way)
        assert (errors, diverged_at) == (row.errors, row.diverged_at)
        checkpoint = directory.checkpoint(row.number)
        if checkpoint.exists() and diverged_at is None:
            kept = torch.load(checkpoint, weights_only=True)["state"]["model"]
            assert all(torch.equal(kept[name], weights[name]) for name in weights)
            for others in ((0.5, 0.5, 1.0), (0.25, 1.0, 1.0), (0.25, 0.5, 0.5)):
                _, _, other = by_hand(problem, splits, dict(row.params), row.number, on_the_way, others)
                assert any(not torch.equal(other[name], weights[name]) for name in weights), "each rate counts"
            compared += 1
    assert compared >= 3


def command(place: Path, *options: str) -> tuple[str, ...]:
    return ("search", TINY, *LENGTHS, "--out", str(place), "--json", str(place.with_suffix(".json")), *options)


def result(place: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(place.with_suffix(".json").read_text())
    return {key: value for key, value in told.items() if key not in ("seconds", "saved")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_killed_and_gone_on_with_and_two_workers(tmp_path: Path) -> None:
    searches = {
        "whole": (0, "stan:auto"),
        # The rates that "auto" stands for may be said as well: it is the same search.
        "killed": (60, "stan:0.25,0.5,1"),
        "two": (0, "stan:auto", "--workers", "2"),
    }
    typed: list[object] = []
    for name, (most, *options) in searches.items():
        typed += ["+", tmp_path / f"{name}.log", 0, 1 if most else 0, most]
        typed += command(tmp_path / name, "--accelerate", *options)
    script = TESTS / "helpers" / "search" / "killed_command.py"
    done = subprocess.run(
        [sys.executable, str(script), *map(str, typed)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, *killed, two = done.stdout.split()[1::2]
    assert (whole, two, killed[-1]) == ("done", "done", "done")
    assert killed.count("killed") == len(killed) - 1 >= 4
    wanted = result(tmp_path / "whole")
    assert wanted["rates"] == [
        {"iterations": 3, "rate": 0.25},
        {"iterations": 9, "rate": 0.5},
        {"iterations": 27, "rate": 1.0},
    ]
    assert wanted["accelerate"] == "stan"
    assert result(tmp_path / "killed") == wanted
    assert result(tmp_path / "two") == wanted
