"""A trial table for other programs: a row for each trial and rung, and the study itself in another storage."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.coordinator import rungs
from stantune.search.plan.standings import status
from stantune.search.propose.sampling import optuna_quiet
from stantune.search.results.columns import metric_columns
from stantune.search.results.summary import cost_seconds
from stantune.search.table.attributes import COPYING
from stantune.search.table.looking.look import Seen
from stantune.search.table.storages.messages import one_sentence
from stantune.search.table.storages.opening import connect, mend, reading, release
from stantune.texts import plain

Cell = str | int | float | bool | None
# Those that are neither a metric's nor a parameter's.
_COLUMNS = (
    *("trial", "bracket", "status", "rung", "resource", "validation_share"),
    *("seconds_training", "seconds_evaluation", "seconds_coordination"),
    *("taken_over_from", "diverged_at", "cause"),
)


def rows_of(seen: Seen) -> list[dict[str, Cell]]:
    """Return a row for each trial and rung, in the order of the numbers; all have the same columns.

    A trial that diverged, failed or is still on the way has a row for where that is, too, without a value. Names of
    columns are those of `SearchResult.table`.
    """
    stands, metric = status(seen.plan, seen.rows).trials, seen.metric
    stops = {bracket.s: [rung.iterations for rung in bracket.rungs] for bracket in seen.plan}
    pending = {(number, state.stop) for state in rungs(seen.plan, seen.rows) for number in state.pending}
    measured = dict.fromkeys(name for row in seen.rows for found in row.metrics.values() for name in found)
    others = [name for name in measured if name != metric.name]
    parameters = list(dict.fromkeys([*seen.identity["space"], *(name for row in seen.rows for name in row.params)]))
    columns = metric_columns([metric.name, *others], [*_COLUMNS, *(f"params_{name}" for name in parameters)])
    rows: list[dict[str, Cell]] = []
    for row in seen.rows:
        lost = stands[row.number] in ("diverged", "failed")
        after = next((stop for stop in stops[row.bracket] if stop not in row.errors), 0)
        further = [after] if lost or (row.number, after) in pending else []
        for stop in [*sorted(row.errors), *further]:
            there, found = stop in row.errors, row.metrics.get(stop, {})
            spent = cost_seconds(row.costs[stop]) if stop in row.costs else None
            measures: dict[str, Any] = {metric.name: metric.loss(row.errors[stop]) if there else None}
            measures |= {name: found.get(name) for name in others}
            cells: dict[str, Any] = {
                "trial": row.number,
                "bracket": row.bracket,
                "status": stands[row.number],
                "rung": stop,
                "resource": stop if there else row.reached,
                **{columns[name]: value for name, value in measures.items()},
                "validation_share": row.shares.get(stop, 1.0) if there else None,
                "seconds_training": spent and spent.training,
                "seconds_evaluation": spent and spent.evaluation,
                "seconds_coordination": spent and spent.coordination,
                "taken_over_from": row.taken.get(stop),
                "diverged_at": None if there else row.diverged_at,
                "cause": None if there else row.failed,
                **{f"params_{name}": row.params.get(name) for name in parameters},
            }
            rows.append({plain(name): _cell(value) for name, value in cells.items()})
    return rows


def csv_of(rows: Sequence[Mapping[str, Cell]]) -> bytes:
    """Return rows as CSV in UTF-8, with a line of names; an empty cell is nothing."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["trial"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet_of(rows: Sequence[Mapping[str, Cell]]) -> bytes:
    """Return rows as a Parquet file; a parameter whose values are of several kinds is a column of texts.

    Raises StantuneError where what writes it is not installed.
    """
    try:
        import pandas

        # Or pandas would name other packages than the extra has.
        import_module("pyarrow")
    except ImportError as error:
        raise StantuneError("Parquet is written by pandas and pyarrow; pip install 'stantune[parquet]'") from error
    table = pandas.DataFrame.from_records(list(rows)).convert_dtypes()
    for name in table.columns:
        kinds = {type(row[name]) for row in rows} - {type(None)}
        if len(kinds - {int, float}) > 1 or (len(kinds) > 1 and kinds & {bool, str}):
            table[name] = [None if row[name] is None else str(row[name]) for row in rows]
    written = io.BytesIO()
    table.to_parquet(written, engine="pyarrow", index=False)
    return written.getvalue()


def copy_study(directory: SearchDirectory, url: str) -> str:
    """Copy a search's study into another Optuna storage; return its name there. The search itself stays where it is.

    Half a copy, which a killed process left there, is made anew; until it is whole, its attribute COPYING says so.

    Raises:
        UsageError: there can be no storage at such a URL, or there is such a study already.
        StantuneError: one of the two storages cannot be used.
    """
    name = f"stantune {directory.path.resolve()}"
    with reading(directory.url, directory.study) as found:
        assert found is not None, "it was looked at before"
        here, study = found
        directions, trials = here.get_study_directions(study), here.get_all_trials(study, deepcopy=False)
        told, noted = here.get_study_system_attrs(study), here.get_study_user_attrs(study)
        mend(url)
        there, where = connect(url)
        try:
            with one_sentence(where, name), optuna_quiet():
                # Not Optuna's copy_study: it does not tell which study it has made, and only that one may go again.
                copy, mark = _empty_study(there, directions, name, where), secrets.token_hex(8)
                try:
                    there.set_study_user_attr(copy, COPYING, mark)
                    for key, value in told.items():
                        there.set_study_system_attr(copy, key, value)
                    for key in noted.keys() - {COPYING}:
                        there.set_study_user_attr(copy, key, noted[key])
                    for trial in trials:
                        there.create_new_trial(copy, template_trial=trial)
                    if not _is_marked(there, copy, mark) or there.get_n_trials(copy) != len(trials):
                        raise StoreError(
                            f"the study {name!r} in {where} was copied by two commands at the same time; give one of "
                            "them again"
                        )
                    there.set_study_user_attr(copy, COPYING, False)
                except BaseException:
                    # Half a copy is none; why it is half is told even where it cannot be deleted. Another command
                    # that has deleted it may have one in its place.
                    with suppress(Exception):
                        if _is_marked(there, copy, mark):
                            there.delete_study(copy)
                    raise
        finally:
            release(there)
    return name


def _empty_study(storage: BaseStorage, directions: Sequence[StudyDirection], name: str, where: str) -> int:
    """Make a study, also in place of half a copy of that name; raises UsageError where there is another one."""
    try:
        return storage.create_new_study(directions, name)
    except DuplicatedStudyError:
        half = storage.get_study_id_from_name(name)
        attributes = storage.get_study_user_attrs(half)
        # A database that does not tell upper from lower case may take another one's name for this.
        there = storage.get_study_name_from_id(half)
        # Its mark is the first that is written to it.
        if there != name or not attributes.get(COPYING, not attributes and not storage.get_n_trials(half)):
            raise UsageError(
                f"{where} holds a study {there!r} already; delete that one there, or name another storage"
            ) from None
    storage.delete_study(half)
    return storage.create_new_study(directions, name)


def _is_marked(storage: BaseStorage, study_id: int, mark: str) -> bool:
    return storage.get_study_user_attrs(study_id).get(COPYING) == mark


def _cell(value: Any) -> Cell:
    """Return a value as a cell may be; a parameter's value can be a tuple."""
    value = plain(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
