"""A rate that changes in the course of a run: what Stan takes, and what the handle and its layers do then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stantune import Stan, accelerate_
from stantune.errors import NoEffectWarning, UsageError
from stantune.stan.config import LayerPlan, Memo, RateFrom
from stantune.stan.entries.entries import PATTERNS
from stantune.stan.handle import StanHandle
from stantune.stan.planning.plan import predict
from stantune.stan.planning.timing import ModelTimes

RATES = ((0, 0.25), (4, 0.5), (8, 1), (10, 0.25))

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 10))


def images() -> Tensor:
    return nn.functional.avg_pool2d(torch.randn(6, 3, 14, 14), 7, 1)


def grids(handle: StanHandle, model: nn.Sequential) -> tuple[object, object]:
    return model[0].grid, model[2].grid


def test_pairs_become_the_rates_of_stretches():
    stan = Stan(rate=[(0, 0.25), (9, 1)])
    assert stan.rate == stan.rates == (RateFrom(0, 0.25), RateFrom(9, 1.0))
    assert stan == Stan(rate=((0, 0.25), (9, 1.0)))
    assert hash(stan) == hash(Stan(rate=((0, 0.25), (9, 1.0))))
    assert [stan.rate_at(iteration) for iteration in (0, 8, 9, 1000)] == [0.25, 0.25, 1.0, 1.0]
    assert (stan.least_rate, Stan(rate=0.5).least_rate, Stan(rate="auto").least_rate) == (0.25, 0.5, "auto")
    assert Stan(rate=1).rates == ()
    assert Stan(rate=0.5).rate_at(7) == 0.5


def test_annealed_is_a_course_of_thirds_of_the_run():
    stan = Stan(rate="annealed", iterations=10)
    assert stan.rates == (RateFrom(0, 0.25), RateFrom(4, 0.5), RateFrom(7, 1.0))
    assert [stan.rate_at(iteration) for iteration in (0, 3, 4, 6, 7, 1000)] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    assert Stan(rate="annealed", iterations=1).rates == (RateFrom(0, 0.25), RateFrom(1, 1.0))
    assert Stan(rate="annealed", iterations=0).rates == (RateFrom(0, 1.0),)
    assert (stan.least_rate, stan.chooses) == (0.25, False)
    assert stan.identity["rates"] == [[0, 0.25], [4, 0.5], [7, 1.0]]
    same = Stan(rate=stan.rates, iterations=10)
    assert (same.rates, same.identity) == (stan.rates, stan.identity)
    model = network()
    handle, seen = accelerate_(model, stan), []
    for _ in range(10):
        seen.append(tuple(grid and grid.pattern for grid in grids(handle, model)))
        handle.step()
    quarter, half = PATTERNS["blocks"], PATTERNS["columns"]
    assert seen == [(quarter,) * 2 if i in (1, 3) else (half,) * 2 if i == 5 else (None,) * 2 for i in range(10)]


def test_annealed_needs_the_length_of_the_run():
    with pytest.raises(UsageError, match=r'rate="annealed" is of a run of known length; give Stan its iterations='):
        accelerate_(network(), Stan(rate="annealed"))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"rate": ()}, r"rate=\(\) does not begin at iteration 0 and ascend; give pairs"),
        ({"rate": ((1, 0.5), (5, 1))}, r"rate=\(\(1, 0.5\), \(5, 1\)\) does not begin at iteration 0"),
        ({"rate": ((0, 0.5), (5, 1), (5, 0.25))}, "does not begin at iteration 0 and ascend"),
        ({"rate": ((0, 0.5), (9, 1), (5, 0.25))}, "does not begin at iteration 0 and ascend"),
        ({"rate": (0.25, 0.5)}, r"rate=\(0.25, 0.5\) is no course of a rate; give pairs of an iteration and a rate"),
        ({"rate": ((0, "auto"), (5, 1))}, r"rate=\(\(0, 'auto'\), \(5, 1\)\) is no course of a rate; give pairs"),
        ({"rate": ((0, 0.5), (2.5, 1))}, r"rate=\(\(0, 0.5\), \(2.5, 1\)\) is no course of a rate; give pairs"),
        ({"rate": ((0, 0.5), (5, True))}, r"is no course of a rate; give pairs"),
        ({"rate": True}, r"`rate`=True is no number; give a share of the entries, such as 0.5"),
        ({"rate": ((0, 0.5), (5, 0.3))}, r"rate=0.3 has no grid pattern; the nearest that has one is 0.25"),
        ({"rate": ((0, 0.5), (5, 2))}, r"rate=2.0 is not in \(0, 1\]"),
        ({"rate": ((0, 0.5), (5, 0.25)), "pattern": "rows"}, "pattern 'rows' computes 0.5 of the entries, not"),
        ({"rate": ((0, 0.5), (5, 1)), "memo": Memo(9, 3)}, "changes in the course.*; leave out memo, or give one rate"),
        ({"rate": "annealed", "memo": Memo(9, 3)}, 'rate="annealed" changes in the course.*; leave out memo'),
        ({"rate": "annealed", "pattern": "rows"}, "pattern='rows' is fixed, and rate=\"annealed\" chooses"),
        ({"rate": ((0, 0.5), (5, 1)), "plan": (LayerPlan("0", ("rows",)),)}, "leave out plan, or give one rate"),
    ],
)
def test_rates_that_make_no_sense_are_named(setting, sentence):
    with pytest.raises(UsageError, match=sentence):
        Stan(**setting)


def test_layers_draw_from_the_rate_that_holds():
    model = network()
    handle = accelerate_(model, Stan(rate=RATES, period=None, seed=5))
    assert [line.patterns for line in handle.report] == [(PATTERNS["blocks"], PATTERNS["columns"])] * 2
    seen = []
    for iteration in range(12):
        rate = Stan(rate=RATES).rate_at(iteration)
        alone = network()
        other = accelerate_(alone, Stan(rate=0.25 if rate == 1 else rate, period=None, seed=5))
        other.seek(iteration)
        if rate == 1:
            assert grids(handle, model) == (None, None)
        else:
            assert grids(handle, model) == grids(other, alone)
        assert handle.rate == rate
        seen.append(handle.phase)
        handle.step()
    assert seen == ["reduced"] * 8 + ["exact"] * 2 + ["reduced"] * 2
    assert handle.kept == pytest.approx((6 * 0.25 + 4 * 0.5) / 10)


def test_any_iteration_is_reached_at_once():
    stan = Stan(rate=RATES, period=2)
    walked, jumped = network(), network()
    walking, jumping = accelerate_(walked, stan), accelerate_(jumped, stan)
    for iteration in range(14):
        jumping.seek(iteration)
        assert grids(jumping, jumped) == grids(walking, walked)
        assert jumping.phase is walking.phase
        jumping.seek(13 - iteration)
        walking.step()


def test_what_was_chosen_under_another_rate_is_forgotten():
    model = network()
    stan = Stan(rate=((0, 0.25), (6, 0.5), (9, 1.0), (12, 0.5)), tolerance=10.0, period=3)
    handle = accelerate_(model, stan)
    data, chosen = images(), []
    for _ in range(14):
        model(data)
        chosen.append([grid and grid.pattern.rate for grid in grids(handle, model)])
        state = handle.state_dict()
        fresh = network()
        again = accelerate_(fresh, stan)
        again.load_state_dict(state)
        assert grids(again, fresh) == grids(handle, model)
        assert again.state_dict() == state
        handle.step()
    # Refreshes are at 0, 4, 8 and 12. At 6 the rate changes, and all is computed until the next one.
    every, quarter, half = [None, None], [0.25, 0.25], [0.5, 0.5]
    assert chosen == [every, *[quarter] * 3, every, quarter, *[every] * 3, *[every] * 3, every, half]
    assert [choice.iteration for choice in handle.history] == [0, 0, 4, 4, 8, 8, 12, 12]


def test_under_a_rate_of_one_nothing_is_chosen_in_a_state():
    stan = Stan(rate=((0, 0.5), (3, 1.0)), tolerance=0.5)
    handle = accelerate_(network(), stan)
    handle.seek(3)
    assert handle.state_dict() == {"iteration": 3, "chosen": [], "kept": [0.0, 0]}
    other = accelerate_(network(), stan)
    other.load_state_dict({"iteration": 4, "chosen": []})
    assert other.phase == "exact"
    with pytest.raises(UsageError, match="of 1 layers, and the model has 2"):
        other.load_state_dict({"iteration": 2, "chosen": [None]})


def test_rates_of_one_alone_change_nothing():
    model = nn.Sequential(nn.Conv1d(3, 4, 3))
    with pytest.warns(NoEffectWarning, match="rate=1 computes every entry"):
        accelerate_(model, Stan(rate=((0, 1.0), (5, 1.0))))
    assert type(model[0]) is nn.Conv1d


def test_no_speedup_is_predicted():
    assert predict(ModelTimes((), 1.0, 1), Stan(rate=RATES)) is None


def test_an_identity_names_the_least_rate_and_all():
    identity = Stan(rate=((0, 0.5), (3, 0.25))).identity
    assert (identity["rate"], identity["rates"]) == (0.25, [[0, 0.5], [3, 0.25]])
    assert "rates" not in Stan().identity


def test_a_plan_is_kept_in_plain_values_and_taken_again():
    asked = Stan(rate="auto", tolerance=0.3, seed=4)
    decided = Stan(rate=0.25, tolerance=0.3, seed=4, period=9, plan=(LayerPlan("0", ("rows", "blocks")),))
    assert decided.planned == {"rate": 0.25, "period": 9, "plan": {"0": ["rows", "blocks"]}}
    assert asked.with_plan(decided.planned) == decided
    # As the callbacks' checkpoints once had it.
    assert (
        asked.with_plan({"rate": 0.25, "period": 9, "tolerance": 0.3, "plan": [["0", ["rows", "blocks"]]]}) == decided
    )
    assert Stan(rate="auto").with_plan({"rate": 1.0, "period": 1, "plan": {}}).tolerance == 0.5
    assert asked.planned is None
