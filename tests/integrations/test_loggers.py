"""Loggers in whole searches: each thing is told once, a search is none the other for them, and none stops it."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import stantune as st
from stantune.integrations.loggers import loggers_of
from stantune.search.telling.logbook import Logbook

SPACE = st.Space({"x": st.Float(0, 1)})


def train(run: st.Run) -> dict[str, float]:
    """Tell two losses a step; diverge above 0.9, fail around a half."""
    run.keep(nothing=[0])
    x = run.params["x"]
    for step in run.steps():
        for half in range(2):
            run.loss(x + 1 / (1 + 2 * step + half))
    if 0.45 < x < 0.55:
        raise ValueError("no data")
    return {"error": float("nan") if x > 0.9 else x, "other": 1.0}


def tuned(out: Path, **others) -> st.SearchResult:
    return st.tune(train, SPACE, minimize="error", max_resource=9, retries=0, seed=3, out=out, **others)


class Noting:
    """Notes what it is told; raises at the so manieth thing."""

    def __init__(self, name: str = "noting", raises_at: int | None = None, error: type[BaseException] = ValueError):
        self.name = name
        self.told: list[tuple] = []
        self.raises_at, self.error = raises_at, error

    def _take(self, *what) -> None:
        if len(self.told) == self.raises_at:
            raise self.error("the server\nis down")
        self.told.append(what)

    def begin(self, search):
        self.key = search.key
        self.searched = search

    def training(self, training):
        self._take(training.name, "begins", training.trial, training.params)

    def segment(self, training, segment):
        self._take(training.name, segment)

    def ended(self, training, how):
        self._take(training.name, how)

    def close(self):
        self.closed = True


def in_order(told: list[tuple]) -> dict[str, list[tuple]]:
    """Return what was told, training by training."""
    return {name: [each[1:] for each in told if each[0] == name] for name in sorted({each[0] for each in told})}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[st.SearchResult, Noting]:
    """A search with a logger, from beginning to end."""
    noting = Noting()
    return tuned(tmp_path_factory.mktemp("whole") / "run", loggers=[noting]), noting


def test_all_is_told(whole):
    result, noting = whole
    told = in_order(noting.told)
    trials = result.trials()
    assert {trial.status for trial in trials} == {"finished", "dropped", "diverged", "failed"}
    assert noting.searched.name == "train"
    assert (noting.searched.metric.name, noting.searched.unit) == ("error", "epoch")
    assert noting.searched.identity["seed"] == 3
    assert noting.closed
    for trial in trials:
        (_, number, params), *segments, (end,) = told.pop(f"trial-{trial.number:06d}")
        assert (number, params, end) == (trial.number, trial.params, trial.status)
        segments = [segment for (segment,) in segments]
        if trial.status == "diverged":
            assert segments.pop().diverged_at == trial.resource
        assert {at: metrics["error"] for each in segments for at, metrics in each.measured.items()} == trial.curve
        losses = [point for segment in segments for point in segment.losses]
        assert [count for count, _ in losses] == list(range(1, 2 * max(trial.curve, default=0) + 1))
        assert all(mean == pytest.approx(trial.params["x"] + 1 / count, rel=1e-5) for count, mean in losses)
    [(name, ((_, number, params), (segment,), end))] = told.items()
    assert name == f"final-of-{result.best.number:06d}"
    assert (number, params, end) == (result.best.number, result.best.params, ("finished",))
    assert segment.measured[9] == {"error": result.final.value, "other": 1.0}
    assert len(segment.losses) == 18


def test_a_search_is_none_the_other_for_its_loggers(whole, tmp_path):
    result, _ = whole
    without = tuned(tmp_path / "run")
    assert [(trial.params, trial.curve) for trial in without.trials()] == [
        (trial.params, trial.curve) for trial in result.trials()
    ]
    assert without.final.value == result.final.value
    assert not (tmp_path / "run" / "logged.jsonl").exists()


@pytest.mark.parametrize("at", [0, 7, 40])
def test_whoever_goes_on_tells_what_is_new(whole, tmp_path, at):
    """The process ends as a logger is told something: the next run tells that, and nothing twice."""
    _, noting = whole
    out = tmp_path / "run"
    first, second, third = Noting(raises_at=at, error=KeyboardInterrupt), Noting(), Noting()
    with pytest.raises(KeyboardInterrupt):
        tuned(out, loggers=[first])
    tuned(out, loggers=[second])
    tuned(out, loggers=[third])
    assert in_order(first.told + second.told) == in_order(noting.told)
    assert third.told == []
    assert first.key == second.key == third.key != noting.key


def test_a_new_logger_is_told_all_of_a_complete_search(whole, tmp_path):
    _, noting = whole
    out, late = tmp_path / "run", Noting("late")
    tuned(out)
    tuned(out, loggers=[late, "csv"])
    assert in_order(late.told) == in_order(noting.told)
    with (out / "log.csv").open(newline="") as file:
        rows = [tuple(row[:5]) for row in csv.reader(file)]
    assert max(Counter(rows).values()) == 1
    assert sum(row[3] == "loss" for row in rows) == sum(
        len(each[1].losses) for each in noting.told if len(each) == 2 and isinstance(each[1], st.LoggedSegment)
    )


def test_one_that_fails_is_said_once_and_told_later(whole, tmp_path):
    _, noting = whole
    out, lines = tmp_path / "run", []
    bad, good, gone = Noting("bad", raises_at=5), Noting("good"), Noting("gone", raises_at=3, error=SystemExit)
    assert tuned(out, loggers=[bad, good, gone], say=lines.append).complete
    said = [line for line in lines if line.startswith("logger ")]
    assert said == [
        "logger gone failed and is told nothing more (SystemExit: the server is down); the search goes on, and the "
        "same call tells it later what it missed",
        "logger bad failed and is told nothing more (ValueError: the server is down); the search goes on, and the same "
        "call tells it later what it missed",
    ]
    log = (out / "messages.log").read_text()
    assert log.count(" WARNING logger bad failed") == log.count("logger bad ") == 1
    assert in_order(good.told) == in_order(noting.told)
    again = Noting("bad")
    tuned(out, loggers=[again])
    assert in_order(bad.told + again.told) == in_order(noting.told)


def test_no_password_is_written_or_said(tmp_path, monkeypatch):
    """Neither of where a logger writes to, nor in what it says of that when it fails."""
    mlflow = SimpleNamespace(entities=None, MlflowClient=lambda tracking_uri: fail(f"there is no {tracking_uri}"))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    url, out, lines = "mlflow=postgresql://me:SECRET@host/db", tmp_path / "run", []
    tuned(out, loggers=[url], say=lines.append)
    assert any("logger mlflow=postgresql://me:***@host/db failed" in line for line in lines)
    [logger] = loggers_of([url])
    out.joinpath("logged.jsonl").unlink()
    logger.begin, logger.training, logger.segment, logger.ended = [lambda *told: None] * 4
    tuned(out, loggers=[logger], say=lines.append)
    assert '["mlflow=postgresql://me:***@host/db", "trial-000000"]' in (out / "logged.jsonl").read_text()
    for loggers in ([url, url], [url.replace("flow", "flo")]):
        with pytest.raises(st.UsageError) as raised:
            tuned(out, loggers=loggers)
        lines.append(str(raised.value))
    assert not any("SECRET" in line for line in lines)
    assert not [file for file in out.rglob("*") if file.is_file() and b"SECRET" in file.read_bytes()]


def fail(words: str) -> None:
    raise ValueError(words)


def test_notes_that_are_cut_or_strange(whole, tmp_path):
    """What cannot be read there was told, and is told again; `fresh` begins with none."""
    out, first, second, third = tmp_path / "run", Noting(), Noting(), Noting()
    tuned(out, loggers=[first])
    notes = out / "logged.jsonl"
    lines = notes.read_bytes().splitlines()
    notes.write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:-4])
    tuned(out, loggers=[second])
    assert second.told == [first.told[-1]]
    assert [json.loads(line) for line in notes.read_bytes().splitlines()[-1:]] == [json.loads(lines[-1])]
    tuned(out, loggers=[third], fresh=True)
    assert in_order(third.told) == in_order(first.told)
    assert third.key != first.key


@pytest.mark.parametrize(
    "key", ["../elsewhere-01234567", "/elsewhere-01234567", "..", "a/b-01234567", "", None, 3, ["x"]]
)
def test_a_key_that_no_search_makes_is_not_taken(key, tmp_path):
    """Loggers have folders by it: what is told is in the search's own."""
    out, first, second = tmp_path / "run", Noting(), Noting("another")
    tuned(out, loggers=[Noting("before")])
    (out / "logged.jsonl").write_text(json.dumps({"search": key}))
    tuned(out, loggers=[first])
    assert re.fullmatch(r"train-[0-9a-f]{8}", first.key)
    tuned(out, loggers=[second])
    assert second.key == first.key, "which is noted, and found again"


