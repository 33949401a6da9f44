"""What `tune` and `open_search` are given: taken as what it is for, or refused in a sentence that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stantune as st
from stantune.arguments import typed_number


class Mute:
    """It cannot say what it is."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")

    __index__ = __float__ = __repr__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10", 10.0),
        (" -1.5e-3 ", -0.0015),
        (".5", 0.5),
        ("5.", 5.0),
        ("+1E2", 100.0),
        ("-inf", float("-inf")),
        ("1_0", None),
        ("1e1_0", None),
        ("٣", None),
        ("0x10", None),
        (".", None),
        ("e5", None),
        ("1 0", None),
        ("", None),
    ],
)
def test_numbers_as_they_are_typed(text: str, number: float | None) -> None:
    assert typed_number(text) == number


SPACE = st.Space({"x": st.Float(-1, 1)})


def square(run: st.Run) -> float:
    return float(run.params["x"]) ** 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seed": 1.5}, "`seed`=1.5 is no whole number"),
        ({"seed": None}, "`seed`=None is no whole number"),
        ({"minimize": 3}, "`minimize`=3 is no text"),
        ({"unit": ""}, "`unit`='' is no text"),
        ({"retries": -1}, "`retries`=-1 is too small; give 0 or more"),
        ({"budget": float("nan")}, "`budget`=nan is no amount"),
        ({"budget": "soon"}, "`budget`: 'soon' is no length of time"),
        ({"trial_timeout": 0}, "`trial_timeout`=0 is no amount"),
        ({"trial_memory": "lots"}, "`trial_memory`: 'lots' is no amount of memory"),
        ({"workers": "auto"}, "`workers`='auto' is no whole number"),
        ({"brackets": "all"}, "`brackets`='all' is no whole number"),
        ({"finalists": 1.5}, "`finalists`=1.5 is no whole number"),
        ({"enqueue": 5}, "`enqueue` a list of such dicts"),
        ({"fixed": [("x", 1)]}, "`fixed` is a dict"),
        ({"start_from": 3}, "`start_from`=3 is no path"),
        ({"out": ""}, "`out`='' is no path"),
        ({"storage": 5}, "`storage`=5 is no text"),
        ({"stan": "auto"}, "`stan`='auto' is no Stan"),
        ({"max_resource": 2.5}, "`max_resource`=2.5 is no whole number"),
        ({"eta": 2.5}, "`eta`=2.5 is no whole number"),
        ({"eta": 1}, "`eta`=1 is too small; give 2 or more"),
        ({"threads": "all"}, "`threads`='all' is no number of threads"),
        ({"threads": 2**31}, "`threads`=2147483648 is too large"),
        ({"workers": 10**5}, "`workers`=100000 is too large"),
        ({"lag": 10**5000}, "`lag`=a int is too large"),
        ({"seed": -(10**200)}, "is too small; give a number of fewer digits"),
        ({"trial_memory": "9" * 400}, "`trial_memory`: '999"),
        ({"trial_memory": 10**400}, "is no amount"),
        (
            {"trial_timeout": "1h", "executor": lambda order: None},
            "`trial_timeout`='1h' ends trainings in processes that the search has started, and with an `executor` of "
            "your own that has them; leave it away",
        ),
        ({"trial_memory": 2**30, "executor": lambda order: None}, "`trial_memory`=1073741824 ends trainings in"),
        ({"trial_timeout": "²s"}, "`trial_timeout`: '²s' is no length of time"),
        ({"out": "a" * 300}, "is too long a name; give a shorter one"),
        ({"out": "~nosuchuser/x"}, "`out`='~nosuchuser/x' begins with the name of nobody here; give the whole path"),
        ({"out": "a\0b"}, "is no name that a file can have"),
        ({"start_from": Path("\ud800")}, "is no name that a file can have"),
        ({"name": Mute()}, "`name`=a Mute is no text"),
        ({"eta": Mute()}, "`eta`=a Mute is no whole number"),
        ({"budget": Mute()}, "`budget`=a Mute is no amount"),
        ({"compile": "no"}, "`compile`='no' is neither True nor False"),
        ({"accept_changes": "False"}, "`accept_changes`='False' is neither True nor False"),
    ],
)
def test_what_makes_no_sense_is_named(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(st.UsageError) as refused:
        st.tune(square, SPACE, **{"minimize": "loss", "max_resource": 3, "out": tmp_path / "out", **given})
    assert sentence in str(refused.value)
    assert not (tmp_path / "out" / "search.db").exists()


def test_the_home_folder_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    options: Any = {"minimize": "loss", "max_resource": 1, "trials": 1, "mode": "async"}
    found = st.tune(square, SPACE, **options, out=Path("~/x"), loggers=["csv=~/log.csv"])
    st.tune(square, SPACE, **options, out="~/y", start_from="~/x")
    assert found.report("~/page.html") == tmp_path / "page.html"
    assert {path.name for path in tmp_path.iterdir()} == {"work", "x", "y", "log.csv", "page.html"}
    assert not list(Path().iterdir())


def test_numbers_of_numpy_and_whole_floats_are_numbers(tmp_path: Path) -> None:
    given: dict[str, Any] = {"seed": np.int64(5), "max_resource": np.int32(3), "eta": 3.0, "finalists": np.int8(1)}
    found = st.tune(square, SPACE, minimize="loss", out=tmp_path, **given)
    assert found.complete
    assert found.final is not None
    assert found.final.weights is None, "it keeps nothing"


def test_what_is_told_is_looked_at_before_it_is_written(tmp_path: Path) -> None:
    with st.open_search(SPACE, minimize="loss", max_resource=1, out=tmp_path) as search:
        segment = search.ask()
        assert segment is not None
        wrong: Any
        for wrong in ({"loss": 1, "n": "text"}, {"los": 1}, {}, {"loss": None}, {"loss": True}, {"loss": "a"}, "0.5"):
            with pytest.raises(st.UsageError, match="what was told of a segment cannot be taken"):
                search.tell(segment, wrong)
        search.tell(segment, np.float32(0.5))
        with pytest.raises(st.UsageError, match="is not waited for"):
            search.tell(segment, 0.5)
        assert [trial.value for trial in search.result.trials()] == [0.5]
    for late in (search.ask, lambda: search.tell(segment, 0.1), lambda: search.fail(segment, "late")):
        with pytest.raises(st.UsageError, match="is closed"):
            late()
    with (
        pytest.raises(st.UsageError, match="`workers` is nothing that a search by ask and tell has"),
        st.open_search(SPACE, minimize="loss", max_resource=1, out=tmp_path, workers=2),
    ):
        pass


def test_an_earlier_search_with_another_metric_is_none_to_start_from(tmp_path: Path) -> None:
    def both(run: st.Run) -> dict[str, float]:
        return {"loss": run.params["x"] ** 2, "acc": run.params["x"]}

    st.tune(both, SPACE, minimize="loss", max_resource=3, out=tmp_path / "first")
    for other in ({"maximize": "loss"}, {"minimize": "acc"}):
        with pytest.raises(st.UsageError, match=r"compares trials by loss \(minimize\)"):
            st.tune(both, SPACE, max_resource=3, start_from=tmp_path / "first", out=tmp_path / "other", **other)
    assert st.tune(both, SPACE, minimize="loss", max_resource=3, start_from=tmp_path / "first", out=tmp_path / "2").best
