"""Readable: what a search's study says to people, in tables of before, too; nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection

from stantune.outcome import Cost
from stantune.parameters import Categorical, Float, Integer
from stantune.protocols import Metric
from stantune.search.plan.values import FinalResult, SegmentFailure
from stantune.search.table.attributes import METRIC_NAMES
from stantune.search.table.looking.notes import study_note, study_title, trial_attributes
from stantune.search.table.looking.readable import Readable
from stantune.search.table.store import Store
from stantune.space import Space

SPACE = Space(
    {"lr": Float(1e-3, 1, log=True), "act": Categorical(("relu", "tanh")), "width": Integer(2, 8, step=2)},
    when={"width": {"act": "relu"}},
)
SETTING = {"lr": 0.1, "act": "tanh"}
IDENTITY: dict[str, Any] = {
    "problem": "lenet",
    "unit": "epoch",
    "seed": 3,
    "max-iterations": 9,
    "sampler-settings": {"startup": 7},
    "rate": None,
    "layers": ["conv1", "conv*"],
    "code": "0123",
}
NOTE, VERSION = "dashboard:note_str:0", "dashboard:note_ver"


@pytest.fixture
def store() -> Store:
    storage = InMemoryStorage()
    store = Store(storage, "search", IDENTITY, SPACE, "memory", Metric("accuracy", "maximize"))
    for number in range(4):
        store.create(number, SETTING, 1, started_from=5 if number == 3 else None)
    store.record(0, 3, {"accuracy": 50.0, "test": 40.0}, Cost(3, 1.5, 0, 0.0, 0.25))
    store.record(0, 9, {"accuracy": 60.0, "test": 45.0}, Cost(3, 2.0))
    store.record_divergence(1, 3, 2)
    store.record_failure(2, SegmentFailure(3, "ValueError: too large"), for_good=True)
    store.close({1: "diverged", 2: "failed"})
    return store


def readable(store: Store) -> Readable:
    return Readable(store._storage)


def test_trials(store: Store) -> None:
    shown = readable(store)
    trials = shown.get_all_trials(0)
    assert [trial.user_attrs for trial in trials] == [
        {"accuracy": 60.0, "test": 45.0, "bracket": 1, "seconds": 3.75},
        {"outcome": "diverged at epoch 2", "bracket": 1, "seconds": 0.0},
        {"outcome": "failed: ValueError: too large", "bracket": 1, "seconds": 0, "failed attempts": 1},
        {"bracket": 1, "seconds": 0, "started from trial": 5},
    ]
    there = store._storage.get_all_trials(0)
    for one, other in zip(trials, there, strict=True):
        assert (one.number, one.state, one.params) == (other.number, other.state, other.params)
        assert one.intermediate_values == other.intermediate_values
        assert any(name.startswith("stantune:") for name in other.user_attrs)


def test_the_study_and_its_note(store: Store) -> None:
    shown = readable(store)
    assert shown.get_study_name_from_id(0) == "lenet, accuracy, up to 9 epochs, seed 3"
    assert shown.get_study_id_from_name("lenet, accuracy, up to 9 epochs, seed 3") == 0
    assert shown.get_study_id_from_name("search") == 0
    (study,) = shown.get_all_studies()
    assert (study.study_name, study.user_attrs) == (shown.get_study_name_from_id(0), {})
    assert study.system_attrs == shown.get_study_system_attrs(0)
    assert study.system_attrs[NOTE] == (
        "# lenet\n\nTrials are compared by their accuracy.\n\n## Settings\n\n| setting | value |\n|---|---|\n"
        "| layers | conv1, conv\\* |\n| max-iterations | 9 |\n| sampler-settings.startup | 7 |\n| seed | 3 |\n\n"
        "## Space\n\n| parameter | values |\n|---|---|\n"
        "| lr | float, 0.001 to 1, logarithmic |\n| act | one of relu, tanh |\n"
        "| width | integer, 2 to 8, in steps of 2, where act is relu |"
    )
    store.set_final(0, FinalResult(SETTING, 9, {"accuracy": 61.5}, None, Cost(), best_kept=True))
    store.set_final(1, FinalResult(SETTING, 4, {}, 4, Cost()))
    after = shown.get_study_system_attrs(0)
    assert after[VERSION] == 3
    assert (
        "## Final training of the setting in place 1\n\n**accuracy 61.5** after 9 epochs. Weights: final.pt, best.pt."
        "\n\n| parameter | value |\n|---|---|\n| lr | 0.1 |\n| act | tanh |\n\n"
        "## Final training of the setting in place 2\n\nIt diverged at epoch 4." in after[NOTE]
    )
    store.drop_final(0)
    assert "in place" not in shown.get_study_system_attrs(0)[NOTE]
    # The table itself has none of it.
    assert NOTE not in store._storage.get_study_system_attrs(0)


def test_optuna_s_own_functions_read_it(store: Store) -> None:
    shown = readable(store)
    study = optuna.load_study(study_name=shown.get_study_name_from_id(0), storage=shown)
    assert study.metric_names == ["accuracy"]
    assert len(study.trials) == 4


def test_a_table_of_before_metrics_had_names() -> None:
    storage = InMemoryStorage()
    with Store(storage, "search", {"problem": "lenet", "seed": 0}, SPACE, "memory", Metric("validation error")):
        storage._studies[0].system_attrs.pop(METRIC_NAMES)
        shown = Readable(storage)
        assert shown.get_study_name_from_id(0) == "lenet, validation error, seed 0"
        assert shown.get_study_system_attrs(0)[METRIC_NAMES] == ["validation error"]


def test_in_a_shared_storage_directories_tell_searches_apart(tmp_path: Path) -> None:
    storage, names = InMemoryStorage(), [f"stantune {tmp_path / name}" for name in ("one", "two")]
    for name in names:
        Store(storage, name, IDENTITY, SPACE, "memory", Metric("error"))
    shown = Readable(storage)
    titles = [study.study_name for study in shown.get_all_studies()]
    assert titles == [f"lenet, error, up to 9 epochs, seed 3, in {tmp_path / name}" for name in ("one", "two")]
    assert [shown.get_study_id_from_name(title) for title in titles] == [0, 1]


def test_other_studies_and_odd_ones_are_shown_as_they_are(store: Store) -> None:
    storage = store._storage
    other = storage.create_new_study([StudyDirection.MINIMIZE], "other")
    storage.set_study_user_attr(other, "mine", 1)
    storage.create_new_trial(other)
    shown = readable(store)
    assert shown.get_study_name_from_id(other) == "other"
    assert shown.get_study_user_attrs(other) == {"mine": 1}
    assert shown.get_study_system_attrs(other) == {}
    assert shown.get_all_trials(other) == storage.get_all_trials(other)
    storage.set_study_user_attr(0, "stantune:final", "no result")
    storage.set_trial_user_attr(storage.get_trial_id_from_study_id_trial_number(0, 0), "stantune:cost:3", 7)
    assert NOTE not in shown.get_study_system_attrs(0)
    assert shown.get_all_trials(0)[0].user_attrs["stantune:cost:3"] == 7
    storage.set_study_user_attr(0, "stantune:identity", "none")
    assert shown.get_study_name_from_id(0) == "search"
    assert len(shown.get_all_trials(0)) == 4


def test_names_mean_nothing_in_markdown() -> None:
    note = study_note(
        {"problem": "<script>alert(1)</script> $x$ `y` [z](u)\n# a|b", "seed": 0, "space": {}}, {}, "e|f*"
    )
    assert note.startswith(
        "# \\<script\\>alert(1)\\</script\\> \\$x\\$ \\`y\\` \\[z\\](u) \\# a\\|b\n\n"
        "Trials are compared by their e\\|f\\*."
    )
    assert "\n" not in study_title({"problem": "a\nb"}, "c\nd")
    assert trial_attributes({"stantune:bracket": 0, "stantune:failures": [[1, "x"]]}, "epoch")


def test_nothing_is_written(store: Store) -> None:
    shown = readable(store)
    with pytest.raises(PermissionError, match="by itself alone"):
        shown.set_study_user_attr(0, "a", 1)
    with pytest.raises(PermissionError):
        optuna.load_study(study_name="search", storage=shown).ask()
