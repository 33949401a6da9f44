"""A plan is made once: what "auto" came to is kept with a training and with a search, and taken again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from stantune import Stan
from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.kernels.library import kernels
from stantune.protocols import Conditions
from stantune.stan.config import LayerPlan
from stantune.stan.layers import conv2d
from stantune.stan.layers.fusion import natively
from stantune.stan.layers.norm import StanBatchNorm2d
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.training import planning
from stantune.training.train import run
from stantune.training.trial import Trial

TINY = find(f"{Path(__file__).parents[1] / 'tiny_problem.py'}:problem")
AUTO = Stan(rate="auto", tolerance=5.0, iterations=40)

pytestmark = pytest.mark.usefixtures("one_thread")


def times(saved: float) -> ModelTimes:
    """Return times of the tiny network in which blocks save this share of the convolution, and rows nothing."""
    patterns = (PatternTimes("rows", 0.0, 0.0, 0.1), PatternTimes("blocks", saved, saved, 0.2))
    return ModelTimes((LayerTimes("1", 1.0, 1.0, 0.01, patterns),), 3.0, 5)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list from whose end the machine's next times are taken; none left means that nobody should measure."""
    left: list[float] = []
    monkeypatch.setattr(planning, "times_of", lambda *_, **__: times(left.pop()))
    return left


def test_a_plan_is_what_the_times_say_and_comes_back_from_plain_data(timed):
    timed.append(0.8)
    stan = planning.planned_stan(AUTO, TINY, {}, TINY.load(), None)
    assert stan.plan == (LayerPlan("1", ("blocks",)),)
    assert isinstance(stan.rate, float)
    kept = json.loads(json.dumps(stan.planned))
    assert planning.planned_stan(AUTO, TINY, {}, TINY.load(), kept) == stan


def test_a_plan_is_held_against_whole_iterations(monkeypatch):
    monkeypatch.setattr(planning, "CHECKED_SECONDS", 0.0)
    # By the layers' times each reduced iteration saves more than half: of a second nearly, or of a millionth.
    for unit, kept in ((0.1, (LayerPlan("1", ("blocks",)),)), (1e-7, ())):
        layers = (LayerTimes("1", unit, unit, 0.0, (PatternTimes("blocks", 0.8 * unit, 0.8 * unit, 0.2),)),)
        monkeypatch.setattr(planning, "times_of", lambda *_, **__: ModelTimes(layers, 3 * unit, 5))  # noqa: B023
        for period in (1, 9):
            monkeypatch.setattr("stantune.stan.planning.plan.CYCLES", (period,))
            stan = planning.planned_stan(AUTO, TINY, {}, TINY.load(), None)
            assert (stan.plan, stan.period) == (kept, period)


def test_without_native_kernels_none_are_timed(monkeypatch):
    asked = []

    def times_of(*_, native, **__):
        asked.append(native)
        return times(0.8)

    monkeypatch.setattr(planning, "times_of", times_of)
    for native in (True, False):
        planning.planned_stan(replace(AUTO, native=native), TINY, {}, TINY.load(), None)
    assert asked == [True, False]


def test_settings_in_numbers_are_left_as_they_are(timed):
    for stan in (Stan(), Stan(rate=0.25, tolerance=0.2), Stan(rate="auto", plan=())):
        assert planning.planned_stan(stan, TINY, {}, TINY.load(), None) is stan
        assert stan.planned is None or stan.plan == ()


def test_a_training_goes_on_with_the_plan_that_it_began_with(timed, tmp_path):
    splits = TINY.load()
    timed.append(0.8)
    first = run(TINY, {}, tmp_path / "cut.pt", 0, 20, splits=splits, stan=AUTO)
    assert first.cost.reduced
    cut = run(TINY, {}, tmp_path / "cut.pt", 20, 40, splits=splits, stan=AUTO)
    timed.append(0.8)
    whole = run(TINY, {}, tmp_path / "whole.pt", 0, 40, splits=splits, stan=AUTO)
    assert cut == whole


def test_a_search_keeps_the_plan_that_it_began_with(timed):
    asked = ProblemObjective(TINY, AUTO)
    timed.append(0.8)
    begun, threads = asked.prepared(Conditions(max_resource=27))
    assert begun.stan.plan == (LayerPlan("1", ("blocks",)),)
    kept = json.loads(json.dumps({**begun.identity, "threads": threads}))
    again, _ = asked.prepared(Conditions(max_resource=27, begun=kept))
    assert again == begun
    assert again.identity == begun.identity


def test_the_real_times_are_of_the_problems_own_training():
    found = planning.times_of(TINY, {}, ("*",), TINY.load())
    assert [layer.name for layer in found.layers] == ["1"]
    assert found.step_seconds > found.layers[0].exact > 0


@pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
@pytest.mark.parametrize("native", [True, False])
def test_an_exact_trial_is_plain_pytorchs_unless_it_is_timed_natively(monkeypatch, native):
    problem = find(str(Path(__file__).parents[1] / "tiny_problem.py") + ":problem")
    trial = Trial(problem, {}, problem.load(), seed=0, stan=None, native=native)
    calls = []
    convolve = conv2d.convolve
    monkeypatch.setattr(conv2d, "convolve", lambda *given: calls.append(given) or convolve(*given))
    # So small a layer is PyTorch's otherwise.
    monkeypatch.setattr(conv2d, "_is_for_native", lambda *given: True)
    monkeypatch.setattr("stantune.stan.layers.fusion.may_pay", lambda *given: True)

    def step() -> None:
        trial.train(trial.iteration + 1, lambda: False, lambda iteration: None)

    step()
    assert not calls
    with natively(trial.model):
        step()
    assert len(calls) == int(native)
    step()
    assert len(calls) == int(native)


@pytest.mark.skipif(kernels().library is None, reason=f"no native library: {kernels().reason}")
@pytest.mark.parametrize("native", [True, False])
def test_native_iterations_are_timed_where_no_convolution_is_native(monkeypatch, native):
    def network():
        return nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))

    by_kernels = []
    followed = StanBatchNorm2d.followed
    monkeypatch.setattr(StanBatchNorm2d, "followed", lambda *given: by_kernels.append(1) or followed(*given))
    # So small a layer is PyTorch's otherwise.
    monkeypatch.setattr("stantune.stan.layers.norm.norm_pays", lambda *given: True)
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    found = planning.times_of(replace(TINY, network=network), {}, ("*",), TINY.load(), native=native)
    assert (found.native_seconds is not None) == native
    # One in the warm-up, and in the round one that is not timed and one that is.
    assert len(by_kernels) == (3 if native else 0)
