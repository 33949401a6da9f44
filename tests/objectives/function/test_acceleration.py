"""STAN in a function's model: at the rung's rate, exact in the end, and the same bits however it is cut."""

from __future__ import annotations

import warnings

import pytest
import torch
from accelerated_network import network
from torch import nn

from stantune.errors import CheckpointError, StanWarning, UsageError
from stantune.objectives.function.acceleration import Acceleration
from stantune.objectives.function.objective import FunctionObjective
from stantune.outcome import Outcome
from stantune.parameters import Float
from stantune.protocols import Metric, Place, Segment
from stantune.space import Space
from stantune.stan.config import Memo, Stan

pytestmark = pytest.mark.usefixtures("one_thread")
RATES = ((0, 0.25), (2, 0.5), (4, 1.0))
BATCHES = 3
seen: list[tuple[int, int, float, str]] = []


def train(run):
    """Note what STAN does at each optimizer step."""
    images, labels = torch.randn(12, 1, 12, 12), torch.randint(0, 3, (12,))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    run.keep(model=model, optimizer=optimizer)
    stan = run.accelerate(model)
    for step in run.steps():
        for batch in torch.randperm(12).split(12 // BATCHES):
            if stan is not None:
                seen.append((step, stan.handle.iteration, stan.handle.rate, stan.handle.phase))
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.loss(loss)
    with torch.no_grad():
        return {"loss": nn.functional.cross_entropy(model.eval()(images), labels)}


@pytest.fixture(autouse=True)
def _nothing_seen():
    seen.clear()


def plain(outcome: Outcome):
    return outcome.iterations, dict(outcome.metrics), outcome.diverged_at


def test_nothing_is_accelerated_where_the_search_does_not(trained):
    trained(train)
    assert seen == []


def test_it_moves_with_the_optimizer(trained):
    outcome = trained(train, stan=Stan(rate=0.5))
    assert [iteration for _, iteration, _, _ in seen] == list(range(3 * BATCHES))
    assert [phase for *_, phase in seen[:4]] == ["refresh", "reduced", "refresh", "reduced"]
    assert (outcome.cost.reduced, outcome.cost.exact) == (3, 0)
    assert outcome.cost.reduced_seconds > 0


def test_it_follows_the_searchs_rates(trained):
    outcome = trained(train, 0, 6, stan=Stan(rate=0.5), rates=RATES)
    assert [(step, rate) for step, _, rate, _ in seen[::BATCHES]] == list(enumerate([0.25, 0.25, 0.5, 0.5, 1.0, 1.0]))
    assert [iteration for _, iteration, _, _ in seen] == list(range(6 * BATCHES))
    assert (outcome.cost.reduced, outcome.cost.exact) == (4, 2)


def test_a_final_training_is_exact(trained):
    trained(train, 0, 2, final=True, stan=Stan(rate=0.25))
    assert {rate for _, _, rate, _ in seen} == {1}


@pytest.mark.parametrize(
    "stan", [Stan(rate=0.5), Stan(rate=0.25, tolerance=0.4), Stan(rate=0.25, pretrain=4, period=2)]
)
@pytest.mark.parametrize("cuts", [(1,), (2,), (3,), (4,), (1, 2, 4, 5)])
@pytest.mark.parametrize("rates", [(), RATES])
def test_cut_or_not_it_computes_the_same(trained, stan, cuts, rates):
    whole = trained(train, 0, 6, stan=stan, rates=rates)
    expected = list(seen)
    seen.clear()
    trained.checkpoint.unlink()
    outcome = whole
    for start, stop in zip((0, *cuts), (*cuts, 6), strict=True):
        outcome = trained(train, start, stop, stan=stan, rates=rates)
    assert plain(outcome) == plain(whole)
    assert seen == expected


def test_interrupted_it_computes_the_same(trained):
    whole = trained(train, 0, 6, stan=Stan(), rates=RATES)
    trained.checkpoint.unlink()
    for _ in range(4):
        assert trained(train, 0, 6, stan=Stan(), rates=RATES, stop_early=lambda: True).interrupted
    assert plain(trained(train, 0, 6, stan=Stan(), rates=RATES)) == plain(whole)


def test_the_seed_of_the_grids_is_the_trials(trained):
    def grid(run):
        stan = run.accelerate(network())
        return stan.handle.stan.seed

    assert {trained(grid, seed=seed, stan=Stan()).metrics["loss"] for seed in (1, 2)} == {1.0, 2.0}


def test_a_model_may_have_settings_of_its_own(trained):
    def loop(run):
        stan = run.accelerate(network(), layers=("3",))
        return len([line for line in stan.handle.report if line.patterns])

    assert trained(loop, stan=Stan()).metrics == {"loss": 1.0}
    assert trained(loop, final=True, stan=Stan()).metrics == {"loss": 0.0}


def test_memo_is_told_of_its_samples(trained):
    def loop(run):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        images, labels = torch.randn(8, 1, 12, 12), torch.randint(0, 3, (8,))
        run.keep(model=model, optimizer=optimizer)
        stan = run.accelerate(model, images)
        for _ in run.steps():
            for ids in torch.arange(8).split(4):
                if stan.handle.remembers:
                    stan.visit(ids, images[ids])
                loss = nn.functional.cross_entropy(model(images[ids]), labels[ids])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return loss

    stan = Stan(rate=0.5, memo=Memo(8, 2, dtype="fp32"))
    whole = trained(loop, 0, 4, stan=stan)
    trained.checkpoint.unlink()
    trained(loop, 0, 2, stan=stan)
    assert plain(trained(loop, 2, 4, stan=stan)) == plain(whole)
    trained(loop, 0, 4, stan=stan, final=True)


def test_where_nothing_can_be_accelerated_it_is_said_once(trained):
    def loop(run):
        run.accelerate(nn.Linear(2, 2))
        return 1.0

    with pytest.warns(StanWarning, match="STAN changes nothing in this model"):
        trained(loop, stan=Stan())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(loop, stan=Stan(), final=True)


def test_a_rate_of_auto_is_refused():
    with pytest.raises(UsageError, match=r"each setting of train may have its own; give Stan a number, such as 0.5"):
        FunctionObjective(train, Space({}), Metric("loss"), stan=Stan(rate="auto"))


@pytest.mark.parametrize("rates", [(), RATES])
def test_a_rate_of_auto_is_refused_in_the_function_too(trained, rates):
    def plans(run):
        run.accelerate(network(), torch.randn(2, 1, 12, 12), rate="auto")
        return 1.0

    sentence = (
        r"^`rate`='auto' of run\.accelerate is measured by the clock .*; give run\.accelerate a number, such as 0\.5$"
    )
    with pytest.raises(UsageError, match=sentence):
        trained(plans, stan=Stan(rate=0.5), rates=rates)


def test_what_was_accelerated_goes_on_accelerated(trained):
    def without(run):
        model = network()
        run.keep(model=model)
        list(run.steps())
        return 1.0

    def once(run):
        model = network()
        run.keep(model=model)
        run.accelerate(model)
        list(run.steps())
        return 1.0

    trained(once, 0, 2, stan=Stan())
    with pytest.raises(CheckpointError, match=r"is of an accelerated model, and here run.accelerate was not called"):
        trained(without, 2, 3, stan=Stan())
    trained.checkpoint.unlink()
    trained(without, 0, 2, stan=Stan())
    with pytest.raises(CheckpointError, match="is of 0 accelerated models, and here are more"):
        trained(once, 2, 3, stan=Stan())


def test_nothing_is_accelerated_once_the_steps_have_begun(trained):
    def loop(run):
        for _ in run.steps():
            run.accelerate(network())

    with pytest.raises(UsageError, match="cannot be accelerated once the steps have begun"):
        trained(loop, stan=Stan())


def test_stan_that_no_model_is_given_to_is_said_once(trained):
    def forgets(run):
        return float(sum(run.steps()))

    objective = FunctionObjective(forgets, Space({"x": Float(0, 1)}), Metric("loss"), stan=Stan(rate=0.5))
    trainer = objective.trainer(Place(threads=1))

    def segment(number, **more):
        return Segment(number, {"x": 0.5}, 0, 2, 5, trained.where / f"{number}.pt", **more)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for number in range(3):
            trainer.train(segment(number, bracket=0), lambda: False, lambda done: None)
    (only,) = said
    assert "forgets did not call run.accelerate, so that `stan` changed nothing" in str(only.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.trainer(Place(threads=1)).train(segment(9, finalist=0), lambda: False, lambda done: None)
        trained(forgets)
        trained(train, stan=Stan(rate=0.5))


@pytest.mark.parametrize(("keeps", "steps", "stan", "stands"), [
    (False, False, Stan(rate=0.5), True),
    (False, True, Stan(rate=0.5), False),
    (True, False, Stan(rate=0.5), False),
    (False, False, Stan(rate=1), False),
])  # fmt: skip
def test_stan_that_nothing_moves_is_said_once(trained, keeps, steps, stan, stands):
    def loop(run):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        run.keep(model=model, **{"optimizer": optimizer} if keeps else {})
        acceleration = run.accelerate(model)
        for _ in run.steps():
            optimizer.zero_grad()
            loss = model(torch.ones(2, 1, 12, 12)).square().mean()
            loss.backward()
            optimizer.step()
            if steps:
                acceleration.step()
        return 1.0

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained(loop, 0, 2, stan=stan)
        # Done already: there is nothing to move.
        trained(loop, 2, 2, stan=stan)
    sentence = "STAN stood still in train, as in its first iteration: it moves with the steps of a kept optimizer"
    assert [sentence in str(each.message) for each in said] == [True] * stands


def test_what_other_threads_warn_of_is_left_alone():
    """To catch a warning changes the filters of all threads, for ever where theirs overlaps."""

    class Looks(nn.Flatten):
        def named_modules(self, *arguments, **named):
            assert warnings.filters is filters
            return super().named_modules(*arguments, **named)

    filters, said = warnings.filters, []
    Acceleration(Looks(), Stan(rate=0.5), (), 0, None, said.append)
    Acceleration(Looks(), Stan(rate=1), (), 0, None, said.append)
    assert said == ["STAN changes nothing in this model (it has no convolution); it trains exactly"]


def of_steps(every=1, moves=lambda stan: None, second=False):
    """Return a function with a kept optimizer, or what else moves STAN, that steps in every so many iterations."""

    def loop(run):
        model, other = network(), network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        stan = run.accelerate(model)
        if second:
            run.accelerate(other)
        kept = {} if moves(None) else {"optimizer": optimizer}
        run.keep(model=model, other=other, **kept)
        for step in run.steps():
            model(torch.ones(2, 1, 12, 12)).square().mean().backward()
            if step % every == every - 1:
                optimizer.step()
                optimizer.zero_grad()
            if stan is not None:
                moves(stan)
        return 1.0

    return loop


@pytest.mark.parametrize(
    ("loop", "rates", "stands"),
    [
        (of_steps(every=4), (), False),
        (of_steps(second=True), (), False),
        (of_steps(moves=lambda stan: stan is None or stan.handle.step()), (), False),
        (of_steps(moves=lambda stan: True), (), True),
        # The second rung spares nothing, and is what the segment ends with.
        (of_steps(moves=lambda stan: True), ((0, 0.25), (2, 1.0)), True),
        (of_steps(), ((0, 0.25), (2, 1.0)), False),
    ],
    ids=["accumulated", "one of two", "by the handle", "by nothing", "by nothing, rates", "rates"],
)
def test_what_is_moved_late_or_otherwise_does_not_stand(trained, loop, rates, stands):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained(loop, 0, 2, stan=Stan(rate=0.5), rates=rates)
    assert ["STAN stood still" in str(each.message) for each in said] == [True] * stands
