"""How long a search of a problem takes, from the times of exact and reduced iterations."""

from __future__ import annotations

import warnings
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from corners import CORNERS
from torch import nn

from stantune import Categorical, Float, Integer, Problem, Solver, Space
from stantune.errors import NoEffectWarning, StantuneError, UsageError
from stantune.images import estimate
from stantune.images.estimate import DRAWN, drawn, estimate_seconds
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.images.resizing import Resize
from stantune.outcome import Cost
from stantune.search.plan.hyperband import plan
from stantune.search.settings import SearchSettings
from stantune.stan.config import Stan


@pytest.mark.parametrize(
    ("stan", "rates", "trial"),
    [
        # An exact iteration takes 4 s, one at 1/2 takes 2 s and one at 1/4 takes 1 s; the trial is 9 iterations long.
        (None, (), 9 * 4),
        (Stan(period=None), (), 9 * 2),
        (Stan(period=2), (), 3 * 4 + 6 * 2),
        (Stan(period=2, tail=4, iterations=9), (), (2 + 4) * 4 + 3 * 2),
        (Stan(rate=0.25, period=None), (0.25, 0.5, 1.0), 1 * 1 + 2 * 2 + 6 * 4),
        (Stan(rate=0.25, period=2), (0.25, 0.5), (1 + 2) * 4 + 2 * 1 + 4 * 2),
    ],
)
def test_rates(monkeypatch: pytest.MonkeyPatch, stan: Stan | None, rates: tuple[float, ...], trial: float) -> None:
    def time(objective: Any, settings: Any, several: object, stan: Stan | None, resize: object, evaluate: bool) -> Cost:
        if stan is None or stan.rate == 1:
            return Cost(exact=5, exact_seconds=20.0, evaluation_seconds=0.5 if evaluate else 0.0)
        return Cost(reduced=8, reduced_seconds=8 * 4.0 * float(stan.rate))

    monkeypatch.setattr(estimate, "_time", time)
    monkeypatch.setattr(estimate, "_trainable", lambda objective, settings, say: [{}])
    settings = SearchSettings(0, 9, 1, 3, rates=rates, finalists=99)
    lenet = ProblemObjective(find("lenet"), stan)
    # A whole trial is the last bracket's job; there is one on each of many workers.
    monkeypatch.setattr(SearchSettings, "plan", lambda self: plan(9, 1, 3)[2:])
    estimated = estimate_seconds(lenet, settings, 99)
    assert estimated == pytest.approx(trial + 0.5 + 9 * 4 + 2 * 0.5)
    # One finalist more than there are workers is trained after the others.
    estimated = estimate_seconds(lenet, replace(settings, finalists=100), 99)
    assert estimated == pytest.approx(trial + 0.5 + 2 * (9 * 4 + 2 * 0.5))


