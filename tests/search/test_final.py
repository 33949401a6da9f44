"""What the final training is: from scratch, the best trial's own as it is, or none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import blobs_problem
from optuna.storages import RDBStorage

import stantune as st
from stantune.errors import UsageError
from stantune.outcome import Cost
from stantune.search.directory.directory import SearchDirectory
from stantune.search.operating.trial_report import trial_report
from stantune.search.plan.standings import ranking
from stantune.search.results.summary import summarise
from stantune.search.table.attributes import FINAL
from stantune.search.table.looking.look import look
from stantune.search.table.looking.recorded import recorded
from stantune.stan.config import Stan
from stantune.training.train import run

SIZES: dict[str, Any] = {"max_resource": 9, "min_resource": 3, "threads": 1}
PROBLEM = blobs_problem(300)


def trains(run: st.Run) -> dict[str, float]:
    total = [0.0]
    run.keep(total=total)
    for _ in run.steps():
        total[0] += run.params["x"]
    return {"value": total[0]} | ({"test": -total[0]} if run.final else {})


SPACE = st.Space({"x": st.Float(0, 1)})


def model_in(path: Path) -> Any:
    return torch.load(path, weights_only=True)["state"]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_best_trial_s_own_weights_are_taken(tmp_path: Path, stopped: bool) -> None:
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            st.tune(PROBLEM, out=tmp_path, final="continue", finalists=2, say=interrupted, **SIZES)
    found = st.tune(PROBLEM, out=tmp_path, final="continue", finalists=2, **SIZES)
    assert found.complete
    assert found.best is not None
    assert found.final is not None
    ranks = [final.number for final in found.finalists]
    best = min(found.finalists, key=lambda final: (final.value, ranks.index(final.number)))
    assert (found.final.number, found.final.value) == (best.number, best.value)
    for final in found.finalists:
        trial = found.trials()[final.number]
        assert final.value == trial.value
        assert set(final.metrics) == {"validation error", "test error"}
        assert final.weights is not None
        own, kept = model_in(tmp_path / f"checkpoints/trial-{final.number:06d}.pt"), model_in(final.weights)
        assert kept["iteration"] == own["iteration"] == 9
        for name, weights in own["model"].items():
            assert torch.equal(weights, kept["model"][name])
    assert sum(final.cost.exact for final in found.state.finals.values()) == 0
    assert look(tmp_path).state == "done"


def interrupted(line: str) -> None:
    if "final training" in line:
        raise KeyboardInterrupt


def test_a_function_is_called_for_what_else_is_measured(tmp_path: Path) -> None:
    found = st.tune(trains, SPACE, minimize="value", final="continue", out=tmp_path, **SIZES)
    assert found.final is not None
    assert found.best is not None
    assert found.final.value == found.best.value
    assert found.final.metrics == {"value": found.best.value, "test": -found.best.value}


def test_all_that_got_to_the_end_may_be_finalists(tmp_path: Path) -> None:
    """The value rises with the steps, so that those of the lower rung are the better ones."""
    found = st.tune(trains, SPACE, minimize="value", final="continue", finalists=3, out=tmp_path, **SIZES)
    values = {trial.number: trial.value for trial in found.trials() if trial.resource == 9}
    ended = sorted(values, key=lambda number: (values[number], number))
    assert len(ended) == 3
    assert [standing.number for standing in ranking(found.state.rows, 9)[:3]] != ended
    assert [final.number for final in found.finalists] == ended
    assert [(one.trial, one.trial_value, one.value) for one in found.summary.finalists] == [
        (number, values[number], values[number]) for number in ended
    ]
    weights = [tmp_path / name for name in ("final.pt", "final-2.pt", "final-3.pt")]
    assert [final.weights for final in found.finalists] == weights
    assert all(file.exists() for file in weights)
    seen = look(tmp_path)
    assert (found.complete, seen.state, seen.finals_left) == (True, "done", 0)
    there = recorded(seen)
    assert summarise(there.objective, there.settings, there.state).finalists == found.summary.finalists


@pytest.mark.parametrize("kept", [True, False])
def test_finalists_of_an_earlier_version_are_had_again_in_their_places(tmp_path: Path, kept: bool) -> None:
    """It counted the ranks among all trials. Where the trials' checkpoints are gone, they are made again."""
    options: dict[str, Any] = {"minimize": "value", "final": "continue", "finalists": 5, "out": tmp_path, **SIZES}
    found, directory = st.tune(trains, SPACE, **options), SearchDirectory(tmp_path)
    places = [standing.number for standing in ranking(found.state.rows, 9)]
    storage = RDBStorage(f"sqlite:///{tmp_path / 'search.db'}")
    (study,) = storage.get_all_studies()
    for rank in (2, 1):
        place = places.index(found.finalists[rank].number)
        assert place > rank
        storage.set_study_user_attr(study._study_id, f"{FINAL}:{place}", study.user_attrs[f"{FINAL}:{rank}"])
        storage.set_study_user_attr(study._study_id, f"{FINAL}:{rank}", None)
        directory.final(rank).rename(directory.final(place))
    storage.engine.dispose()
    if not kept:
        shutil.rmtree(tmp_path / "checkpoints")
    assert (look(tmp_path).state, sorted(look(tmp_path).finals)) == ("interrupted", [0])
    again = st.tune(trains, SPACE, **options)
    finals = [
        {rank: replace(final, cost=Cost(), digest=None) for rank, final in each.state.finals.items()}
        for each in (found, again)
    ]
    assert finals[0] == finals[1]
    assert sorted(path.name for path in tmp_path.glob("final*")) == ["final-2.pt", "final-3.pt", "final.pt"]
    assert (again.complete, look(tmp_path).state) == (True, "done")


