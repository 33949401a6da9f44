"""What the planner decides and predicts from given times, without a clock; and one plan of a real network."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stantune import NoEffectWarning, Stan, accelerate_
from stantune.errors import UsageError
from stantune.images.nets.lenet import lenet
from stantune.stan.config import LayerPlan, Memo
from stantune.stan.entries.choice import Choice
from stantune.stan.entries.entries import PATTERNS
from stantune.stan.layers.meprop import MeProp
from stantune.stan.planning.cost import IterationTimes, speedup
from stantune.stan.planning.plan import CYCLES, GAIN, NEAR_BEST, WORTHWHILE, checked, decide, fitted, plan_for, predict
from stantune.stan.planning.timing import LayerTimes, ModelTimes, PatternTimes
from stantune.stan.schedule import Schedule

ROWS, COLUMNS, BLOCKS = (PATTERNS[name] for name in ("rows", "columns", "blocks"))


def layer(name="conv", exact=30.0, t_e=0.0, line=False, **saved):
    """A layer; of each pattern t_i, t_j and, if it matters, the error."""
    patterns = tuple(PatternTimes(key, *value, *[0.1][len(value) - 2 :]) for key, value in saved.items())
    return LayerTimes(name, exact / 3, exact * 2 / 3, t_e, patterns, line)


def times(*layers, step=100.0):
    return ModelTimes(layers, step, 5)


def planned(plan):
    return {line.layer: line.patterns for line in plan.stan.plan}


GOOD = {"rows": (5.0, 10.0), "columns": (4.0, 9.0), "blocks": (7.0, 15.0)}


def test_auto_becomes_numbers():
    plan = decide(times(layer(**GOOD)), Stan(rate="auto", seed=3, pretrain=5))
    assert planned(plan) == {"conv": ("rows", "columns", "blocks")}
    assert plan.stan.rate == 0.25
    assert plan.stan.tolerance == Stan(rate="auto").allowed_error
    assert plan.stan.patterns_of("conv") == (ROWS, COLUMNS, BLOCKS)
    assert (plan.stan.seed, plan.stan.pretrain) == (3, 5)
    assert plan.reasons == {}
    assert (plan.times.layers, plan.times.step_seconds) == ((layer(**GOOD),), 100.0)
    assert decide(times(layer(**GOOD)), Stan(rate="auto", tolerance=0.2)).stan.tolerance == 0.2
    assert pickle.loads(pickle.dumps(plan.stan)) == plan.stan


def test_what_all_layers_together_hardly_bring_is_left_alone():
    saved = {"rows": (1.0, 2.0)}
    enough = decide(times(layer(exact=10.0, **saved), step=20.0), Stan(rate="auto"))
    assert planned(enough) == {"conv": ("rows",)}
    assert enough.predicted_speedup >= GAIN
    plan = decide(times(layer(exact=10.0, **saved), step=100.0)._replace(native_seconds=80.0), Stan(rate="auto"))
    assert planned(plan) == {}
    assert plan.stan.rate == 1
    assert plan.predicted_speedup == 100 / 80
    assert plan.reasons == {
        "conv": "of all layers together, a run would be 1.02 times as fast as with every entry, and 1.05 is asked"
    }


@pytest.mark.parametrize(
    ("refresh", "reduced", "native", "kept", "speedup"),
    [
        (12.0, 6.0, 10.0, True, 2.0 * 15.0 / (12.0 + 6.0)),
        (11.0, 9.9, 10.0, False, 15.0 / 10.0),
        (11.0, 9.9, 14.5, True, 2.0 * 15.0 / (14.5 + 9.9)),
        (30.0, 14.4, 14.5, False, 1.0),
    ],
)
def test_whole_iterations_decide_what_layers_alone_seemed_to_bring(refresh, reduced, native, kept, speedup):
    found = ModelTimes((layer(exact=8.0, rows=(2.0, 4.0)),), 15.0, 5, native_seconds=native)
    plan = replace(decide(found, Stan(rate="auto")), reasons={})
    plan = replace(plan, stan=replace(plan.stan, period=1, native=True))
    seen = checked(plan, refresh, reduced)
    assert planned(seen) == ({"conv": ("rows",)} if kept else {})
    assert seen.predicted_speedup == pytest.approx(speedup)
    assert seen.stan.native is (speedup != 1.0)
    assert set(seen.reasons) == (set() if kept else {"conv"})


def test_a_plan_is_a_pure_function_of_the_times():
    assert decide(times(layer(**GOOD)), Stan(rate="auto")) == decide(times(layer(**GOOD)), Stan(rate="auto"))


@pytest.mark.parametrize(
    ("saved", "kept"),
    [
        ({"rows": (3.75, 3.75), "columns": (3.7, 3.7)}, ("rows",)),
        ({"rows": (-2.0, 9.5), "columns": (9.5, -2.0)}, ("rows", "columns")),
        ({"rows": (2.0, 3.0), "columns": (2.0, 3.0), "blocks": (6.0, 6.0)}, ("blocks",)),
        # As many entries again, but nothing gained: the pattern that errs less is enough.
        ({"rows": (8.0, 8.0), "columns": (4.0, 4.0), "blocks": (8.0, 8.0)}, ("rows", "columns")),
        ({"rows": (8.0, 8.0), "columns": (4.0, 4.0), "blocks": (6.0, 6.0)}, ("rows", "columns")),
    ],
    ids=["noise", "sum of both passes", "blocks only", "blocks save as much", "blocks save less"],
)
def test_candidates_save_enough_and_more_than_those_that_compute_more(saved, kept):
    assert WORTHWHILE * 30.0 == 7.5
    plan = decide(times(layer(exact=30.0, **saved), step=50.0), Stan(rate="auto"))
    assert planned(plan) == {"conv": kept}
    assert plan.stan.rate == min(PATTERNS[name].rate for name in kept)


@pytest.mark.usefixtures("no_kernels")
def test_where_nothing_pays_every_layer_is_left_alone_with_its_figures():
    poor = layer("poor", rows=(0.002, 0.001), blocks=(0.003, 0.004), exact=0.030)
    odd = LayerTimes("odd", reason="Odd has no fast form")
    plan = decide(times(poor, odd), Stan(rate="auto"))
    assert plan.stan.plan == ()
    assert plan.stan.rate == 1.0
    assert plan.predicted_speedup == 1.0
    assert plan.reasons == {
        "poor": "saves 7.00 ms of 30.00 ms a reduced iteration at best (blocks), less than 25%",
        "odd": "Odd has no fast form",
    }
    with pytest.warns(NoEffectWarning, match="as the planner measured"):
        accelerate_(nn.Sequential(nn.Conv2d(3, 4, 3)), plan.stan)
    assert decide(times(), Stan(rate="auto")).stan.plan == ()


def test_a_refresh_that_costs_more_than_a_cycle_saves_is_not_worth_it():
    costly = layer("costly", t_e=9_900.0, rows=(5.0, 5.0), columns=(-1.0, 0.0), blocks=(9.0, 10.0))
    plan = decide(times(costly, layer("cheap", **GOOD)), Stan(rate="auto"))
    # Two of three patterns are candidates, so that two thirds of t_e count: 6600 > Z 19.
    assert planned(plan) == {"cheap": ("rows", "columns", "blocks")}
    period = plan.stan.period
    assert plan.reasons == {
        "costly": f"saves 19000.00 ms in each of {period} reduced iterations, and a refresh costs 6600000.00 ms"
    }


def test_settings_that_exclude_a_measured_layer_are_followed():
    plan = decide(times(layer("a", **GOOD), layer("b", **GOOD)), Stan(rate="auto", layers=("b",)))
    assert planned(plan) == {"b": ("rows", "columns", "blocks")}
    assert plan.reasons == {"a": "not among layers=b"}
    assert plan.predicted_speedup == decide(times(layer("b", **GOOD)), Stan(rate="auto")).predicted_speedup


@given(
    t_e=st.floats(0, 2000),
    t_i=st.floats(4, 40),
    t_j=st.floats(4, 40),
    iterations=st.none() | st.integers(1, 2000),
    pretrain=st.integers(0, 100),
)
def test_z_is_the_smallest_that_comes_near_the_best(t_e, t_i, t_j, iterations, pretrain):
    found = layer(t_e=t_e, rows=(t_i, t_j))
    period = decide(times(found), Stan(rate="auto", pretrain=pretrain), iterations).stan.period
    one = IterationTimes(100.0, t_e, t_i, t_j)
    reached = {z: speedup(one, Schedule(pretrain, z), iterations) for z in CYCLES}
    near = [z for z in CYCLES if reached[z] >= NEAR_BEST * max(reached.values())]
    assert period == min(near)


def test_z_in_numbers():
    assert decide(times(layer(rows=(2.0, 6.0))), Stan(rate="auto")).stan.period == 1
    assert decide(times(layer(rows=(10.0, 30.0))), Stan(rate="auto")).stan.period == 9
    assert decide(times(layer(t_e=100.0, rows=(10.0, 30.0))), Stan(rate="auto")).stan.period == 19
    # As if the fastest candidate were always taken: with the longer Z nothing is lost where it is not.
    assert decide(times(layer(rows=(2.0, 6.0), blocks=(10.0, 30.0))), Stan(rate="auto")).stan.period == 9
    short = Stan(rate="auto", pretrain=900, iterations=1000)
    assert decide(times(layer(rows=(10.0, 30.0))), short).stan.period == 1


def test_fixed_settings_stay_and_are_predicted():
    stan = Stan(rate=0.5, period=9)
    one = layer(**GOOD)
    plan = decide(times(one, LayerTimes("odd", reason="why")), stan)
    assert plan.stan is stan
    assert plan.reasons == {"odd": "why"}
    # Columns are what 1/2 asks for: 13 saved in 9 of 10 iterations of 100.
    assert plan.predicted_speedup == pytest.approx(1000 / (1000 - 9 * 13))
    assert predict(times(one), Stan(rate=0.5, pattern="rows", period=9)) == pytest.approx(1000 / (1000 - 9 * 15))
    assert predict(times(one), Stan(rate=0.25, period=None)) == pytest.approx(100 / 78)
    assert predict(times(one), Stan(rate=1)) == 1.0


def test_layers_add_up_and_may_lose():
    found = times(layer("a", **GOOD), layer("b", blocks=(-3.0, 1.0)))
    assert predict(found, Stan(rate=0.25, period=None)) == pytest.approx(100 / 80)
    assert predict(found, Stan(rate=0.25, period=None, layers=("b",))) == pytest.approx(100 / 102)
    assert predict(found, Stan(rate=0.25, period=None, plan=(LayerPlan("a", ("blocks",)),))) == pytest.approx(100 / 78)


def test_the_run_s_ends_count():
    stan = Stan(rate=0.25, period=None, pretrain=10, tail=20, iterations=100)
    found = times(layer(**GOOD))
    assert predict(found, stan) == pytest.approx(10_000 / (10_000 - 70 * 22))
    assert predict(found, stan, 50) == pytest.approx(5_000 / (5_000 - 40 * 22))
    assert decide(found, stan).predicted_speedup == predict(found, stan)
    assert decide(found, stan, 50).predicted_speedup == predict(found, stan, 50)
    auto = decide(found, Stan(rate="auto", pretrain=10), 100)
    assert auto.predicted_speedup == predict(found, auto.stan, 100) != predict(found, auto.stan)


CHOOSY = {"rows": (5.0, 10.0, 0.3), "columns": (4.0, 9.0, 0.2), "blocks": (7.0, 15.0, 0.6)}


@pytest.mark.parametrize(("tolerance", "saved"), [(0.7, 22.0), (0.6, 22.0), (0.5, 13.0), (0.25, 13.0), (0.1, 0.0)])
def test_a_tolerance_takes_the_cheapest_that_errs_little_and_pays_for_measuring(tolerance, saved):
    stan = Stan(rate=0.25, tolerance=tolerance, period=9)
    assert predict(times(layer(t_e=3.0, **CHOOSY)), stan) == pytest.approx(1000 / (1003 - 9 * saved))
    half = Stan(rate=0.5, tolerance=0.7, period=9)
    # Two of the three patterns are candidates.
    assert predict(times(layer(t_e=3.0, **CHOOSY)), half) == pytest.approx(1000 / (1002 - 9 * 13))


def test_an_error_that_is_no_number_chooses_nothing():
    assert predict(times(layer(blocks=(7.0, 15.0, float("nan")))), Stan(rate=0.25, tolerance=0.5)) == 1.0


def test_a_history_counts_for_what_it_says():
    found = times(layer("a", **CHOOSY), layer("b", **CHOOSY))
    stan = Stan(rate=0.25, tolerance=0.5, period=9)
    history = [
        Choice(iteration, "a", {}, pattern)
        for iteration, pattern in ((0, BLOCKS), (10, None), (20, ROWS), (30, BLOCKS))
    ]
    of_a = (22 + 0 + 15 + 22) / 4
    assert predict(found, stan, history=history) == pytest.approx(1000 / (1000 - 9 * (of_a + 13)))


def test_one_dimensional_layers_are_planned_in_their_own_patterns():
    line = layer(line=True, columns=(4.0, 9.0), quarter=(7.0, 15.0))
    plan = decide(times(line), Stan(rate="auto"))
    assert planned(plan) == {"conv": ("columns", "quarter")}
    assert predict(times(line), Stan(rate=0.5, period=None)) == pytest.approx(100 / 87)
    assert predict(times(line), Stan(rate=0.25, period=None)) == pytest.approx(100 / 78)
    assert plan.predicted_speedup == pytest.approx(
        speedup(IterationTimes(100.0, 0.0, 7.0, 15.0), plan.stan.schedule, None)
    )
    handle = accelerate_(
        nn.Sequential(nn.Conv1d(2, 3, 3)), replace(plan.stan, plan=(LayerPlan("0", ("columns", "quarter")),))
    )
    assert handle.report[0].patterns == (COLUMNS, PATTERNS["quarter"])


def test_what_is_not_timed_is_not_predicted():
    found = times(layer(**GOOD))
    assert predict(found, Stan(memo=Memo(samples=10, epoch=1))) is None
    assert predict(found, Stan(meprop=MeProp(top_k=3))) is None


def test_an_iteration_shorter_than_its_layers_is_refused():
    with pytest.raises(UsageError, match=r"exact_seconds=10.0 does not fit the times of the layers"):
        decide(times(layer(**GOOD), step=10.0), Stan(rate="auto"))
    with pytest.raises(UsageError, match=r"exact_seconds=10.0 does not fit"):
        predict(times(layer(**GOOD), step=10.0), Stan(rate=0.5))


def test_layers_that_seem_to_take_longer_than_the_iteration_are_fitted_into_it():
    found = fitted(times(layer("a", **GOOD), layer("b", **GOOD), step=20.0))
    assert sum(one.exact for one in found.layers) == pytest.approx(20.0)
    assert [found.layers[0].patterns[0].t_i, found.layers[0].patterns[0].t_j] == pytest.approx([5 / 3, 10 / 3])
    plan = decide(found, Stan(rate="auto"))
    assert planned(plan) == planned(decide(times(layer("a", **GOOD), layer("b", **GOOD)), Stan(rate="auto")))
    assert 1 < plan.predicted_speedup < 20 / (20 - 44 / 3)
    assert fitted(times(layer(**GOOD))) == times(layer(**GOOD))


@pytest.mark.parametrize("example", [torch.randn(0, 3, 8, 8), torch.tensor(1.0)], ids=["no sample", "a number"])
def test_an_example_without_samples_is_refused(example):
    with pytest.raises(UsageError, match="the example holds no sample"):
        plan_for(nn.Conv2d(3, 4, 3), Stan(rate="auto"), example)


def test_a_real_network_is_planned_and_accelerated(one_thread):
    torch.manual_seed(0)
    model = lenet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stan, example = Stan(rate="auto", pretrain=500), torch.randn(20, 1, 28, 28)
    plan = plan_for(model, stan, example, iterations=1000, budget=0.0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model] == [type(module) for module in lenet()]
    assert [timed.name for timed in plan.times.layers] == ["conv1", "conv2"]
    assert plan.stan.rate != "auto"
    assert {line.layer for line in plan.stan.plan} | set(plan.reasons) == {"conv1", "conv2"}
    assert plan.predicted_speedup == predict(plan.times, plan.stan, 1000)
    fixed = plan_for(model, Stan(rate=0.25, pretrain=500), example, iterations=1000, budget=0.0)
    assert fixed.predicted_speedup == predict(fixed.times, fixed.stan, 1000) != predict(fixed.times, fixed.stan)


def test_where_exact_iterations_are_native_their_gain_counts_too():
    found = times(layer(**GOOD))
    native = found._replace(native_seconds=found.step_seconds / 2)
    stan = Stan(rate=1)
    assert predict(native, stan, 1000) == 2.0
    saved = predict(native, Stan(rate=0.5, period=None), 1000)
    assert saved is not None
    # The layer saves the same seconds of an iteration that is half as long.
    per_iteration = found.step_seconds - found.step_seconds / predict(found, Stan(rate=0.5, period=None), 1000)
    assert saved == pytest.approx(found.step_seconds / (found.step_seconds / 2 - per_iteration))


def test_layers_that_would_err_too_much_are_told_apart_from_slow_ones():
    off = layer(exact=10.0, rows=(2.0, 4.0))
    off = off._replace(patterns=tuple(candidate._replace(error=0.8) for candidate in off.patterns))
    plan = decide(times(off, step=20.0), Stan(rate="auto"))
    assert planned(plan) == {}
    assert plan.reasons == {"conv": "its fill would be 0.80 off, and 0.5 is allowed"}


def test_what_hardly_falls_short_is_not_rounded_up():
    found = ModelTimes((layer(exact=8.0, rows=(0.0, 0.0)),), 10.49, 5, native_seconds=10.0)
    plan = decide(found, Stan(rate="auto"))
    assert plan.reasons["conv"] == "a run would be 1.04 times as fast as with stock PyTorch, and 1.05 is asked"
