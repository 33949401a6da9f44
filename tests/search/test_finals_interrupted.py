"""Final trainings that are interrupted or killed, while their number and that of the brackets change: none is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers
from optuna.storages import RDBStorage

from stantune.errors import CheckpointError
from stantune.files import write_whole
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.operating.trial_report import trial_report
from stantune.search.plan.values import FinalResult
from stantune.search.results.summary import summarise
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.table.attributes import FINAL
from stantune.search.table.looking.look import look
from stantune.search.table.looking.recorded import recorded
from stantune.search.table.store import Store
from stantune.search.workers.executors import InProcess

NUMBERS, LENGTH = Numbers(length=9), 9
SETTINGS = SearchSettings(0, LENGTH, 1)
# Trials of one bracket, of two, and of all three.
TRIALS = {1: 9, 2: 14, 3: 17}


class Killed(BaseException):
    """The process ends here."""


def later(number: int) -> float:
    """Return an error by which each bracket that is added has the best trials."""
    return 99.0 - number


@dataclass
class Marked:
    """A checkpoint tells of which setting it is, and no other one goes on from it.

    Attributes:
        error: of a trial, by its number; a final training comes to something else.
        lost: trials whose final trainings diverge.
        begun: final trainings that began anew.
        trained: iterations of final trainings.
    """

    error: Callable[[int], float] = later
    lost: Collection[int] = ()
    begun: int = 0
    trained: int = 0

    def train(self, segment: Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        params, kept = dict(segment.params), [file for file in (segment.checkpoint, segment.best) if file is not None]
        segment.checkpoint.parent.mkdir(exist_ok=True)
        # Weights that were the best and are gone can only be trained again.
        done = min([reached(file, params) for file in kept])
        self.begun += segment.final and not done
        while done < segment.stop:
            done += 1
            self.trained += segment.final
            for file in kept:
                write_whole(file, json.dumps([params, done]).encode())
            watch(done)
            if done < segment.stop and stop_early():
                return Outcome(done, {}, None, True, Cost())
        if not segment.final:
            return Outcome(done, {"error": self.error(segment.trial)}, None, False, Cost())
        error, diverged = {"error": segment.trial % 5 + 0.5}, segment.trial in self.lost
        return Outcome(done, {} if diverged else error, done if diverged else None, False, Cost(), curve={3: error})


def reached(checkpoint: Path, params: Mapping[str, Any]) -> int:
    if not checkpoint.exists():
        return 0
    there, done = json.loads(checkpoint.read_text())
    if there != params:
        raise CheckpointError(f"checkpoint {checkpoint} is another trial's")
    return int(done)


def run(
    path: Path, trainer: Marked, brackets: int, finalists: int = 1, patience: float = inf, until: float = inf
) -> SearchState:
    """Search, until all is done, or so many iterations are, or so many of final trainings."""
    settings = replace(SETTINGS, brackets=brackets, finalists=finalists)
    directory, asked = SearchDirectory(path), 0

    def stop_early() -> bool:
        nonlocal asked
        asked += 1
        return asked > patience or trainer.trained >= until

    with directory.locked():
        return search(NUMBERS, settings, directory, InProcess(trainer), stop_early=stop_early)


def told(finals: Mapping[int, FinalResult]) -> Mapping[int, FinalResult]:
    """What final trainings came to, without what that took."""
    return {rank: replace(final, cost=Cost()) for rank, final in finals.items()}


def check_told(path: Path, state: SearchState) -> None:
    """What a search says, and those say who look at it, is of the trials that it names, and the same."""
    seen = look(path)
    there = recorded(seen).state
    assert told(there.finals) == told(state.finals)
    assert (there.complete, there.winner) == (state.complete, state.winner)
    assert (seen.state == "done") == state.complete
    for final in summarise(NUMBERS, SETTINGS, state).finalists:
        assert final.params == state.rows[final.trial].params
        assert len(trial_report(seen, final.trial).finals) == 1


def finished(path: Path, trainer: Marked, brackets: int, patience: int) -> SearchState:
    """Give a search again and again that ends after so many iterations, until it is complete."""
    for _ in range(99):
        state = run(path, trainer, brackets, patience=patience)
        assert state.final_failure is None
        check_told(path, state)
        if state.complete:
            return state
    pytest.fail("it never ends")


def test_one_of_an_added_bracket_goes_on_where_it_was(tmp_path: Path) -> None:
    assert run(tmp_path, Marked(), 1).finals[0].params != finished(tmp_path, trainer := Marked(), 2, 6).finals[0].params
    assert (trainer.begun, trainer.trained) == (1, LENGTH)


@pytest.mark.parametrize("how", ["gone", "altered"])
def test_one_whose_weights_were_touched_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    whole, weights, trainer = run(tmp_path, Marked(), 1), tmp_path / "final.pt", Marked()
    weights.unlink() if how == "gone" else weights.write_text("mine")
    again = finished(tmp_path, trainer, 1, 6)
    assert (trainer.begun, trainer.trained) == (1, LENGTH)
    assert told(again.finals) == told(whole.finals)
    aside = tmp_path / "final.pt.aside"
    assert not aside.exists() if how == "gone" else aside.read_text() == "mine"


def test_others_see_no_more_finalists_than_were_asked_for_last(tmp_path: Path) -> None:
    assert run(tmp_path, Marked(), 1, finalists=4).winner == 3
    fewer = run(tmp_path, Marked(), 1)
    assert fewer.winner == 0
    check_told(tmp_path, fewer)
    (tmp_path / "last-run.json").unlink()
    assert recorded(look(tmp_path)).state.winner == 3, "nobody knows how many were asked for"


def test_who_stood_in_for_another_wins_no_longer(tmp_path: Path) -> None:
    first = run(tmp_path, Marked(lost={8}), 1)
    assert (first.winner, sorted(first.finals)) == (1, [0, 1])
    longer = run(tmp_path, Marked(lost={8}), 2)
    assert (longer.winner, sorted(longer.finals)) == (0, [0])
    check_told(tmp_path, longer)


def test_a_final_training_of_before_is_no_end(tmp_path: Path) -> None:
    run(tmp_path, Marked(), 1)
    for patience in range(0, 25, 4):
        check_told(tmp_path, stopped := run(tmp_path, Marked(), 2, patience=patience))
        assert not stopped.complete or stopped.finals[0].params == stopped.rows[13].params


@pytest.mark.parametrize(("lost", "asked", "then"), [((8, 13), 1, 1), ((), 3, 1), ((), 2, 2)])
def test_what_was_begun_for_another_is_not_gone_on_with(
    tmp_path: Path, lost: tuple[int, ...], asked: int, then: int
) -> None:
    last = max(asked, 2)
    assert not run(tmp_path, Marked(lost=lost), 1, asked, until=(last - 1) * LENGTH + 4).complete
    assert (tmp_path / f"final-{last}.pt").exists()
    for finalists in (then, 3):
        found = run(tmp_path, Marked(lost=lost), 2, finalists)
        assert (found.complete, found.final_failure) == (True, None)


def test_killed_before_the_search_is_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run(tmp_path, Marked(), 1, until=4).complete
    assert (tmp_path / "final.pt").exists()

    def adopt(self: Store) -> None:
        whole(self)
        raise Killed

    whole = Store.adopt
    with monkeypatch.context() as patch:
        patch.setattr(Store, "adopt", adopt)
        with pytest.raises(Killed):
            run(tmp_path, Marked(), 2)
    assert run(tmp_path, Marked(), 2).final_failure is None


def mixed(number: int) -> float:
    """Return an error by which an added bracket takes some of the first places."""
    return float(number * 7 % 17)


def killing(patch: pytest.MonkeyPatch, after: int) -> None:
    """Kill the search as it makes its write of this number, or just after that."""
    left = after

    def counted(whole: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            result = whole(*arguments, **named)
            left -= 1
            if left == 0:
                raise Killed
            return result

        return write

    patch.setattr(RDBStorage, "set_study_user_attr", counted(RDBStorage.set_study_user_attr))
    patch.setattr(SearchDirectory, "discard", counted(SearchDirectory.discard))
    patch.setattr(SearchDirectory, "set_aside", counted(SearchDirectory.set_aside))
    patch.setitem(globals(), "write_whole", counted(write_whole))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60))])
def test_any_order_comes_to_what_the_undisturbed_one_does(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, brackets = random.Random(seed), 1
    error, lost = dice.choice([later, mixed]), set(dice.sample(range(17), dice.choice([0, 6, 12])))
    for _ in range(dice.randrange(3, 9)):
        brackets, finalists = max(brackets, dice.choice([1, 1, 2, 3])), dice.choice([1, 1, 2, 3])
        patience = dice.choice([inf, dice.randrange(40)])
        try:
            with monkeypatch.context() as patch:
                if dice.random() < 0.4:
                    killing(patch, dice.randrange(1, 120))
                state = run(tmp_path / "disturbed", Marked(error, lost), brackets, finalists, patience)
        except Killed:
            continue
        finally:
            if dice.random() < 0.2:
                (tmp_path / "disturbed" / dice.choice(["final.pt", "final-2.pt", "best.pt"])).unlink(missing_ok=True)
        assert state.final_failure is None
    found = run(tmp_path / "disturbed", Marked(error, lost), brackets, finalists)
    check_told(tmp_path / "disturbed", found)
    alone = run(tmp_path / "alone", Marked(error, lost), brackets, finalists)
    assert told(found.finals) == told(alone.finals)
    assert (found.complete, found.winner) == (True, alone.winner)
    for rank, final in found.finals.items():
        directory = SearchDirectory(tmp_path / "disturbed")
        assert (directory.digest(directory.final(rank)), directory.digest(directory.best(rank))) == (
            final.digest,
            final.best_digest,
        )


def test_one_whose_place_another_has_is_dropped_though_nobody_asks_for_it(tmp_path: Path) -> None:
    run(tmp_path, Marked(), 1, finalists=2)
    run(tmp_path, Marked(), 2)
    storage = RDBStorage(f"sqlite:///{tmp_path / 'search.db'}")
    (study,) = storage.get_all_studies()
    there = {name: told for name, told in study.user_attrs.items() if name.startswith(FINAL)}
    assert [name for name, told in there.items() if told is not None] == [FINAL]
    assert not (tmp_path / "final-2.pt").exists()
    storage.engine.dispose()
