"""A search by ask and tell: whether it is complete, what it is told, and what is refused."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stantune as st
from stantune.errors import StoreError
from stantune.search.plan.values import SegmentFailure
from stantune.search.session import Session
from stantune.search.table.looking.look import look
from stantune.search.table.store import Store
from stantune.tuning import ask_and_tell

SPACE = st.Space({"x": st.Float(-1, 1)})


def opened(out: Path, **options: Any) -> Any:
    return st.open_search(**{"space": SPACE, "minimize": "loss", "max_resource": 9, "out": out, **options})


def written(out: Path) -> bool:
    """Return whether result.json says that it is complete."""
    said: bool = json.loads((out / "result.json").read_text())["complete"]
    return said


def test_one_that_has_hardly_begun_is_not_complete(tmp_path: Path) -> None:
    with opened(tmp_path) as search:
        assert not search.result.complete
    assert not search.result.complete
    assert not written(tmp_path)
    with opened(tmp_path) as search:
        search.close()
    assert not search.result.complete
    assert not written(tmp_path)


def test_it_is_complete_when_all_is_told_and_not_before(tmp_path: Path) -> None:
    complete, told = [], 0
    with opened(tmp_path) as search:
        while not search.result.complete:
            segment = search.ask()
            assert not search.result.complete
            search.tell(segment, segment.params["x"] ** 2 + 1 / segment.stop)
            told += 1
            complete.append(search.result.complete)
        assert search.ask() is None
    # At the end of a rung, too, nothing is known to be left before one has looked.
    assert complete == [False] * (told - 1) + [True]
    assert search.result.final is not None
    assert written(tmp_path)


def test_what_ends_it_is_what_is_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), opened(tmp_path) as search:
        raise KeyError("mine")
    with pytest.raises(st.UsageError, match="is closed"):
        search.ask()
    assert (search.result.complete, search.result.found_nothing) == (False, False)


def ended_by_an_exception(out: Path, metrics: float | None, most: int) -> tuple[st.OpenSearch, int]:
    """Return a search that an exception ended after so many segments, and how many there were."""
    told = 0
    try:
        with opened(out) as search:
            while told < most and (segment := search.ask()) is not None:
                search.tell(segment, metrics)
                told += 1
            raise KeyError
    except KeyError:
        return search, told


def test_one_that_an_exception_ended_is_not_complete(tmp_path: Path) -> None:
    told = 1
    while told:
        search, told = ended_by_an_exception(tmp_path, 0.3, 1)
        # Only the one in which nothing was left to ask for.
        assert search.result.complete is not bool(told)


def test_one_that_an_exception_ended_has_not_found_nothing(tmp_path: Path) -> None:
    # The end of a rung.
    search, _ = ended_by_an_exception(tmp_path, None, 9)
    assert (search.result.complete, search.result.found_nothing) == (False, False)


@pytest.mark.parametrize(
    ("seconds", "sentence"),
    [
        (None, "`seconds`=None is no finite number"),
        ("3", "`seconds`='3' is no finite number"),
        (float("nan"), "`seconds`=nan is no finite number"),
        (float("inf"), "`seconds`=inf is no finite number"),
        (-0.3, "`seconds`=-0.3 is no time that a training takes; give 0 or more"),
    ],
)
def test_a_time_that_is_none_is_refused_before_it_is_written(tmp_path: Path, seconds: Any, sentence: str) -> None:
    with opened(tmp_path) as search:
        segment = search.ask()
        with pytest.raises(st.UsageError, match=sentence):
            search.tell(segment, 0.3, seconds)
        search.tell(segment, 0.3, np.float32(1.5))
    assert look(tmp_path).rows[0].costs[segment.stop].exact_seconds == 1.5


def test_what_is_no_segment_is_named(tmp_path: Path) -> None:
    with opened(tmp_path) as search, pytest.raises(st.UsageError, match="None is no segment; tell each segment that"):
        search.tell(None, 0.3)


@pytest.mark.parametrize("other", [{"seed": 1}, {}], ids=["seed", "directory"])
def test_a_segment_of_another_search_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    with opened(tmp_path / "a", min_resource=9) as mine, opened(tmp_path / "b", min_resource=9, **other) as others:
        segment, foreign = mine.ask(), others.ask()
        assert (segment.trial, segment.stop) == (foreign.trial, foreign.stop)
        for refused in (lambda: mine.tell(foreign, 0.7), lambda: mine.fail(foreign, "of another")):
            with pytest.raises(st.UsageError, match="this search did not give it"):
                refused()
        # What is its own counts nevertheless, also where its setting was changed meanwhile.
        segment.params.clear()
        mine.tell(segment, 0.3)
        with pytest.raises(st.UsageError, match="it was told of before"):
            mine.tell(segment, 0.3)
    assert look(tmp_path / "a").rows[0].errors == {9: 0.3}


def test_a_segment_of_another_bracket_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as search:
        segment = search.ask()
        with pytest.raises(st.UsageError, match="this search did not give it"):
            search.tell(replace(segment, bracket=segment.bracket - 1), 0.7)
        search.tell(segment, 0.3)
    assert look(tmp_path).rows[0].errors == {segment.stop: 0.3}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"retries": "3"}, "`retries`='3' is no whole number; give one, 0 or more"),
        ({"storage": 5}, "`storage`=5 is no text"),
        ({"rates": "auto"}, "`rates` is nothing that a search by ask and tell has: your own program trains"),
        ({"start": 3}, "`start` is nothing that a search by ask and tell has"),
        ({"plan_name": "wide"}, "`plan_name` is nothing that a search by ask and tell has"),
        ({"process": 5}, "`process` is nothing that a search by ask and tell has"),
        ({"threads": "two"}, "`threads`='two' is no whole number; give one, 1 or more"),
        ({"threads": 0}, "`threads`=0 is too small; give 1 or more"),
        ({"device": 3}, "`device`=3 is no text"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(st.UsageError, match=sentence), opened(tmp_path / "out", **given):
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("begun", [{}, {"threads": 2, "device": "cuda:1"}], ids=["usual", "said"])
def test_what_a_program_trains_with_is_part_of_its_search(tmp_path: Path, begun: dict[str, Any]) -> None:
    threads, device = begun.get("threads", 1), begun.get("device", "cpu").partition(":")[0]
    for given in (begun, {}, {"threads": threads}, {"device": device}):
        with opened(tmp_path, **given) as search:
            assert (search.settings.threads, search.settings.device.partition(":")[0]) == (threads, device)
        identity = look(tmp_path).identity
        assert (identity["threads"], identity["device"]) == (threads, device)
    with pytest.raises(st.UsageError, match=f"threads: {threads} there, 3 here"), opened(tmp_path, threads=3):
        pass
    with opened(tmp_path, threads=3, fresh=True):
        assert look(tmp_path).identity["threads"] == 3
    with opened(tmp_path, fresh=True) as search:
        assert search.settings.threads == 1


def test_one_that_was_begun_with_no_number_of_threads_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        # An earlier version took whatever it was given.
        patch.setattr(ask_and_tell, "whole", lambda parameter, value, *limits: value)
        with opened(tmp_path, threads="two"):
            pass
    with opened(tmp_path) as search:
        assert search.ask() is not None
    assert look(tmp_path).identity["threads"] == "two"


def test_a_checkpoint_may_be_a_folder(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for most in (12, 99):
        with opened(tmp_path) as search:
            while most and (segment := search.ask()) is not None:
                most -= 1
                weights = segment.checkpoint / "weights"
                if segment.start:
                    assert weights.read_text() == str(segment.start)
                segment.checkpoint.mkdir(exist_ok=True)
                weights.write_text(str(segment.stop))
                search.tell(segment, segment.params["x"] ** 2 + 1 / segment.stop)
    assert search.result.complete
    found = search.result.trials()
    # What is dropped takes its folder along.
    kept = {f"trial-{trial.number:06d}.pt" for trial in found if trial.status == "finished"}
    assert {path.name for path in checkpoints.iterdir()} == kept
    assert 0 < len(kept) < len(found)
    assert search.result.final is not None
    assert search.result.final.weights == tmp_path / "final.pt"
    assert (tmp_path / "final.pt" / "weights").read_text() == "9"
    assert (written(tmp_path), [path.name for path in tmp_path.glob("*.aside")]) == (True, [])


def worth(segment: st.Segment) -> float:
    return float(segment.params["x"]) ** 2 + 1 / segment.stop


def test_threads_that_ask_and_tell_come_to_the_same_table(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as search:
        while (segment := search.ask()) is not None:
            search.tell(segment, worth(segment))
    expected = look(tmp_path / "one").rows

    def work(search: st.OpenSearch) -> None:
        while not search.result.complete and time.monotonic() < end:
            segment = search.ask()
            if segment is None:
                time.sleep(0.001)
            elif segment.trial == 2 and not search.result.trials()[2].curve and not failed:
                failed.append(segment)
                search.fail(segment, "it is tried again")
            else:
                search.tell(segment, worth(segment))

    for number in range(3):
        failed: list[st.Segment] = []
        end = time.monotonic() + 60
        with opened(tmp_path / f"{number}") as search, ThreadPoolExecutor(4) as threads:
            for future in [threads.submit(work, search) for _ in range(4)]:
                future.result(60)
        rows = look(tmp_path / f"{number}").rows
        assert [(row.params, row.errors) for row in rows] == [(row.params, row.errors) for row in expected]
        assert [len(row.failures) for row in rows] == [row.number == 2 for row in rows]
        assert search.result.complete


class Table:
    """Refuses a write of the trial table, the next time that it is called so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fails_once(self, name: str) -> None:
        def refuse(*given: Any, **named: Any) -> Any:
            self._patch.setattr(Store, name, written)
            raise StoreError("the table is locked")

        written = getattr(Store, name)
        self._patch.setattr(Store, name, refuse)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch)


