"""The loggers that there are do all that is asked of one, read back with their own libraries; bad ones are found."""

from __future__ import annotations

import csv
import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stantune.integrations.csv_log import CsvLogger
from stantune.search.telling.loggers import LoggedSegment
from stantune.testing import check_logger
from stantune.testing.loggers import CHECKS, FIRST, TRIAL, Point, check_all, check_name, search_in


def csv_points(folder: Path) -> list[Point]:
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Point(row["training"], row["name"], int(row["step"]), float(row["value"])) for row in rows if row["step"] != ""
    ]


def test_csv():
    check_logger(lambda folder: CsvLogger(), csv_points)


def test_csv_of_several_searches(tmp_path):
    """In a file of one's own; a line that a kill has cut is written again, and a file of somebody else's let alone."""
    file = tmp_path / "logs" / "all.csv"
    for key in ("a-1", "a-2"):
        logger = CsvLogger(file)
        assert logger.name == f"csv={file}"
        logger.begin(search_in(tmp_path, key))
        logger.training(TRIAL)
        logger.segment(TRIAL, FIRST)
    whole = file.read_bytes()
    assert whole.count(b"validation error") == 2
    assert b'a-2,trial-000000,0,params_kernel,,"(3, 3)"\r\n' in whole
    file.write_bytes(whole[:-20])
    logger = CsvLogger(file)
    logger.begin(search_in(tmp_path, "a-2"))
    logger.segment(TRIAL, FIRST)
    assert file.read_bytes() == whole
    file.write_text("my,own\n1,2\n")
    with pytest.raises(Exception, match=r"^.*all\.csv is no log of ours; move it away, or name another file$"):
        CsvLogger(file).begin(search_in(tmp_path))
    assert file.read_text() == "my,own\n1,2\n"


def test_tensorboard():
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from stantune.integrations.tensorboard_log import TensorBoardLogger

    def read(folder: Path) -> list[Point]:
        points = []
        for run in (folder / "tensorboard").glob("*/*"):
            events = accumulator.EventAccumulator(str(run))
            events.Reload()
            for tag in events.Tags()["scalars"]:
                name = "metric_loss" if tag == "metrics/loss" else tag.removeprefix("metrics/")
                points += [Point(run.name, name, e.step, e.value) for e in events.Scalars(tag)]
        return points

    check_logger(lambda folder: TensorBoardLogger(), read)


def mlflow_points(uri: str) -> list[Point]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    points = []
    for run in client.search_runs(experiments):
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            points += [Point(run.data.tags["stantune.training"], name, each.step, each.value) for each in history]
    return points


