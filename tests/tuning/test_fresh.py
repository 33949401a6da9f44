"""`fresh`: a search is deleted when nothing is left that may be refused, and not before."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import stantune as st
from stantune.errors import StantuneError
from stantune.objectives.function.objective import FunctionObjective
from stantune.search.directory import directory
from stantune.search.table.looking.look import look
from stantune.search.table.storages.opening import sqlite_url

SPACE = st.Space({"x": st.Float(-1, 1)})
OPTIONS: dict[str, Any] = {"max_resource": 3, "brackets": 1}


def square(run: st.Run) -> float:
    return float(run.params["x"]) ** 2


@dataclass(frozen=True)
class Unready(FunctionObjective):
    """Cannot be prepared, or has no trainer."""

    lacks: str = "data"

    def prepared(self, conditions: st.Conditions) -> st.Prepared:
        assert conditions.begun is None
        if self.lacks == "data":
            raise StantuneError("the data are not there")
        conditions.say("the data are there")
        return st.Prepared(self, 1)

    def trainer(self, place: st.Place) -> Any:
        raise StantuneError("there is no trainer")


def unready(lacks: str) -> Unready:
    return Unready(square, SPACE, st.Metric("loss"), name="square", lacks=lacks)


@dataclass(frozen=True)
class Odd(FunctionObjective):
    """Has an identity that no table takes."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"odd": object()}


def no_executor(order: object) -> Any:
    return None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"start_from": "a"}, "is this search's own directory"),
    ({"start_from": "misspelt"}, "there is no search"),
    ({"start_from": "other"}, "compares trials by gain"),
    ({"objective": unready("data")}, "the data are not there"),
    ({"objective": unready("trainer")}, "there is no trainer"),
    ({"executor": no_executor}, "which is no Executor"),
    ({"threads": "auto"}, "`threads`=auto"),
    ({"eta": 1}, "`eta`=1 is too small"),
    ({"enqueue": [{"x": 0.1}] * 99}, "`enqueue` has 99 settings, but the search tries 3; leave some out"),
    ({"objective": Odd(square, SPACE, st.Metric("loss"), name="square")}, "holds what JSON does not take"),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_nothing_is_deleted_where_it_is_refused(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    asked: dict[str, Any] = {"objective": square, "space": SPACE, "minimize": "loss", "out": tmp_path / "a"}
    before = st.tune(**asked, **OPTIONS)
    st.tune(**{**asked, "minimize": None, "maximize": "gain", "out": tmp_path / "other"}, **OPTIONS)
    given = {name: tmp_path / value if name == "start_from" else value for name, value in given.items()}
    alone = dict.fromkeys(("space", "minimize")) if "objective" in given else {}
    with pytest.raises(StantuneError, match=sentence):
        st.tune(**{**asked, **OPTIONS, **alone, **given}, fresh=True)
    assert look(tmp_path / "a").rows == before.state.rows
    if "start_from" in given:
        told = {"minimize": "loss", "max_resource": 3, "name": "square", "out": tmp_path / "a"}
        with pytest.raises(st.UsageError, match=sentence), st.open_search(SPACE, **told, **given, fresh=True):
            pass
        assert look(tmp_path / "a").rows == before.state.rows


@pytest.mark.parametrize("begin", ["tune", "open_search"])
def test_it_learns_from_what_the_earlier_search_is_now(tmp_path: Path, begin: str) -> None:
    def started(fresh: bool) -> Any:
        asked: dict[str, Any] = {"minimize": "loss", "max_resource": 3, "name": "square", "seed": 2}
        asked |= {"start_from": tmp_path / "earlier", "out": tmp_path / "a", "fresh": fresh}
        if begin == "tune":
            return st.tune(square, SPACE, **asked)
        with st.open_search(SPACE, **asked) as search:
            return search.result

    found = []
    for seed in (5, 6):
        st.tune(square, SPACE, minimize="loss", out=tmp_path / "earlier", seed=seed, fresh=True, **OPTIONS)
        found.append(started(fresh=True).settings.start)
        assert started(fresh=False).settings.start == found[-1]
    assert found[0] != found[1]


def test_the_log_has_what_was_said_before(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Saying(FunctionObjective):
        def prepared(self, conditions: st.Conditions) -> st.Prepared:
            conditions.say("the data are there")
            return st.Prepared(self, 1)

    asked: dict[str, Any] = {"out": tmp_path, "fresh": True, **OPTIONS}
    for _ in range(2):
        st.tune(Saying(square, SPACE, st.Metric("loss"), name="square"), **asked)
    log = (tmp_path / "messages.log").read_text()
    assert log.count("begins the search of square") == log.count("the data are there") == 1
    assert log.index("begins the search of square") < log.index("the data are there")


@pytest.mark.parametrize("storage", [None, "another.db"])
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_of_the_deletion_leaves_a_search_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None, every: int
) -> None:
    class Killed(BaseException):
        pass

    def ends(out: Path, **options: Any) -> list[Any]:
        where = {} if storage is None else {"storage": sqlite_url(out.parent / f"{out.name}-{storage}")}
        asked = {"minimize": "loss", "max_resource": 9, "final": "none", "out": out, **where, **options}
        with st.open_search(SPACE, **asked) as search:
            while (segment := search.ask()) is not None:
                segment.checkpoint.write_bytes(b"kept")
                search.tell(segment, {"loss": segment.params["x"] + 1 / segment.stop})
            return [(row.params, row.errors) for row in search.result.state.rows]

    left, steps = 10**6, 0

    def dying(do: Any) -> Any:
        def step(*given: Any, **options: Any) -> Any:
            nonlocal left, steps
            left, steps = left - 1, steps + 1
            if left < 0:
                raise Killed
            return do(*given, **options)

        return step

    expected = ends(tmp_path / "undisturbed")
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    monkeypatch.setattr(directory, "write_whole", dying(directory.write_whole))
    monkeypatch.setattr(directory.studies, "delete", dying(directory.studies.delete))
    ends(tmp_path / "counted")
    steps = 0
    ends(tmp_path / "counted", fresh=True)
    assert steps > 10
    for cut in range(0 if storage is None else 2, steps, every) if every > 1 else range(steps):
        out, left = tmp_path / f"cut-{cut}", 10**6
        ends(out)
        left = cut
        with contextlib.suppress(Killed):
            ends(out, fresh=True)
        left = 10**6
        assert ends(out) == expected, cut


@pytest.mark.parametrize("fresh", ["0", "False", 0, None, 1])
def test_what_is_neither_true_nor_false_deletes_nothing(tmp_path: Path, fresh: Any) -> None:
    asked: dict[str, Any] = {"minimize": "loss", "max_resource": 3}
    st.tune(square, SPACE, out=tmp_path / "a", **asked)
    with st.open_search(SPACE, out=tmp_path / "b", **asked) as search:
        search.tell(search.ask(), 0.5)  # type: ignore[arg-type]  # there is one to begin with
    before = [look(tmp_path / name).rows for name in "ab"]
    with pytest.raises(st.UsageError, match=f"`fresh`={fresh!r} is neither True nor False; give one of them"):
        st.tune(square, SPACE, out=tmp_path / "a", fresh=fresh, **asked)
    with (
        pytest.raises(st.UsageError, match=f"`fresh`={fresh!r} is neither True nor False; give one of them"),
        st.open_search(SPACE, out=tmp_path / "b", fresh=fresh, **asked),
    ):
        pass
    assert [look(tmp_path / name).rows for name in "ab"] == before