@pytest.mark.parametrize("name", ["lenet", "_mine", "a-b.py_train", "Ä", "..", "-x-", "x" * 60])
def test_a_key_that_was_made_is_taken(name, tmp_path):
    def told() -> Noting:
        logger = Noting()
        objective = SimpleNamespace(name=name, metric=None, unit="epoch")
        Logbook([logger], tmp_path / "logged.jsonl", print).begin(objective, {}, [], [])
        return logger

    assert told().key == told().key


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["cvs"],
            "`loggers` has 'cvs'; give csv, tensorboard, mlflow or wandb, and where it writes behind =, as in "
            "csv=log.csv",
        ),
        (
            ["csv="],
            "`loggers` has 'csv='; give csv, tensorboard, mlflow or wandb, and where it writes behind =, as in "
            "csv=log.csv",
        ),
        ("csv", "`loggers`='csv' is no list; give one of Loggers, or of names: csv, tensorboard, mlflow or wandb"),
        (["csv", "csv"], "`loggers` has csv twice; leave one of them out"),
        ([3], "`loggers` has 3, which is no Logger; give one, or csv, tensorboard, mlflow or wandb"),
        ([Noting], "which is no Logger; give one, or csv, tensorboard, mlflow or wandb"),
        ([Noting("")], "`loggers` has a Noting whose name is ''; give it a text, by which a search knows it again"),
    ],
)
def test_bad_loggers(given, said, tmp_path):
    with pytest.raises(st.UsageError) as raised:
        tuned(tmp_path / "run", loggers=given)
    assert str(raised.value).endswith(said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_what_is_not_installed_is_said(monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto" if name == "tensorboard" else name, None)
    with pytest.raises(st.StantuneError, match=rf"^[\w& ]+ is not installed; pip install 'stantune\[{name}\]'$"):
        loggers_of([name])


def test_a_metric_called_as_another_row_of_the_table_is_told_apart(tmp_path: Path) -> None:
    def trains(run: st.Run) -> dict[str, float]:
        run.keep(nothing=[0])
        for _ in run.steps():
            run.loss(0.5)
        return {"loss": 7.0, "ended": 8.0, "params_x": 9.0, "error": run.params["x"]}

    st.tune(trains, SPACE, minimize="error", max_resource=9, brackets=1, out=tmp_path, loggers=["csv"])
    with (tmp_path / "log.csv").open(newline="") as file:
        values = {(row["name"], row["value"]) for row in csv.DictReader(file) if row["training"] == "trial-000000"}
    names = {name for name, _ in values}
    assert {("metric_loss", "7.0"), ("metric_ended", "8.0"), ("metric_params_x", "9.0"), ("loss", "0.5")} <= values
    assert names == {"metric_loss", "metric_ended", "metric_params_x", "loss", "ended", "params_x", "error"}
