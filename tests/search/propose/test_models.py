"""What models learn from: which results of which trials TPE and BOHB observe, and that they find what is good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from proposing import MODELS, SPACE, rows_of

from stantune.parameters import Categorical, Float
from stantune.search.plan.values import TrialRow
from stantune.search.propose import sampler as module
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampler import MOST_OBSERVED, Asked, Seen, TpeSampler
from stantune.search.propose.sampling import Model, sample
from stantune.search.settings import SearchSettings
from stantune.space import Space


@pytest.mark.parametrize("sampler", MODELS)
def test_a_model_finds_what_is_good(played: ModuleType, sampler: str) -> None:
    def learn(number: int, params: Mapping[str, Any], stop: int) -> float | None:
        return None if params["lr"] > 0.3 else 90 * abs(math.log10(params["lr"]) + 2) / 2 + 1 / stop

    def typical(sampler: str) -> float:
        rows = played.play(SPACE, SearchSettings(1, 81, 1, sampler=sampler), train=learn).rows[60:]
        distances = sorted(abs(math.log10(row.params["lr"]) + 2) for row in rows)
        return distances[len(distances) // 2]

    assert typical(sampler) < typical("random") / 2


class Spy:
    """Stands for Model: keeps what it is made of."""

    made: list[list[tuple[Any, float]]]

    def __init__(self, space: Space, observed: list[tuple[Any, float]]) -> None:
        self._space = space
        Spy.made.append([(params, error) for params, error in observed])

    def sample(self, seed: int, number: int) -> dict[str, Any]:
        return sample(self._space, seed, number)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> type[Spy]:
    Spy.made = []
    monkeypatch.setattr(module, "Model", Spy)
    return Spy


def first_that_is_modelled(proposals: Proposals, rows: list[TrialRow], spied: type[Spy], until: int) -> int:
    """Propose all trials up to `until`; return the first that a model proposed."""
    return next(number for number in range(until) if proposals.propose(number, rows) and spied.made)


def test_tpe_observes_each_trial_by_its_error_at_the_most_training(spied: type[Spy]) -> None:
    # 27 trials of 1, 9 of 3, 3 of 9, 1 of 27; then 12 of 3.
    errors: list[dict[int, float] | None] = [None if n % 3 == 2 else {1: 50.0 + n} for n in range(27)]
    for n, at_three in zip((0, 1, 3, 4, 6, 7, 9, 10, 12), (60, 40, 41, 42, 43, 44, 45, 46, 47), strict=True):
        errors[n] = {1: 50.0 + n, 3: float(at_three)}
    for n in (1, 3, 4):
        errors[n] = {**(errors[n] or {}), 9: 70.0}
    errors[1] = {**(errors[1] or {}), 27: 10.0}
    rows = rows_of(errors)
    proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler="tpe", lag=1))
    assert first_that_is_modelled(proposals, rows, spied, 27) == 10
    proposals.propose(27, rows)
    seen = {tuple(params.items()): error for params, error in spied.made[-1]}
    assert len(seen) == len(spied.made[-1]) == 27
    at = [seen[tuple(row.params.items())] for row in rows]
    assert (at[0], at[1], at[3], at[2], at[13]) == (60.0, 10.0, 70.0, math.inf, 63.0)
    # The newest results come last: those of the last rung and of the one before it.
    assert [error for _, error in spied.made[-1]][-3:] == [at[3], at[4], at[1]]


def test_bohb_observes_the_largest_resource_that_has_enough(spied: type[Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANDOM_SHARE", 0.0)
    # Four parameters: a model needs seven errors. Of the nine trials of the second rung one diverges there.
    errors: list[dict[int, float] | None] = [{1: 50.0 + n} for n in range(27)]
    for n in range(9):
        errors[n] = {1: 50.0 + n, 3: 40.0 + n}
    for n in range(3):
        errors[n] = {**(errors[n] or {}), 9: 30.0 + n}
    errors[0] = {**(errors[0] or {}), 27: 20.0}
    errors[8], errors[20] = {1: 58.0}, None
    rows = rows_of(errors)
    rows[8] = TrialRow(8, 3, rows[8].params, {1: 58.0}, diverged_at=2)
    proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler="bohb", lag=1))
    assert first_that_is_modelled(proposals, rows, spied, 27) == 7
    proposals.propose(26, rows)
    assert [error for _, error in spied.made[-1]] == [50.0 + n if n != 20 else math.inf for n in range(26)]
    proposals.propose(27, rows)
    # The 18 that were not promoted to it come first, as the worst.
    assert spied.made[-1][:18] == [(rows[n].params, math.inf) for n in range(9, 27)]
    assert spied.made[-1][18:] == [(rows[n].params, 40.0 + n if n < 8 else math.inf) for n in range(9)]
    # Seven of them are enough, six are not: then it is the rung before, with the one that diverged among its 27.
    rows[7] = TrialRow(7, 3, rows[7].params, {1: 57.0}, diverged_at=2)
    rows[6] = TrialRow(6, 3, rows[6].params, {1: 56.0}, diverged_at=2)
    Proposals(SPACE, SearchSettings(0, 27, 1, sampler="bohb", lag=1)).propose(27, rows)
    assert [error for _, error in spied.made[-1]] == [50.0 + n if n != 20 else math.inf for n in range(27)]


def test_a_model_sees_the_best_and_the_newest_and_is_made_seldom(spied: type[Spy]) -> None:
    search = SearchSettings(0, 729, 1, sampler="tpe", lag=2)
    proposals = Proposals(SPACE, search)
    total = search.plan()[0].rungs[0].trials
    rows = rows_of([{1: float(n)} for n in range(total)])
    for number in range(total):
        proposals.propose(number, rows)
    assert len(spied.made) < 250
    assert max(map(len, spied.made)) == MOST_OBSERVED
    last = [error for _, error in spied.made[-1]]
    assert last[:25] == [float(n) for n in range(25)]
    newest = len(last) - 25
    assert last[25:] == [float(n) for n in range(int(last[-1]) - newest + 1, int(last[-1]) + 1)]
    assert int(last[-1]) >= (total - 3) * 63 / 64
    # A proposal does not depend on those that were asked for before.
    before = spied.made[:]
    Proposals(SPACE, search).propose(total - 1, rows)
    assert spied.made[-1] == before[-1]


def test_a_model_draws_what_exists_and_learns_about_it() -> None:
    def error(params: Mapping[str, Any]) -> float:
        return abs(params["depth"] - 7) if params["kind"] == "deep" else 50.0

    observed = [(params, error(params)) for params in (sample(SPACE, 3, number) for number in range(200))]
    model = Model(SPACE, observed)
    drawn = [model.sample(0, number) for number in range(60)]
    assert all(SPACE.check(params, complete=True) == params for params in drawn)
    assert [list(params) for params in drawn] == [SPACE.active(params) for params in drawn]
    deep = [params["depth"] for params in drawn if params["kind"] == "deep"]
    assert len(deep) > 45
    assert sum(abs(depth - 7) <= 1 for depth in deep) > 0.7 * len(deep)
    assert drawn == [Model(SPACE, observed).sample(0, number) for number in range(60)]


def test_a_parameter_that_no_observation_has_is_drawn_at_random() -> None:
    observed = [({"lr": 0.01, "width": 9, "kind": "deep"}, 0.0)]
    drawn = [Model(SPACE, observed).sample(0, number) for number in range(100)]
    assert {params["depth"] for params in drawn if params["kind"] == "deep"} == set(range(2, 10))


@pytest.mark.parametrize("parameters", [{"a": Float(1, 1)}, {"a": Categorical(("x",))}, {}])
def test_spaces_with_nothing_to_choose(parameters: dict[str, Any]) -> None:
    space = Space(parameters)
    expected = {"a": space["a"].low if isinstance(space["a"], Float) else "x"} if parameters else {}
    assert Model(space, [(expected, 1.0)]).sample(0, 0) == expected


def test_most_observations_are_infinite() -> None:
    observed = [(sample(SPACE, 0, n), math.inf if n % 4 else float(n)) for n in range(40)]
    assert SPACE.check(Model(SPACE, observed).sample(0, 0), complete=True)


@pytest.mark.parametrize("finite", [1, 6, 30])
def test_of_those_that_a_model_takes_for_good_all_have_errors(finite: int) -> None:
    lost = [module._Observed({"n": number}, math.inf) for number in range(400)]
    errors = [module._Observed({"n": number}, float(number)) for number in range(finite)]
    sound = module._fewer(module._sound([*lost, *errors]))
    # Optuna's best tenth.
    assert min(-(-len(sound) // 10), 25) <= finite
    assert [each for each in sound if math.isfinite(each.error)] == errors
    # The newest of the others.
    assert [each.params["n"] for each in sound if each.error == math.inf][-1] == 399
    assert module._sound([*lost[: 9 * finite], *errors]) == [*lost[: 9 * finite], *errors]


@pytest.mark.parametrize("sampler", MODELS)
def test_of_nothing_but_lost_trials_no_model_is_made(sampler: str, spied: type[Spy]) -> None:
    rows = rows_of([None] * 27)
    proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler=sampler, lag=1))
    for number in range(27):
        proposals.propose(number, rows)
    assert not spied.made


def test_searches_of_several_threads_may_have_one_sampler() -> None:
    def asked(of: str) -> Asked:
        history = [Seen(number, {of: number / 20}, 1, float(number)) for number in range(20)]
        return Asked(Space({of: Float(0, 1)}), 0, 20, tuple(history), (1,))

    class Shared(TpeSampler):
        """Each time but the first that it looks what it has made, another thread has made another model."""

        looks = 0

        @property
        def _made(self) -> Any:
            self.looks += 1
            return self.own if self.looks == 1 else others._made

        @_made.setter
        def _made(self, made: Any) -> None:
            self.own = made

    others = TpeSampler()
    others.propose(asked("y"))
    assert Shared().propose(asked("x")) == TpeSampler().propose(asked("x"))
