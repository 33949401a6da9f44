"""How long MLflow's server is waited for, in whose time a search stands still."""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import pytest

from stantune.integrations.mlflow_log import MlflowLogger
from stantune.testing.loggers import FIRST, TRIAL, search_in

PATIENCE = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")


class Impatient:
    """A client of MLflow's that notes how often and how long it would try; what it is asked beyond fails."""

    found: ClassVar[list[tuple[str | None, ...]]] = []

    def __init__(self, tracking_uri):
        pass

    def get_experiment_by_name(self, name):
        self.found.append(tuple(os.environ.get(name) for name in PATIENCE))
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, *given):
        self.found.append(tuple(os.environ.get(name) for name in PATIENCE))
        raise OSError("nobody is there")


@pytest.mark.parametrize("given", [{}, {PATIENCE[0]: "9"}, dict(zip(PATIENCE, ("0", "600"), strict=True))])
def test_mlflow_s_server_is_waited_for_as_long_as_is_said_and_else_not_long(tmp_path, monkeypatch, given):
    """Whether it is installed or not; after each call the environment is as it was."""
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Impatient, entities=None))
    monkeypatch.setattr(Impatient, "found", [])
    for name in PATIENCE:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    logger = MlflowLogger()
    logger.begin(search_in(tmp_path))
    for call in (logger.training, lambda it: logger.segment(it, FIRST), lambda it: logger.ended(it, "finished")):
        assert dict(os.environ) == before
        with pytest.raises(OSError, match="nobody is there"):
            call(TRIAL)
    assert dict(os.environ) == before
    assert Impatient.found == 4 * [(given.get(PATIENCE[0], "3"), given.get(PATIENCE[1], "30"))]


def test_mlflow_s_own_client_heeds_that(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'stantune[mlflow]'")
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *given):
            pass

    # All at once, which takes it seconds else.
    for name, value in {"MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in PATIENCE:
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Exception, match="503"):
            MlflowLogger(f"http://127.0.0.1:{server.server_port}").begin(search_in(tmp_path))
        server.shutdown()
    assert len(asked) == 4, "once, and three times more"