@pytest.mark.slow
def test_mlflow(tmp_path):
    """In a database, whose tables it takes MLflow ten seconds and more to make."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'stantune[mlflow]'")
    from stantune.integrations.mlflow_log import MlflowLogger

    for number, check in enumerate(CHECKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        uri = f"sqlite:///{folder}/mlflow.db"
        check(
            lambda folder: MlflowLogger(f"sqlite:///{folder}/mlflow.db"),
            lambda folder, uri=uri: mlflow_points(uri),
            folder,
        )


def test_mlflow_in_files(tmp_path, monkeypatch):
    """As it was before databases, which is quick: one after the other of what each does."""
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'stantune[mlflow]'")
    from stantune.integrations.mlflow_log import MlflowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for number, check in enumerate(CHECKS):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(
            lambda folder: MlflowLogger((folder / "runs").as_uri()),
            lambda folder: mlflow_points((folder / "runs").as_uri()),
            folder,
        )


def test_mlflow_has_the_parameters_of_a_run_in_which_it_was_killed(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'stantune[mlflow]'")
    from stantune.integrations.mlflow_log import MlflowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()

    def killed(*args, **named):
        raise KeyboardInterrupt

    for kill in (True, False, False):
        logger = MlflowLogger(uri)
        logger.begin(search_in(tmp_path))
        with monkeypatch.context() as patch:
            if kill:
                patch.setattr(logger._client, "log_batch", killed)
            with pytest.raises(KeyboardInterrupt) if kill else nullcontext():
                logger.training(TRIAL)
        client = mlflow.MlflowClient(tracking_uri=uri)
        [run] = client.search_runs([each.experiment_id for each in client.search_experiments()])
        assert run.data.params == ({} if kill else {name: str(value) for name, value in TRIAL.params.items()})


def test_mlflow_has_a_name_of_its_own_for_each_of_ours(tmp_path, monkeypatch):
    """Whether it is installed or not: what it does not allow is replaced, after which two may be alike."""
    logged = []

    class Client:
        def __init__(self, tracking_uri):
            self.create_experiment = self.create_run = lambda *args, **named: run

        def get_experiment_by_name(self, name):
            return None

        def search_runs(self, *args):
            return []

        def log_batch(self, run, params=(), metrics=()):
            logged.extend([*params, *metrics])

    run = SimpleNamespace(info=SimpleNamespace(run_id="run"))
    entities = SimpleNamespace(Param=lambda *values: values, Metric=lambda name, value, now, step: (name, step, value))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client, entities=entities))
    from stantune.integrations.mlflow_log import MlflowLogger

    logger = MlflowLogger()
    logger.begin(search_in(tmp_path))
    logger.training(replace(TRIAL, params={"a@": 1, "a_": 2, "a?": 3}))
    keys = [key for key, _ in logged]
    assert keys[1] == "a_"
    assert keys[0].startswith("a__")
    assert len(set(keys)) == 3
    # Two segments, of which the first has fewer metrics: each stays in its series.
    names = ["p@>0.5", "loss", "p@<0.5", "loss?", "/loss", "a//b", "a/../b", "..", "", "\udc80"]
    names += ["a/b", "a.b", "l\xf6 x"]
    series = {}
    for several in (names[:2], names):
        logged.clear()
        logger.segment(TRIAL, LoggedSegment(9, {9: dict.fromkeys(several, 1.0)}))
        for name, (key, _, _) in zip(several, logged, strict=True):
            assert series.setdefault(name, key) == key
    assert len(set(series.values())) == len(names)
    assert series["p@>0.5"] == "p__0.5_" + hashlib.sha256(b"p@>0.5").hexdigest()[:8]
    assert [series[name] for name in (names[1], *names[-3:])] == ["metric_loss", *names[-3:]]
    for key in series.values():
        assert re.fullmatch(r"[\w\-. :/]+", key)
        assert posixpath.normpath(key) == key
        assert not key.startswith(("/", ".."))


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield what is in a file of W&B's: records in LevelDB's log format, behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        # Whole, or the last part of one.
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def wandb_points(folder: Path) -> list[Point]:
    points = []
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        name = file.stem.removeprefix("run-numbers-0a1b2c3d-")
        for record in wandb_records(file):
            found = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            for key, value in found.items():
                if key not in ("losses", "epoch") and not key.startswith("_"):
                    step = found["losses" if key == "loss" else "epoch"]
                    points.append(Point(name, key, int(step), float(json.loads(value))))
    return points


@pytest.mark.slow
def test_wandb(tmp_path, monkeypatch):
    """Offline. What is told again only its server passes over, so that is not looked at here."""
    pytest.importorskip("wandb", reason="Weights & Biases is not installed: pip install 'stantune[wandb]'")
    from stantune.integrations.wandb_log import WandbLogger

    for name, value in {"WANDB_MODE": "offline", "WANDB_CACHE_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    check_name(lambda folder: WandbLogger(), None, tmp_path)
    check_all(lambda folder: WandbLogger(), wandb_points, tmp_path)


def test_wandb_is_told_metrics_by_names_that_are_not_its_own(tmp_path, monkeypatch):
    """Whether it is installed or not."""
    logged = []

    class Run(nullcontext):
        def log(self, values, step):
            logged.append((step, values))

    package = SimpleNamespace(init=lambda **named: Run(Run()), Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", package)
    from stantune.integrations.wandb_log import WandbLogger

    logger = WandbLogger()
    logger.begin(search_in(tmp_path))
    measured = {"loss": 0.5, "losses": 2.0, "epoch": 7.0, "error": 1.0}
    logger.segment(TRIAL, LoggedSegment(3, {3: measured}, [(4, 0.25)]))
    own = {"loss": 0.25, "losses": 4, "epoch": 3}
    assert logged == [(4, {**own, "metric_loss": 0.5, "metric_losses": 2.0, "metric_epoch": 7.0, "error": 1.0})]


class Forgetful(CsvLogger):
    """Does not look at what is there."""

    def begin(self, search):
        super().begin(search)
        self._tail = set()


class Numbered(CsvLogger):
    """Has another name each time."""

    made = 0

    def __init__(self):
        super().__init__()
        Numbered.made += 1
        self.name = f"csv-{Numbered.made}"


class Lossless(CsvLogger):
    """Writes no losses."""

    def segment(self, training, segment):
        super().segment(training, replace(segment, losses=()))


class Mixed(CsvLogger):
    """Writes a metric called loss among the losses."""

    def segment(self, training, segment):
        rows = [("loss", count, mean) for count, mean in segment.losses]
        rows += [(name, at, value) for at, metrics in segment.measured.items() for name, value in metrics.items()]
        self._write(training, rows)


class Keyless(CsvLogger):
    """Takes what another search logged for its own."""

    def begin(self, search):
        super().begin(search)
        with self._file.open(newline="", encoding="utf-8") as file:
            self._tail = {(search.key, *row[1:5]) for row in csv.reader(file)}


class Skipping(CsvLogger):
    """Writes loss by loss, and takes a segment for logged whose first one is."""

    def segment(self, training, segment):
        place = (self._search, training.name, str(training.trial), "loss")
        if any((*place, str(count)) in self._tail for count, _ in segment.losses[:1]):
            return
        for point in segment.losses:
            super().segment(training, replace(segment, measured={}, losses=[point]))
        super().segment(training, replace(segment, losses=[]))


class Unfinished:
    """Has no name, and lacks methods."""

    def begin(self, search):
        """Begin."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Forgetful, "the loss of trial-000000 after 1 is logged 2 times where a search was killed and went on"),
        (Numbered, "two that write to one place are named 'csv-1' and 'csv-2'"),
        (Lossless, "the loss of trial-000000 after 1 is not logged after a whole search"),
        (Mixed, "the loss of trial-000000 after 3 is logged after a whole search, and nobody told it"),
        (
            Keyless,
            "the loss of trial-000000 after 1 is logged once after two searches of different keys, and each has one of "
            "its own",
        ),
        (
            Skipping,
            "the loss of trial-000000 after 2 is not logged where a search was killed with a part of it logged, and "
            "told it again",
        ),
        (Unfinished, "a Unfinished is no Logger: it lacks a method or its name"),
    ],
)
def test_what_a_logger_does_wrong_is_found(make, said):
    with pytest.raises(AssertionError) as raised:
        check_logger(lambda folder: make(), csv_points)
    assert str(raised.value).startswith(said)
