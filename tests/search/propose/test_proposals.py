"""One seed gives the same settings for any number of workers, order of results and kills; and models learn."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.search.plan.coordinator import ready_jobs
from stantune.search.plan.values import PastTrial, TrialRow, WarmStart
from stantune.search.propose import sampler as module
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampler import (
    MOST_OBSERVED,
    Asked,
    BohbSampler,
    OptunaSampler,
    RandomSampler,
    TpeSampler,
    sampler_of,
)
from stantune.search.propose.sampling import Model, sample
from stantune.search.settings import SearchSettings
from stantune.space import Space

SPACE = Space(
    {
        "lr": Float(1e-4, 1, log=True),
        "width": Integer(1, 64),
        "kind": Categorical(("plain", "deep")),
        "depth": Integer(2, 9),
    },
    when={"depth": {"kind": "deep"}},
)
MODELS = ["tpe", "bohb"]


def told(played: Any) -> list[tuple[Any, ...]]:
    """Return all that a table tells but for costs."""
    return [(row.number, row.bracket, row.params, row.errors, row.diverged_at, row.taken) for row in played.rows]


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(0, 99),
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1]),
)
def test_workers_order_and_kills_change_nothing(
    played: ModuleType, sampler: str, seed: int, lag: int, workers: int, order: int, kill: float
) -> None:
    search = SearchSettings(seed, 16, 2, eta=2, sampler=sampler, lag=lag)
    alone = played.play(SPACE, search)
    assert alone.waited == 0, "what a trial must see is all before it"
    assert told(played.play(SPACE, search, workers=workers, order=order, kill=kill)) == told(alone)


@pytest.mark.parametrize("sampler", MODELS)
def test_the_settings_are_not_the_random_ones_and_depend_on_seed_and_lag(played: ModuleType, sampler: str) -> None:
    def params(seed: int, sampler: str, lag: int = 3) -> list[Mapping[str, Any]]:
        return [row.params for row in played.play(SPACE, SearchSettings(seed, 27, 1, sampler=sampler, lag=lag)).rows]

    mine, randoms = params(0, sampler), params(0, "random")
    equal = [a == b for a, b in zip(mine, randoms, strict=True)]
    assert all(equal[:9])
    assert not all(equal)
    if sampler == "bohb":
        share = sum(equal[20:]) / len(equal[20:])
        assert 0.1 < share < 0.6, "about a third is random"
    else:
        assert not any(equal[20:])
    assert mine != params(1, sampler)
    assert mine != params(0, sampler, 9)
    assert [row == sample(SPACE, 0, number) for number, row in enumerate(randoms)] == [True] * len(randoms)


@pytest.mark.parametrize("sampler", MODELS)
def test_a_model_finds_what_is_good(played: ModuleType, sampler: str) -> None:
    def learn(number: int, params: Mapping[str, Any], stop: int) -> float | None:
        return None if params["lr"] > 0.3 else 90 * abs(math.log10(params["lr"]) + 2) / 2 + 1 / stop

    def typical(sampler: str) -> float:
        rows = played.play(SPACE, SearchSettings(1, 81, 1, sampler=sampler), train=learn).rows[60:]
        distances = sorted(abs(math.log10(row.params["lr"]) + 2) for row in rows)
        return distances[len(distances) // 2]

    assert typical(sampler) < typical("random") / 2


def rows_of(errors: list[dict[int, float] | None], space: Space = SPACE) -> list[TrialRow]:
    """Return a table of the first bracket; None stands for a trial that diverged."""
    return [
        TrialRow(number, 3, sample(space, 5, number), of or {}, 1 if of is None else None)
        for number, of in enumerate(errors)
    ]


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


PINNED = Space({**SPACE, "fixed": Float(1, 1)}, when={"depth": {"kind": "deep"}})


def trained(params: Mapping[str, Any], stop: int) -> float | None:
    """Return an error that depends on every bit of the setting."""
    digest = hashlib.blake2b(repr((stop, sorted(params.items()))).encode(), digest_size=1).digest()[0]
    distance = abs(math.log10(params["lr"]) + 2) * 20 + abs(params.get("depth", 2) - 7) * 3
    return None if digest < 20 else round(distance + digest / 32 - math.log(stop), 4)


def searched(search: SearchSettings, space: Space = PINNED) -> tuple[list[TrialRow], tuple[PastTrial, ...]]:
    """Run a search by one worker; return its table, also as another search's past."""
    plan, proposals = search.plan(), Proposals(space, search)
    rows: list[TrialRow] = []
    results: list[dict[int, float | None]] = []
    while jobs := ready_jobs(plan, rows):
        job = jobs[0] if jobs[0].number < max(len(rows), proposals.begins(rows)) else jobs[1]
        if job.number == len(rows):
            params = proposals.propose(job.number, rows)
            rows.append(TrialRow(job.number, job.bracket, params, started_from=proposals.started_from(job.number)))
            results.append({})
        row = rows[job.number]
        results[job.number][job.stop] = error = trained(row.params, job.stop)
        errors = row.errors if error is None else {**row.errors, job.stop: error}
        diverged_at = job.start + 1 if error is None else None
        rows[job.number] = TrialRow(
            row.number, row.bracket, row.params, errors, diverged_at, started_from=row.started_from
        )
    return rows, tuple(PastTrial(row.number, row.params, of) for row, of in zip(rows, results, strict=True))


