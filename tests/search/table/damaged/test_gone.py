"""Tables that are gone, or another program's: said in a sentence, and no other one is made in their place."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from sound_table import NAME, at, fresh_copy, opened

from stantune.errors import StoreError
from stantune.outcome import Cost, Outcome
from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.values import FinalResult
from stantune.search.table.storages.opening import sqlite_url


def rename(file: Path) -> None:
    _, storage = at(file)
    study = storage.get_study_id_from_name(NAME)
    if file.suffix == ".db":
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE studies SET study_name = 'other' WHERE study_id = ?", (study,))
    else:
        file.write_text(file.read_text().replace(f'"{NAME}"', '"other"'))


def delete(file: Path) -> None:
    _, storage = at(file)
    storage.delete_study(storage.get_study_id_from_name(NAME))


def delete_and_make(file: Path) -> None:
    delete(file)
    _, storage = at(file)
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], NAME)


def take_away(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("kind", ["database", "journal"])
@pytest.mark.parametrize("gone", [rename, delete, delete_and_make, take_away])
def test_a_search_whose_study_is_gone_says_so(
    kind: str, gone: Callable[[Path], None], simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    url = sqlite_url(file) if kind == "database" else f"journal:///{file}"
    gone(file)
    said = "was not made by a stantune search" if gone is delete_and_make else "trial table of this search is gone"
    for _ in range(2):  # no other study is made in its place
        with pytest.raises(StoreError, match=said) as caught:
            opened(simulated, url, begun=True)
        assert "begin anew with `fresh`" in str(caught.value) or "begin it anew with `fresh`" in str(caught.value)


def test_a_search_s_directory_knows_whether_its_search_was_begun(simulated: ModuleType, tmp_path: Path) -> None:
    directory = SearchDirectory(tmp_path)
    with directory.locked():
        assert not directory.was_begun()
        directory.note_storage()
        assert directory.was_begun()
        with pytest.raises(StoreError, match="trial table of this search is gone"):
            opened(simulated, directory.url, begun=directory.was_begun())
        directory.clear()
        opened(simulated, directory.url, begun=directory.was_begun()).release()


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_a_study_that_is_deleted_while_its_search_runs(
    kind: str, simulated: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    file = fresh_copy(request.getfixturevalue(kind), tmp_path)
    url, _ = at(file)
    with opened(simulated, url) as store:
        rows = store.rows()
        number = len(rows)
        store.create(number, rows[0].params, 0)
        delete(file)
        final = FinalResult.of(rows[0].params, Outcome(9, {}, 5, False, Cost()), Cost())
        uses: list[Callable[[], object]] = [
            lambda: store.record(number, 9, {"error": 0.25}),
            lambda: store.close({number: "finished"}),
            lambda: store.create(number + 1, rows[0].params, 0),
            lambda: store.set_final(0, final),
            store.finals,
        ]
        # Optuna's journal still knows the trials of a study that is gone: it is noticed where the next one begins.
        for each in uses[2 if kind == "journal" else 0 :]:
            with pytest.raises(StoreError, match=f"the study '{NAME}' in .* cannot go on because .* gone") as caught:
                each()
            assert "begin it anew with `fresh`" in str(caught.value)