def test_a_network_whose_width_is_searched_is_timed_at_widths_drawn_from_the_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An iteration of `mlp` takes a second per thousand neurons here, of which a random setting has 4 146."""

    def run(problem: Any, setting: Any, checkpoint: Any, start: int, stop: int, **more: Any) -> Any:
        warnings.warn("said already", NoEffectWarning, stacklevel=2)
        seconds = setting.get("hidden", 500) / 1000
        evaluation = 0.25 * seconds if more["evaluate"] else 0.0
        return SimpleNamespace(cost=Cost(exact=stop, exact_seconds=stop * seconds, evaluation_seconds=evaluation))

    monkeypatch.setattr(estimate, "run", run)
    monkeypatch.setattr(ProblemObjective, "splits", None)
    settings = SearchSettings(0, 9, 9, 3)
    mlp = ProblemObjective(find("mlp"))
    widths = [setting["hidden"] for setting in drawn(mlp, settings)]
    assert len(set(widths)) == DRAWN
    mean = sum(widths) / DRAWN / 1000
    # One trial and one final training of 9 iterations, and three evaluations.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimate_seconds(mlp, settings) == pytest.approx((18 + 3 * 0.25) * mean)
    assert mean == pytest.approx(4.146, rel=0.3)
    fixed = replace(settings, fixed={"hidden": 8000})
    assert estimate_seconds(mlp, fixed) == pytest.approx((18 + 3 * 0.25) * 8)


def test_low_rungs_are_timed_on_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """There an iteration takes 1 s and an evaluation 1/4 s; on whole images it is four times that."""

    def run(problem: Any, setting: Any, checkpoint: Any, start: int, stop: int, **more: Any) -> Any:
        share, until = problem.identity.get("resize", ("1", stop))
        assert until >= stop, "all of it is of one size"
        images = float(Fraction(share)) ** 2 * 4
        evaluation = 0.25 * images if more["evaluate"] else 0.0
        return SimpleNamespace(cost=Cost(exact=stop, exact_seconds=stop * images, evaluation_seconds=evaluation))

    monkeypatch.setattr(estimate, "run", run)
    monkeypatch.setattr(ProblemObjective, "splits", None)
    monkeypatch.setattr(ProblemObjective, "compared_by", lambda self, share: (None, share))
    # Nine trials to 1, three of them to 3, where images become whole, and one to 9.
    monkeypatch.setattr(SearchSettings, "plan", lambda self: plan(9, 1, 3)[:1])
    estimated = estimate_seconds(ProblemObjective(CORNERS, resize=Resize.of("1/2")), SearchSettings(0, 9, 1, 3))
    trials = (9 + 3 * 2) * 1 + 6 * 4 + 12 * 0.25 + 1
    assert estimated == pytest.approx(trials + 9 * 4 + 4 * 1)


def net(width: int = 3, deep: bool = False) -> nn.Module:
    return nn.Linear(2, width)


@pytest.mark.parametrize(
    ("space", "fixed", "timed", "names"),
    [
        (Space({"lr": Float(0.1, 1)}), {}, 1, set()),
        (Space({"lr": Float(0.1, 1), "width": Integer(1, 9)}), {}, DRAWN, {"width"}),
        (Space({"lr": Float(0.1, 1), "width": Integer(1, 9)}), {"width": 3}, 1, {"width"}),
        (Space({"lr": Float(0.1, 1), "batch_size": Integer(1, 9)}), {}, DRAWN, {"batch_size"}),
        # What decides whether a width exists comes along.
        (
            Space({"nesterov": Categorical((True,)), "width": Integer(1, 9)}, when={"width": {"nesterov": True}}),
            {},
            DRAWN,
            {"nesterov", "width"},
        ),
    ],
)
def test_only_what_changes_the_cost_is_drawn(space: Space, fixed: Any, timed: int, names: set[str]) -> None:
    problem = Problem("wide", net, "mnist", space, Solver(lr=0.1), iterations=9)
    settings = drawn(ProblemObjective(problem), replace(SearchSettings(0, 9, 1, 3), fixed=fixed))
    assert len(settings) == timed
    for setting in settings:
        assert set(setting) == names
        space.check(setting)


def test_settings_that_cannot_be_trained_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a search goes on without them; where there are no others nothing is known."""
    least = [1000]

    def run(problem: Any, setting: Any, checkpoint: Any, start: int, stop: int, **more: Any) -> Any:
        if setting["hidden"] < least[0]:
            raise ValueError("so few do not do")
        cost = Cost(exact=stop, exact_seconds=stop * 2.0, evaluation_seconds=0.5 if more["evaluate"] else 0.0)
        return SimpleNamespace(cost=cost)

    monkeypatch.setattr(estimate, "run", run)
    monkeypatch.setattr(ProblemObjective, "splits", None)
    settings = SearchSettings(0, 9, 9, 3)
    mlp = ProblemObjective(find("mlp"))
    assert min(setting["hidden"] for setting in drawn(mlp, settings)) < least[0]
    assert estimate_seconds(mlp, settings) == pytest.approx(18 * 2.0 + 3 * 0.5)
    least[0] = 10**9
    said: list[str] = []
    assert estimate_seconds(mlp, settings, say=said.append) is None
    (note,) = said
    assert note.endswith("tried for an estimate trains, the last one by ValueError: so few do not do")

    def refused(*arguments: Any, **more: Any) -> Any:
        raise UsageError("no setting does")

    monkeypatch.setattr(estimate, "run", refused)
    with pytest.raises(UsageError, match="no setting does"):
        estimate_seconds(mlp, settings)


def test_settings_that_do_not_fit_into_memory_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    most, evaluated = [1000], [False]

    def run(problem: Any, setting: Any, checkpoint: Any, start: int, stop: int, **more: Any) -> Any:
        if setting.get("hidden", 500) > most[0] or (evaluated[0] and more["evaluate"]):
            raise torch.OutOfMemoryError("CUDA out of memory")
        cost = Cost(exact=stop, exact_seconds=stop * 2.0, evaluation_seconds=0.5 if more["evaluate"] else 0.0)
        return SimpleNamespace(cost=cost)

    monkeypatch.setattr(estimate, "run", run)
    monkeypatch.setattr(ProblemObjective, "splits", None)
    settings = SearchSettings(0, 9, 9, 3, device="cuda")
    mlp, said = ProblemObjective(find("mlp")), list[str]()
    widths = [setting["hidden"] for setting in drawn(mlp, settings)]
    most[0] = sorted(widths)[len(widths) // 2]
    assert estimate_seconds(mlp, settings, say=said.append) == pytest.approx(18 * 2.0 + 3 * 0.5)
    evaluated[0] = True
    assert estimate_seconds(mlp, settings, say=said.append) is None
    most[0] = 0
    assert estimate_seconds(mlp, settings, say=said.append) is None
    assert said == [
        "note: no estimate, since the memory of cuda does not do (OutOfMemoryError: CUDA out of memory)",
        "note: none of the settings that were tried for an estimate trains, the last one by OutOfMemoryError: CUDA out "
        "of memory",
    ]
    # Where all trials have the same numbers, none fits.
    with pytest.raises(StantuneError, match=r"corners does not fit into the memory of cuda \(OutOf.*another `device`"):
        estimate_seconds(ProblemObjective(CORNERS), settings)
