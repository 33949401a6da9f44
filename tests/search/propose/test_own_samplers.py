"""A sampler of a user's: what it is asked with, and what is no sampler or proposes no setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from proposing import PINNED, SPACE, Told, rows_of, searched, trained

from stantune.errors import UsageError
from stantune.search.propose.proposals import Proposals
from stantune.search.propose.sampler import Asked, BohbSampler, OptunaSampler, RandomSampler, TpeSampler, sampler_of
from stantune.search.propose.sampling import sample
from stantune.search.settings import SearchSettings


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


def test_in_a_measured_bracket_it_is_shown_those_before_it() -> None:
    told = Told()
    rows, past = searched(SearchSettings(4, 27, 1, plan_name="measured", sampler=told, lag=1))
    # The first bracket has 27 trials; the second one is chosen when they have ended.
    assert len(rows) > 29
    there = sum(len(trial.results) for trial in past[:27])
    assert [len(asked.history) for asked in told.asked[27:30]] == [there, there + 1, there + 2]


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