def start_of(past: Sequence[PastTrial]) -> WarmStart:
    return WarmStart("earlier", "label", tuple(past), tuple(sorted(past, key=lambda trial: trial.worth))[:3])


def digest(rows: Sequence[TrialRow]) -> str:
    return hashlib.blake2b(json.dumps([row.params for row in rows]).encode(), digest_size=8).hexdigest()


@pytest.mark.skipif(not optuna.__version__.startswith("5.0."), reason="another version may propose other settings")
@pytest.mark.parametrize(
    ("sampler", "mode", "first", "second"),
    [
        ("random", "sync", "7cca3e22fa3bb3e2", "906aaff604092d20"),
        ("random", "async", "ee851468a5d331e2", "b0501b017f8706cb"),
        ("tpe", "sync", "e31ade505ec4184d", "01e229c22ac15060"),
        ("tpe", "async", "6e1194c1980de02d", "be95551e99d07a75"),
        ("bohb", "sync", "4043678fb13aa7be", "1b0c75e907ab9378"),
        ("bohb", "async", "d44b72dc96b7ccba", "fea47bd1b25cff92"),
    ],
)
def test_proposals_are_those_of_before_there_were_other_samplers(
    sampler: str, mode: str, first: str, second: str
) -> None:
    # As commit 7ad8347 proposed them: a search, and one with another seed that starts from it. Where trials are ranked,
    # by tpe and for the best of an earlier search, it is by what is there at the most iterations, which came later.
    trials = 60 if mode == "async" else None
    rows, past = searched(SearchSettings(0, 27, 1, sampler=sampler, mode=mode, lag=3, trials=trials))
    assert digest(rows) == first
    search = SearchSettings(1, 27, 1, sampler=sampler, mode=mode, lag=3, trials=trials, start=start_of(past))
    assert digest(searched(search)[0]) == second


class Told:
    """A sampler of a user's, which keeps what it was asked."""

    name = "told"
    identity: Mapping[str, Any] = {"a": 1}

    def __init__(self, waits: bool = True, **changes: Any) -> None:
        self.waits = waits
        self.asked: list[Asked] = []
        self.changes = changes

    def propose(self, asked: Asked) -> Mapping[str, Any]:
        self.asked.append(asked)
        return {**sample(asked.space, asked.seed + 5, asked.number), **self.changes}


