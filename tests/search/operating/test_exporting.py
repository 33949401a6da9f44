"""`export --optuna`: a search's study in another storage, whole or marked as half, and nobody else's touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from told import play

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.operating.exporting import copy_study

# Copies a study, and is killed where it comes to one of its methods for the nth time.
KILLED = """
import os, sys
from pathlib import Path
from optuna.storages import JournalStorage, RDBStorage
from stantune.search.operating.exporting import copy_study
from stantune.search.directory.directory import SearchDirectory

path, url, method, left = *sys.argv[1:4], int(sys.argv[4])
storage = JournalStorage if url.startswith("journal") else RDBStorage
do = getattr(storage, method)

def cut(*arguments, **named):
    global left
    left -= 1
    if not left:
        os._exit(9)
    return do(*arguments, **named)

setattr(storage, method, cut)
copy_study(SearchDirectory.begun(Path(path)), url)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a search that is done."""
    directory = SearchDirectory(tmp_path_factory.mktemp("searches") / "done")
    play(directory)
    return directory.path


def storage_at(url: str) -> BaseStorage:
    """Open a storage as other programs do."""
    if url.startswith("journal"):
        return optuna.storages.JournalStorage(JournalFileBackend(url.removeprefix("journal:///")))
    return RDBStorage(url)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("method", "times"), [("create_new_trial", 3), ("set_study_user_attr", 1), ("set_study_user_attr", 2)]
)
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_what_a_kill_left_half_is_copied_anew(done: Path, tmp_path: Path, kind: str, method: str, times: int) -> None:
    url = f"{kind}:///{tmp_path / 'others'}"
    killed = [sys.executable, "-c", KILLED, str(done), url, method, str(times)]
    for _ in range(2):
        assert subprocess.run(killed, check=False).returncode == 9
    name = f"stantune {done}"
    half = optuna.load_study(study_name=name, storage=storage_at(url))
    assert len(half.trials) == (times - 1 if method == "create_new_trial" else 0)
    assert bool(half.user_attrs.get("stantune:copying")) == (bool(half.user_attrs))
    assert copy_study(SearchDirectory.begun(done), url) == name
    whole = optuna.load_study(study_name=name, storage=storage_at(url))
    assert (len(whole.trials), whole.best_trial.number, whole.best_value) == (17, 6, 65.0)
    assert whole.user_attrs["stantune:copying"] is False
    with pytest.raises(UsageError, match=r"holds a study .* already"):
        copy_study(SearchDirectory.begun(done), url)


@pytest.mark.parametrize("has", ["a trial", "an attribute"])
def test_a_study_that_is_no_half_copy_stays(done: Path, tmp_path: Path, has: str) -> None:
    url, name = f"sqlite:///{tmp_path / 'others.db'}", f"stantune {done}"
    theirs = optuna.create_study(study_name=name, storage=url)
    if has == "a trial":
        theirs.ask()
    else:
        theirs.set_user_attr("mine", 1)
    with pytest.raises(UsageError, match=r"holds a study .* already"):
        copy_study(SearchDirectory.begun(done), url)
    again = optuna.load_study(study_name=name, storage=url)
    assert (len(again.trials), again.user_attrs) == (len(theirs.trials), theirs.user_attrs)


@pytest.mark.parametrize("left", ["nothing", "another"])
def test_two_that_copy_at_the_same_time_leave_no_mixture(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Databases give a deleted study's number to the next one."""
    directory, url = SearchDirectory.begun(done), f"sqlite:///{tmp_path / 'others.db'}"
    copy, other = RDBStorage.create_new_trial, RDBStorage(url)

    def meddled(storage: RDBStorage, study_id: int, template_trial: FrozenTrial) -> int:
        if template_trial.number == 3:
            other.delete_study(study_id)
            if left == "another":
                again = other.create_new_study([StudyDirection.MINIMIZE], f"stantune {done}")
                assert again == study_id
                other.set_study_user_attr(again, "stantune:copying", "another's")
        return copy(storage, study_id, template_trial)

    monkeypatch.setattr(RDBStorage, "create_new_trial", meddled)
    with pytest.raises(StoreError, match=r"at the same time; give one of them again" if left == "another" else "gone"):
        copy_study(directory, url)
    assert optuna.get_all_study_names(url) == ([f"stantune {done}"] if left == "another" else [])


def test_a_study_is_copied_whole_or_not_at_all(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, url = SearchDirectory.begun(done), f"sqlite:///{tmp_path / 'others.db'}"
    with monkeypatch.context() as patch:
        copy = RDBStorage.create_new_trial

        def cut(storage: RDBStorage, study_id: int, template_trial: FrozenTrial) -> int:
            if template_trial.number == 3:
                raise KeyboardInterrupt
            return copy(storage, study_id, template_trial)

        patch.setattr(RDBStorage, "create_new_trial", cut)
        with pytest.raises(KeyboardInterrupt):
            copy_study(directory, url)
    assert optuna.get_all_study_names(url) == []
    name = copy_study(directory, url)
    study = optuna.load_study(study_name=name, storage=url)
    assert (len(study.trials), study.best_trial.number, study.best_value) == (17, 6, 65.0)
    with pytest.raises(UsageError, match=r"holds a study .* already"):
        copy_study(directory, url)
    assert optuna.get_all_study_names(url) == [name]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), StorageInternalError("the database is locked")])
def test_what_another_call_has_copied_stays_there(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, copied: bool
) -> None:
    directory, url = SearchDirectory.begun(done), f"sqlite:///{tmp_path / 'others.db'}"
    names = [copy_study(directory, url)] if copied else []

    def fail(*_: object) -> int:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(RDBStorage, "create_new_study", fail)
        # It is told why, and not that a study is gone that was never there.
        with pytest.raises((KeyboardInterrupt, StantuneError), match=str(error)):
            copy_study(directory, url)
    assert optuna.get_all_study_names(url) == names