def test_none_trains_nobody_and_may_be_had_later(tmp_path: Path) -> None:
    without = st.tune(trains, SPACE, minimize="value", final="none", out=tmp_path, **SIZES)
    assert without.complete
    assert without.best is not None
    assert (without.final, without.finalists) == (None, [])
    assert not (tmp_path / "final.pt").exists()
    assert look(tmp_path).state == "done"
    later = st.tune(trains, SPACE, minimize="value", out=tmp_path, **SIZES)
    assert later.final is not None
    assert later.final.number == without.best.number


def test_what_another_setting_left_is_out_of_the_way(tmp_path: Path) -> None:
    """Of a training that is not over nobody has noted whose it is, and settings change places between versions."""
    for name, seed in (("mine", 0), ("other", 1)):
        st.tune(trains, SPACE, minimize="value", out=tmp_path / name, final="none", seed=seed, **SIZES)
    st.tune(trains, SPACE, minimize="value", out=tmp_path / "other", final="scratch", seed=1, **SIZES)
    (tmp_path / "other/final.pt").rename(tmp_path / "mine/final.pt")
    found = st.tune(trains, SPACE, minimize="value", out=tmp_path / "mine", final="scratch", seed=0, **SIZES)
    assert found.complete
    assert found.final is not None
    assert found.final.value == pytest.approx(9 * found.final.params["x"])
    assert (tmp_path / "mine/final.pt.aside").exists()
    assert "another setting's or another version's" in (tmp_path / "mine/messages.log").read_text()


def test_a_trial_shows_the_final_training_of_its_setting(tmp_path: Path) -> None:
    """Of a setting that several trials had there is one, whichever of them stands for it."""
    space = st.Space({"x": st.Categorical((1.0, 2.0))})
    found = st.tune(trains, space, minimize="value", out=tmp_path, max_resource=9, min_resource=1, threads=1)
    assert found.final is not None
    seen = look(tmp_path)
    for trial in found.trials():
        shown = [final.value for final in trial_report(seen, trial.number).finals]
        assert shown == ([found.final.value] if trial.params == found.final.params else [])


def test_what_cannot_be(tmp_path: Path) -> None:
    def tuned(what: object = PROBLEM, **others: Any) -> None:
        st.tune(what, out=tmp_path / "refused", **{**SIZES, **others})

    with pytest.raises(UsageError, match=r"`final`=anew is unknown; give scratch, continue or none"):
        tuned(final="anew")
    with pytest.raises(UsageError, match=r"`finalists`=2 asks for final trainings, and `final`=none for none"):
        tuned(final="none", finalists=2)
    with pytest.raises(UsageError, match=r"not trained exactly throughout, but partly at a rate of 0\.5; give"):
        tuned(final="continue", stan=Stan(rate=0.5))
    command = st.CommandObjective(["true", "{x}"], SPACE, minimize="value")
    with pytest.raises(UsageError, match=r"what true keeps there only its own program knows; give scratch or none"):
        tuned(command, final="continue")
    assert not (tmp_path / "refused").exists()
    st.tune(trains, SPACE, minimize="value", out=tmp_path / "there", **SIZES)
    with pytest.raises(UsageError, match="final: not set there, continue here"):
        st.tune(trains, SPACE, minimize="value", final="continue", out=tmp_path / "there", **SIZES)


def test_an_exact_top_rung_is_enough() -> None:
    from stantune.tuning.compose import compose

    _, settings = compose(PROBLEM, **{"max_resource": 9, "min_resource": 1}, rates="auto", final="continue")
    assert settings.rates[-1] == 1


def test_a_final_training_may_be_longer_than_any_trial(tmp_path: Path) -> None:
    def noted(run: st.Run) -> dict[str, float]:
        return trains(run) | {"length": run.length}

    sizes = {"max_resource": 9, "min_resource": 3, "final_resource": 20}
    for _ in range(2):
        found = st.tune(noted, SPACE, minimize="value", out=tmp_path, **sizes)
    assert found.final is not None
    assert found.best is not None
    assert found.final.resource == 20
    assert found.final.value == pytest.approx(20 * found.best.params["x"])
    assert found.final.metrics["length"] == 20
    assert {trial.metrics["length"] for trial in found.trials()} == {9}
    assert look(tmp_path).final_trained == 20
    assert look(tmp_path).state == "done"
    with pytest.raises(UsageError, match="final-iterations: 20 there, not set here"):
        st.tune(noted, SPACE, minimize="value", out=tmp_path, **{**sizes, "final_resource": None})


def test_its_schedule_is_of_its_own_length(tmp_path: Path) -> None:
    problem = replace(PROBLEM, solver=st.Solver(lr=0.1, policy="cosine"), iterations=20)
    found = st.tune(problem, out=tmp_path, final_resource=18, **SIZES)
    assert found.final is not None
    # Where trials were evaluated, and at its end.
    assert list(found.final.curve) == [3, 9, 18]
    alone = run(
        problem.lasting(18), found.final.params, None, 0, 18, splits=problem.load(), seed=found.settings.final_seed()
    )
    assert alone.metrics["validation error"] == found.final.value


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"final_resource": 5}, r"`final_resource`=5 is less than `max_resource`=9"),
        ({"final_resource": 0}, r"`final_resource`=0 is less than `max_resource`=9"),
        ({"final_resource": 10}, r"`final_resource`=10 is out of reach: a training of blobs is 9 iterations long"),
        ({"final_resource": 9, "final": "none"}, r"`final_resource`=9 is of final trainings from scratch"),
    ],
)
def test_a_length_that_cannot_be(tmp_path: Path, others: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        st.tune(PROBLEM, out=tmp_path / "refused", **{**SIZES, **others})
    assert not (tmp_path / "refused").exists()