@pytest.mark.parametrize(
    ("metrics", "write"),
    [(0.3, "record"), (None, "record_divergence"), ("its cause", "record_failure")],
    ids=["value", "divergence", "failure"],
)
def test_what_could_not_be_written_is_told_again(tmp_path: Path, table: Table, metrics: Any, write: str) -> None:
    with opened(tmp_path) as search:
        segment = search.ask()
        tell = search.fail if isinstance(metrics, str) else search.tell
        free = list(search._session._free)
        table.fails_once(write)
        with pytest.raises(StoreError, match="locked"):
            tell(segment, metrics)
        assert not search.result.complete
        assert (search._session.running, search._session._free) == (1, free)
        tell(segment, metrics)
        with pytest.raises(st.UsageError, match="it was told of before"):
            tell(segment, metrics)
        row = search.result.state.rows[0]
    assert (row.errors or row.diverged_at or row.failures) in ({1: 0.3}, 1, (SegmentFailure(1, "its cause"),))


def test_one_whose_end_could_not_be_written_is_closed(tmp_path: Path, table: Table) -> None:
    with pytest.raises(StoreError, match="locked"), opened(tmp_path) as search:
        table.fails_once("close")
    # Its directory is another one's to lock by now.
    with pytest.raises(st.UsageError, match="is closed"):
        search.ask()
    with opened(tmp_path) as search:
        table.fails_once("close")
        with pytest.raises(StoreError, match="locked"):
            search.close()
        with pytest.raises(st.UsageError, match="is closed"):
            search.ask()