def test_a_sampler_of_a_user_is_asked_with_what_is_on_paper() -> None:
    # 9 trials of 1 iteration, 3 of 3, 1 of 9; then 5 of 3 and 1 of 9; then 3 of 9. One worker.
    told = Told()
    rows, _ = searched(SearchSettings(4, 9, 1, sampler=told, lag=1))
    assert [asked.number for asked in told.asked] == list(range(17))
    assert {asked.seed for asked in told.asked} == {4}
    assert all(asked.space is PINNED and asked.resources == (1, 3, 9) and not asked.start for asked in told.asked)
    assert [len(asked.history) for asked in told.asked[:9]] == list(range(9))
    assert rows[9].params == sample(PINNED, 9, 9)
    ninth = told.asked[9]
    for number, params, resource, loss in ninth.history:
        assert params == rows[number].params
        assert loss == trained(params, resource)
    assert [seen.resource for seen in ninth.history] == [1] * 9 + [3] * 3 + [9]
    promoted = {resource: {seen.number for seen in ninth.history if seen.resource == resource} for resource in (3, 9)}
    assert ninth.overtaken == {
        1: (),
        3: tuple(sorted(set(range(9)) - promoted[3])),
        9: tuple(sorted(set(range(9)) - promoted[9])),
    }


def test_a_sampler_that_does_not_wait_is_shown_nothing() -> None:
    told = Told(waits=False)
    proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler=told))
    assert proposals.begins([]) == 49
    assert proposals.propose(48, []) == sample(SPACE, 5, 48)
    assert told.asked[0].history == ()


def test_the_history_of_ours_is_renewed_and_kept() -> None:
    asked: list[Asked] = []

    class Watched(TpeSampler):
        def propose(self, of: Asked) -> Mapping[str, Any]:
            asked.append(of)
            return sample(of.space, of.seed, of.number)

    rows = rows_of([{1: float(n)} for n in range(81)])
    Watched.name = "watched"
    proposals = Proposals(SPACE, SearchSettings(0, 81, 1, sampler=Watched(), lag=1))
    for number in range(81):
        proposals.propose(number, rows)
    assert [len(of.history) for of in asked[30:40]] == [30, 31, 32, 32, 34, 34, 36, 36, 38, 38]
    assert asked[33].history is asked[32].history, "so that a model may be kept with it"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 7}, "lr is 7, outside its range from 0.0001 to 1; the nearest valid value is 1$"),
        ({"lrr": 7}, "there is no parameter 'lrr': .*; the nearest is lr$"),
        ({"kind": "deeep"}, "kind is 'deeep', but it is one of plain, deep; the nearest is deep$"),
        ({"kind": "deep", "depth": 99}, "depth is 99, outside .* the nearest valid value is 9$"),
        ({"kind": "plain", "depth": 3}, "depth exists only where kind is deep"),
    ],
)
def test_what_is_proposed_badly_is_told_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler=Told(**changes)))
    with pytest.raises(UsageError, match=f"^what the sampler 'told' proposed for trial 0 is no setting: .*{words}"):
        proposals.propose(0, [])


def test_what_is_no_setting_at_all_is_told_in_a_sentence() -> None:
    class Bad(Told):
        def propose(self, asked: Asked) -> Any:
            return self.changes.get("answer")

    for answer, words in (
        (None, "it is a NoneType and no dict of parameters"),
        ([1], "it is a list and no dict"),
        ({}, "the setting lacks lr, width, kind: give a value"),
    ):
        proposals = Proposals(SPACE, SearchSettings(0, 27, 1, sampler=Bad(answer=answer)))
        with pytest.raises(UsageError, match=words):
            proposals.propose(0, [])


def test_numbers_of_numpy_are_taken_from_a_sampler() -> None:
    told = Told(lr=np.float32(0.5), width=np.int64(3))
    setting = Proposals(SPACE, SearchSettings(0, 27, 1, sampler=told)).propose(0, [])
    assert (setting["lr"], setting["width"], type(setting["lr"]), type(setting["width"])) == (0.5, 3, float, int)


