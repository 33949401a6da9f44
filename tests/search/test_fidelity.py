"""Rates by rung: the rule; a real search equals trainings put together by hand; kills and workers change nothing."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stantune import runtime
from stantune.cli.options import problem_of, settings_of
from stantune.errors import UsageError
from stantune.images.problems import Problem, Splits, find
from stantune.images.trainer import ProblemTrainer
from stantune.search.loop import search
from stantune.search.plan.fidelity import automatic_rates, parse_rates, rates_from, rungs, text_of
from stantune.search.plan.hyperband import plan
from stantune.search.settings import SearchSettings
from stantune.search.table.directory import SearchDirectory
from stantune.search.workers.executors import InProcess
from stantune.stan.config import Stan
from stantune.training.train import error_percent
from stantune.training.trial import Trial

HERE = Path(__file__).parent
TINY = f"{HERE.parent / 'tiny_problem.py'}:problem"
RATES = (0.25, 0.5, 1.0)
# Rungs of 3, 9 and 27 iterations.
LENGTHS = ("--max-iterations", "27", "--min-iterations", "3", "--threads", "1")
SETTINGS = SearchSettings(seed=0, max_iterations=27, min_iterations=3, stan=Stan(rate=0.25, period=3), rates=RATES)

lengths = st.tuples(st.integers(1, 20_000), st.integers(1, 500), st.integers(2, 5)).map(
    lambda drawn: (max(drawn[:2]), min(drawn[:2]), drawn[2])
)


@given(lengths)
def test_automatic_rates(length: tuple[int, int, int]) -> None:
    maximum = length[0]
    stops, rates = rungs(*length), automatic_rates(*length)
    assert len(rates) == len(stops)
    assert (stops[-1], rates[-1]) == (maximum, 1.0), "the last comparison is between exact stretches"
    assert list(rates) == sorted(rates), "never coarser than in the rung below"
    assert set(rates) <= {0.25, 0.5, 1.0}
    for stop, rate in zip(stops, rates, strict=True):
        assert (rate == 0.25) == (stop <= maximum / 9)
        assert (rate == 1.0) == (stop > maximum / 3)


def test_automatic_rates_by_hand() -> None:
    # The default searches of lenet and cq.
    assert automatic_rates(10_000, 123, 3) == (0.25, 0.25, 0.25, 0.5, 1.0)
    assert parse_rates("auto", 4_000, 49, 3) == RATES
    assert [tuple(entry) for entry in rates_from(RATES, 4_000, 49, 3)] == [(0, 0.25), (444, 0.5), (1333, 1.0)]
    # By halves two rungs lie beyond R/3: 2, 4, 8, 16, 32, 64.
    assert automatic_rates(64, 2, 2) == (0.25, 0.25, 0.5, 0.5, 1.0, 1.0)


@given(lengths, st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=1, max_size=6))
def test_rates_count_from_the_top(length: tuple[int, int, int], rates: list[float]) -> None:
    stops = rungs(*length)
    if len(rates) > len(stops):
        with pytest.raises(UsageError, match=f"{len(rates)} rates, and this search has {len(stops)} rungs"):
            rates_from(rates, *length)
        return
    found = rates_from(rates, *length)
    assert found[0].start == 0
    assert [entry.start for entry in found] == sorted({entry.start for entry in found})
    assert all(before.rate != after.rate for before, after in itertools.pairwise(found))

    def at(iteration: int) -> float:
        return next(entry.rate for entry in reversed(found) if entry.start <= iteration)

    for place, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
        from_the_top = len(stops) - place
        wanted = rates[-from_the_top] if from_the_top <= len(rates) else rates[0]
        assert at(start) == at(stop - 1) == wanted
    # Every rung of every bracket ends where a stretch may end.
    assert {rung.iterations for bracket in plan(*length) for rung in bracket.rungs} == set(stops)


@given(lengths, st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=2, max_size=5))
def test_one_text_for_the_same_rates(length: tuple[int, int, int], rates: list[float]) -> None:
    if len(rates) > len(rungs(*length)):
        return
    text = ",".join(map(str, rates))
    parsed = parse_rates(text, *length)
    assert rates_from(parsed, *length) == rates_from(rates, *length)
    longer = [rates[0]] * (len(rungs(*length)) - len(rates)) + rates
    assert parse_rates(",".join(map(str, longer)), *length) == parsed
    if len(parsed) > 1:
        assert parse_rates(text_of(parsed).removeprefix("stan:"), *length) == parsed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "stan: names no rates"),
        ("fast", "stan:fast names no rates"),
        ("0.25,", "stan:0.25, names no rates"),
        ("0.25,2", r"rate=2.0 is not in \(0, 1\]"),
        ("0.5,nan", "rate=nan"),
        ("0.5", "--accelerate stan --rate 0.5"),
        ("0.25,0.5,0.5,1", "4 rates, and this search has 3 rungs.*6, 20, 60"),
    ],
)
def test_rates_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_rates(text, 60, 6, 3)


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
    monkeypatch: pytest.MonkeyPatch,
    accelerate: str,
    period: str | None,
    layers: list[str] | None,
    wanted: tuple[int, tuple[str, ...]],
) -> None:
    # This process is not the search's, and stays as it is.
    monkeypatch.setattr(runtime, "tune_process", lambda threads: threads)
    problem = problem_of("cq", layers)
    stan = settings_of(
        *(problem, True, None, None, 3, "all", "algorithm1", "random"),
        *((accelerate, None, None, period, 0, 0, layers), 0, 1, 1, "cpu"),
    ).stan
    assert stan is not None
    assert (stan.period, stan.layers) == wanted


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
            errors[stop] = error_percent(trial.model, splits, splits.validation)
        if stop == stops[-1]:
            break
    assert state is not None
    return errors, None, state["model"]


@pytest.mark.usefixtures("one_thread")
def test_search_is_what_trainings_by_hand_are(tmp_path: Path) -> None:
    problem = find(TINY)
    splits = problem.load()
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        state = search(problem, SETTINGS, directory, InProcess(ProblemTrainer(problem, SETTINGS, splits, directory)))
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
    def run(most: int, place: Path, *options: str) -> list[str]:
        log = place.with_suffix(".log")
        done = subprocess.run(
            [sys.executable, str(HERE / "killed_command.py"), log, "0", "1", str(most), *command(place, *options)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[1::2]

    whole = tmp_path / "whole"
    assert run(0, whole, "--accelerate", "stan:auto") == ["done"]
    wanted = result(whole)
    assert wanted["rates"] == [
        {"iterations": 3, "rate": 0.25},
        {"iterations": 9, "rate": 0.5},
        {"iterations": 27, "rate": 1.0},
    ]
    assert wanted["accelerate"] == "stan"
    # The rates that "auto" stands for may be said as well: it is the same search.
    assert len(run(60, tmp_path / "killed", "--accelerate", "stan:0.25,0.5,1")) >= 5
    assert result(tmp_path / "killed") == wanted
    assert run(0, tmp_path / "two", "--accelerate", "stan:auto", "--workers", "2") == ["done"]
    assert result(tmp_path / "two") == wanted
