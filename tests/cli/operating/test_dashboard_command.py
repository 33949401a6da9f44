"""`stantune dashboard`: a real server shows a search that runs, and changes nothing; what is wrong is one sentence."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stantune.outcome import Cost
from stantune.parameters import Float
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.plan.values import FinalResult
from stantune.search.table.looking import dashboard as module
from stantune.search.table.store import Store
from stantune.space import Space

Stantune = Callable[..., Any]
SPACE = Space({"lr": Float(0.1, 10.0)})


@pytest.fixture
def begun(tmp_path: Path) -> SearchDirectory:
    """The directory of a search that has just begun."""
    directory = SearchDirectory(tmp_path / "search")
    with directory.locked(), Store.open(directory.url, directory.study, {"seed": 0}, SPACE, Metric("error")):
        directory.note_storage()
    return directory


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """A server called box.example, by its port, and the page of its search."""
    directory = SearchDirectory(tmp_path_factory.mktemp("served") / "search")
    with directory.locked(), Store.open(directory.url, directory.study, {"seed": 0}, SPACE, Metric("error")):
        directory.note_storage()
    with pytest.MonkeyPatch.context() as patch:
        make = module.make_server
        patch.setattr(module, "make_server", lambda host, *rest: make("127.0.0.1", *rest))
        with module.serving(directory.path, None, "box.example", 0) as server:
            site = urlsplit(server.url)
            assert (site.hostname, site.port is not None) == ("box.example", True)
            serve = threading.Thread(target=server._server.serve_forever)
            serve.start()
            yield site.port or 0, site.path
            server._server.shutdown()
            serve.join()


def asked(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
        return answer.read()


@pytest.mark.parametrize("storage", [None, pytest.param("journal", marks=pytest.mark.slow)])
def test_shows_a_search_that_runs(tmp_path: Path, storage: str | None) -> None:
    directory = SearchDirectory(tmp_path / "search", storage and f"journal:///{tmp_path / 'table.log'}")
    identity = {"problem": "lenet", "unit": "epoch", "max-iterations": 9, "seed": 0}
    with directory.locked(), Store.open(directory.url, directory.study, identity, SPACE, Metric("error")) as store:
        # As the search's loop does it.
        directory.note_storage()
        for number in range(3):
            store.create(number, {"lr": 0.1 + number}, 2)
        store.record(0, 3, {"error": 50.0})
        command = [sys.executable, "-m", "stantune", "dashboard", str(directory.path), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                _look_around(directory, store, process)
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 0
            finally:
                process.kill()


def _look_around(directory: SearchDirectory, store: Store, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"the search in {directory.path} is at http://127.0.0.1:")
    page = line.split(" is at ")[1].split(";")[0]
    site, _, study = page.partition("/dashboard/studies/")
    assert b"<title>Optuna Dashboard</title>" in asked(page)
    _look_as_a_browser_does(f"{page}/trials", directory.path.with_name("browser"))

    # In a storage of several searches, the directory tells them apart.
    title = "lenet, error, up to 9 epochs, seed 0" + ("" if directory.study == "search" else f", in {directory.path}")

    def look() -> Any:
        return json.loads(asked(f"{site}/api/studies/{study}"))

    def shown() -> list[tuple[int, str, dict[int, float]]]:
        (summary,) = json.loads(asked(f"{site}/api/studies"))["study_summaries"]
        assert (str(summary["study_id"]), summary["study_name"]) == (study, title)
        found = look()
        assert (found["name"], found["objective_names"]) == (title, ["error"])
        return [
            (trial["number"], trial["state"], {at["step"]: at["value"] for at in trial["intermediate_values"]})
            for trial in found["trials"]
        ]

    assert shown() == [(0, "Running", {3: 50.0}), (1, "Running", {}), (2, "Running", {})]
    for method, what in (("DELETE", study), ("POST", f"{study}/rename"), ("PUT", f"{study}/note")):
        with pytest.raises(urllib.error.HTTPError, match="405"):
            asked(f"{site}/api/studies/{what}", method)
    store.record(1, 3, {"error": 40.0})
    store.record(0, 9, {"error": 30.0})
    store.record_divergence(2, 3, 1)
    store.close({1: "dropped", 2: "diverged"})
    # The dashboard itself looks at the table every ten seconds.
    end, expected = (
        time.monotonic() + 60,
        [(0, "Running", {3: 50.0, 9: 30.0}), (1, "Pruned", {3: 40.0}), (2, "Pruned", {})],
    )
    while shown() != expected:
        assert time.monotonic() < end, shown()
        time.sleep(0.2)
    # A diverged trial is told from a dropped one, as one reads it.
    attributes = [{each["key"]: each["value"] for each in trial["user_attrs"]} for trial in look()["trials"]]
    assert [of.get("outcome") for of in attributes] == [None, "dropped", "diverged at epoch 1"]
    assert {of["bracket"] for of in attributes} == {"2"}
    before = look()["note"]
    assert "| seed | 0 |" in before["body"]
    assert "| lr | " in before["body"]
    store.set_final(0, FinalResult({"lr": 0.1}, 9, {"error": 12.5}, None, Cost()))
    after = look()["note"]
    assert after["version"] > before["version"]
    assert "**error 12.5** after 9 epochs. Weights: final.pt." in after["body"]
    assert json.loads(asked(f"{site}/api/studies/{study}/plot/edf"))


def _look_as_a_browser_does(page: str, profile: Path) -> None:
    """Let a browser without a window draw the page, where one is installed; the page's programs fill it in."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return
    options = f"--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir={profile}"
    drawn = subprocess.run(
        [browser, *options.split(), "--virtual-time-budget=15000", "--dump-dom", page],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "lenet, error, up to 9 epochs, seed 0" in drawn
    assert "3 Trials" in drawn
    assert all(f"Trial {number}" in drawn for number in range(3))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "127.0.0.1:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "192.168.0.7"}, 200),
        ({"Host": "box.example"}, 200),
        ({"Host": "box.example:81"}, 200),
        ({"Host": "localhost:81", "Origin": "http://localhost:81"}, 200),
        ({"Host": "rebound.example:{port}"}, 403),
        ({"Host": "localhost.rebound.example"}, 403),
        ({"Host": "127.0.0.1.rebound.example"}, 403),
        ({"Host": "rebound.example", "Origin": "http://rebound.example"}, 403),
        ({"Host": "a@localhost.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": ""}, 403),
        ({}, 403),
        ({"Host": "localhost:81", "Origin": "http://localhost:82"}, 403),
        ({"Host": "127.0.0.1", "Origin": "https://10.1.2.3"}, 403),
        ({"Host": "127.0.0.1", "Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answers_to_its_own_names_and_pages_alone(
    served: tuple[int, str], method: str, headers: dict[str, str], status: int
) -> None:
    port, page = served
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.putrequest(method, page, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value.format(port=port))
        connection.endheaders()
        answer = connection.getresponse()
        expected = status if method == "GET" or status == 403 else 405
        assert (answer.status, answer.getheader("Access-Control-Allow-Origin")) == (expected, None)
        said = json.loads(answer.read()) if expected != 200 else {}
    if expected == 403:
        refusals = (" is no name of this server; give localhost", " is another site than ")
        assert any(refusal in said["reason"] for refusal in refusals)


def test_no_search_there(tmp_path: Path, stantune: Stantune) -> None:
    run = stantune("dashboard", tmp_path / "nowhere", "--port", 0)
    assert (run.code, run.out) == (2, "")
    assert (
        run.err
        == f"stantune: there is no search in {tmp_path / 'nowhere'}; give the directory of one, as --out named it\n"
    )
    assert not (tmp_path / "nowhere").exists()


def test_a_journal_that_is_gone_is_not_made_anew(tmp_path: Path, stantune: Stantune) -> None:
    (tmp_path / "search.json").write_text(json.dumps({"storage": f"journal:///{tmp_path / 'table.log'}"}))
    run = stantune("dashboard", tmp_path, "--port", 0)
    assert run.code == 2
    assert "there is no search in" in run.err
    assert os.listdir(tmp_path) == ["search.json"]


def test_port_that_is_taken(begun: SearchDirectory, stantune: Stantune) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = stantune("dashboard", begun.path, "--port", port)
    assert run.code == 1
    assert run.err == (
        f"stantune: --host 127.0.0.1 --port {port} cannot be listened on (Address already in use); give another "
        "--port, or 0 for any that is free\n"
    )


def test_extra_that_is_missing(begun: SearchDirectory, stantune: Stantune, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    run = stantune("dashboard", begun.path)
    assert run.code == 1
    assert run.err == "stantune: the dashboard is not installed; pip install 'stantune[dashboard]'\n"