@pytest.mark.parametrize("write", ["create", "set_final"])
def test_a_search_goes_on_after_a_write_that_failed(tmp_path: Path, table: Table, write: str) -> None:
    with opened(tmp_path / "expected") as search:
        while (segment := search.ask()) is not None:
            search.tell(segment, worth(segment))
    expected = search.result
    with opened(tmp_path / "failing") as search:
        table.fails_once(write)
        segment = asked_again(search)
        while segment is not None:
            try:
                search.tell(segment, worth(segment))
            except StoreError:
                search.tell(segment, worth(segment))
            segment = asked_again(search)
    assert search.result.complete
    assert [row.errors for row in search.result.state.rows] == [row.errors for row in expected.state.rows]
    assert search.result.final.value == expected.final.value


def asked_again(search: st.OpenSearch) -> st.Segment | None:
    """Return what a search gives, at the second try where the table fails."""
    try:
        return search.ask()
    except StoreError:
        return search.ask()


@pytest.mark.parametrize("options", [{}, {"mode": "async"}, {"plan": "measured"}])
def test_who_asks_again_and_again_looks_at_the_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    looks, look = list[int](), Session._look

    def counted(session: Session) -> None:
        looks.append(1)
        look(session)

    monkeypatch.setattr(Session, "_look", counted)
    # Of eight settings, so that some come again.
    few = st.Space({"x": st.Integer(0, 7)})

    def play(out: Path, polls: int) -> Any:
        with opened(out, space=few, **options) as search:
            while True:
                given = []
                while (segment := search.ask()) is not None:
                    given.append(segment)
                before = len(looks)
                for _ in range(polls):
                    assert search.ask() is None
                    assert search.result.complete is not bool(given)
                assert len(looks) == before, "nothing was told meanwhile"
                if not given:
                    return search.result.trials()
                for segment in given:
                    before = len(looks)
                    search.tell(segment, segment.params["x"] + 1 / segment.stop)
                    assert len(looks) == before

    assert play(tmp_path / "polled", 20) == play(tmp_path / "asked", 0)
