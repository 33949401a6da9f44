"""A logger for MLflow: an experiment for what is searched, and a run for each training."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from stantune.errors import StantuneError
from stantune.search.results.columns import metric_columns
from stantune.search.table.storages.masking import without_password
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining

# Tags by which runs are found again.
SEARCH, TRAINING = "stantune.search", "stantune.training"
ENDED = "stantune.ended"
# MLflow's own limits: metrics of one call, and letters of a parameter.
_MOST = 1000
_LONGEST = 500
# By itself MLflow tries seven times more and for 120 seconds each, and the search stands still for so long.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


_waiting = threading.Lock()
# How many calls of all threads are under way, and which variables the first of them has set.
_calls = 0
_set: list[str] = []


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Have MLflow wait less for a server that is gone, where nobody has said how long; what else uses it, as before."""
    global _calls
    with _waiting:
        _calls += 1
        if _calls == 1:
            _set[:] = [name for name in _PATIENCE if name not in os.environ]
            os.environ.update({name: _PATIENCE[name] for name in _set})
    try:
        yield
    finally:
        with _waiting:
            _calls -= 1
            for name in () if _calls else _set:
                os.environ.pop(name, None)


class MlflowLogger:
    """Writes to the tracking server or store that MLflow is set to, or to the URI that it is given.

    A server that is gone is waited for until MLflow has tried four times, 30 seconds each, unless its own variables say
    otherwise.
    """

    def __init__(self, uri: str | None = None) -> None:
        """Write to a URI; raises StantuneError where MLflow is not installed."""
        try:
            from mlflow import MlflowClient, entities
        except ImportError as error:
            raise StantuneError("MLflow is not installed; pip install 'stantune[mlflow]'") from error
        # It is written and said, and a database's URI may have a password.
        self.name = "mlflow" if uri is None else f"mlflow={without_password(uri)}"
        self._uri, self._client_of, self._entities = uri, MlflowClient, entities
        self._client: Any = None
        self._experiment = self._search = ""
        self._runs: dict[str, str] = {}
        # Those that another process had begun, whose last points may be there already.
        self._begun: set[str] = set()

    @_patience()
    def begin(self, search: LoggedSearch) -> None:
        """See Logger."""
        self._client = self._client_of(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(search.name)
        self._experiment = self._client.create_experiment(search.name) if found is None else found.experiment_id
        self._search = search.key

    @_patience()
    def training(self, training: LoggedTraining) -> None:
        """See Logger."""
        run = self._run(training)
        # Between a run and its parameters a process may have been killed.
        there = self._client.get_run(run).data.params if run in self._begun else {}
        params = {_key(name): str(value)[:_LONGEST] for name, value in training.params.items()}
        left = [self._entities.Param(name, value) for name, value in params.items() if name not in there]
        if left:
            self._client.log_batch(run, params=left)

    @_patience()
    def segment(self, training: LoggedTraining, segment: LoggedSegment) -> None:
        """See Logger."""
        run, now = self._run(training), int(1000 * time.time())
        points = [("loss", count, mean) for count, mean in segment.losses]
        keys = {name: _key(name) for metrics in segment.measured.values() for name in metrics}
        columns = metric_columns(keys.values(), ["loss"])
        for iterations, metrics in segment.measured.items():
            points += [(columns[keys[name]], iterations, value) for name, value in metrics.items()]
        if run in self._begun:
            there = {
                (name, point.step)
                for name in {name for name, _, _ in points}
                for point in self._client.get_metric_history(run, name)
            }
            points = [point for point in points if point[:2] not in there]
        found = [self._entities.Metric(name, float(value), now, step) for name, step, value in points]
        for first in range(0, len(found), _MOST):
            self._client.log_batch(run, metrics=found[first : first + _MOST])

    @_patience()
    def ended(self, training: LoggedTraining, how: str) -> None:
        """See Logger."""
        run = self._run(training)
        self._client.set_tag(run, ENDED, how)
        self._client.set_terminated(run, "FAILED" if how == "failed" else "FINISHED")

    def close(self) -> None:
        """See Logger."""

    def _run(self, training: LoggedTraining) -> str:
        """Return the id of a training's run, which is made if need be."""
        if training.name not in self._runs:
            found: Sequence[Any] = self._client.search_runs(
                [self._experiment], f"tags.`{SEARCH}` = '{self._search}' and tags.`{TRAINING}` = '{training.name}'"
            )
            if found:
                run = found[0]
                self._begun.add(run.info.run_id)
            else:
                tags = {SEARCH: self._search, TRAINING: training.name}
                run = self._client.create_run(self._experiment, tags=tags, run_name=training.name)
            self._runs[training.name] = run.info.run_id
        return self._runs[training.name]


def _key(name: str) -> str:
    """Return a name as MLflow allows it: one that is allowed as it is, another with a digest of it behind.

    By the name alone: other metrics may come with the next segment, and each is to stay in the series that it has.
    """
    allowed = re.sub(r"[^\w\-. :/]", "_", name).strip("/. ")
    # MLflow reads names as paths.
    allowed = "/".join(part for part in allowed.split("/") if part.strip("."))
    if allowed and allowed == name:
        return name
    return f"{allowed or '_'}_{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