def test_samplers_by_name_and_as_they_are() -> None:
    assert [type(sampler_of(name)) for name in ("random", "tpe", "bohb")] == [RandomSampler, TpeSampler, BohbSampler]
    assert [(sampler_of(name).name, sampler_of(name).identity) for name in ("random", "tpe", "bohb")] == [
        ("random", {}),
        ("tpe", {}),
        ("bohb", {}),
    ]
    for sampler in (Told(), TpeSampler(), OptunaSampler(lambda seed: optuna.samplers.TPESampler(seed=seed))):
        assert sampler_of(sampler) is sampler


class Nameless(Told):
    name = ""


class Undecided(Told):
    def __init__(self) -> None:
        super().__init__(waits=1)  # type: ignore[arg-type]


class Secretive(Told):
    identity: Mapping[str, Any] = {"a": object()}


class Unknowable(Told):
    identity: Mapping[str, Any] = {"a": math.nan}


class Impostor(Told):
    name = "tpe"


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("tpee", "`sampler`='tpee' is unknown; give random or tpe or bohb, or .*; the nearest is tpe$"),
        ("", "`sampler`='' is unknown"),
        (None, "`sampler` is a NoneType, which has no method"),
        (TpeSampler, r"`sampler` is the class TpeSampler; give an object, TpeSampler\(\)"),
        (
            optuna.samplers.TPESampler(),
            r"Optuna's TPESampler, .* give OptunaSampler\(lambda seed: TPESampler\(seed=seed\)\)",
        ),
        (object(), r"is a object, which has no method `propose\(asked\)`"),
        (Nameless(), "is a Nameless, which has no `name`"),
        (Undecided(), "is a Undecided, which has no `waits`, true or false"),
        (Secretive(), "is a Secretive, which has no `identity`, a dict of plain values"),
        (Unknowable(), "is a Unknowable, which has no `identity`, a dict of plain values"),
        (Impostor(), "the sampler Impostor is named 'tpe', as one of ours is; give it another name"),
    ],
)
def test_what_is_no_sampler(sampler: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        sampler_of(sampler)
    assert "\n" not in str(error.value)


FIRST = {"lr": 0.5, "width": np.int64(3), "kind": "plain"}
SECOND = {"kind": "deep", "depth": 4, "lr": 1e-4, "width": 64}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_is_enqueued_is_tried_first_then_an_earlier_search_s_best(sampler: str) -> None:
    _, past = searched(SearchSettings(0, 27, 1, lag=3), SPACE)
    start = start_of(past)
    search = SearchSettings(1, 27, 1, sampler=sampler, lag=3, start=start, enqueue=(FIRST, SECOND))
    rows, _ = searched(search, SPACE)
    assert [row.params for row in rows[:5]] == [FIRST, SECOND, *(trial.params for trial in start.best)]
    assert type(rows[0].params["width"]) is int
    assert list(rows[1].params) == ["lr", "width", "kind", "depth"]
    assert [row.started_from for row in rows[:6]] == [None, None, *(trial.number for trial in start.best), None]
    if sampler == "random":
        assert rows[5].params == sample(SPACE, 1, 5)


@pytest.mark.parametrize(
    ("enqueue", "fixed", "words"),
    [
        ([FIRST, {**FIRST, "lr": 7}], {}, "^setting 1 of `enqueue`: lr is 7, .* the nearest valid value is 1$"),
        ([{**FIRST, "lrr": 7}], {}, "^setting 0 of `enqueue`: there is no parameter 'lrr': .* the nearest is lr$"),
        ([{"lr": 0.1}], {}, "^setting 0 of `enqueue`: the setting lacks width, kind: give"),
        ([{**FIRST, "depth": 3}], {}, "^setting 0 of `enqueue`: depth exists only where kind is deep"),
        ([3], {}, "^setting 0 of `enqueue`: it is 3; give a dict"),
        ([FIRST] * 50, {}, "^`enqueue` has 50 settings, but the search tries 49; leave some out$"),
        ([FIRST], {"lr": 0.1}, "^setting 0 of `enqueue`: lr is 0.5, but it is fixed; give 0.1, or leave it out$"),
        ([], {"lr": 7}, "^`fixed`: lr is 7, outside its range .* the nearest valid value is 1$"),
        ([], {"width": 6.6}, "^`fixed`: width is 6.6, but it is a whole number .* the nearest valid value is 7$"),
        ([], {"widht": 6}, "^`fixed`: there is no parameter 'widht': .* the nearest is width$"),
        (
            [],
            {"kind": "plain", "depth": 6},
            "^`fixed`: depth is fixed, but exists only where kind is deep, .* leave depth out$",
        ),
    ],
)
def test_what_is_given_badly(enqueue: Any, fixed: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Proposals(SPACE, SearchSettings(0, 27, 1, enqueue=tuple(enqueue), fixed=fixed))


@pytest.mark.parametrize("sampler", ["random", *MODELS, "own"])
@pytest.mark.parametrize(
    ("fixed", "enqueued"),
    [
        ({"lr": np.float64(0.01)}, {"width": 7, "kind": "plain"}),
        ({"kind": "deep"}, {"lr": 0.5, "width": 3, "depth": 2}),
        ({"kind": "plain"}, {"lr": 0.5, "width": 3, "kind": "plain"}),
        ({"depth": 5, "width": 7}, {"lr": 0.5, "kind": "plain"}),
        ({"depth": 5, "width": 7}, {"lr": 0.5, "kind": "deep", "depth": 5}),
    ],
)
def test_what_is_fixed_is_in_every_setting_where_it_exists(
    sampler: str, fixed: dict[str, Any], enqueued: dict[str, Any]
) -> None:
    _, past = searched(SearchSettings(0, 27, 1, lag=3), SPACE)
    told = Told()
    proposing = told if sampler == "own" else sampler
    search = SearchSettings(1, 27, 1, sampler=proposing, lag=3, fixed=fixed, start=start_of(past), enqueue=(enqueued,))
    rows, _ = searched(search, SPACE)
    for row in rows:
        assert SPACE.check(row.params, complete=True) == row.params
        assert list(row.params) == SPACE.active(row.params)
        assert all(row.params[name] == value for name, value in fixed.items() if name in row.params)
        assert all(name in row.params for name in fixed if name != "depth")
    assert len({row.params["width"] for row in rows}) > 5 or "width" in fixed
    for asked in told.asked:
        assert list(asked.space) == [
            name for name in SPACE if name not in fixed and (name, fixed.get("kind")) != ("depth", "plain")
        ]
        assert all(asked.space.check(seen.params, complete=True) == seen.params for seen in asked.history)
        assert all(asked.space.check(trial.params, complete=True) == trial.params for trial in asked.start)
        # As many as have the fixed values.
        assert len(asked.start) == sum(
            all(trial.params.get(name, value) == value for name, value in fixed.items()) for trial in past
        )


def test_all_may_be_fixed() -> None:
    fixed = {"lr": 0.1, "width": 3, "kind": "plain"}
    for sampler in ("random", *MODELS):
        rows, _ = searched(SearchSettings(1, 9, 1, sampler=sampler, fixed=fixed), SPACE)
        assert all(row.params == fixed for row in rows)


def test_a_tuple_comes_back_from_an_earlier_search_as_a_tuple() -> None:
    past = PastTrial(3, {"kernel": (3, 3), "x": "y"}, {1: 2.0})
    start = WarmStart("earlier", "label", (past,), (past,))
    head, trials = json.loads(json.dumps(start.plain()))
    # Iterations are texts in JSON's dicts only; here they are in lists.
    assert WarmStart.from_plain(head, trials) == start
