"""Kills commands again and again, with all that they run, and tells whether it ends as if nothing had been.

    python -m benchmarks.robustness.soak_command [--way all] [--kills 50] [--seed 0]

SIGKILL at random moments, mostly to a command's whole process group, and the same command again: `stantune search` as
it starts, with `--fresh` over a search that is there, in its final trainings, with `--workers 2`, without and with
`--together 3`; and `stantune data fetch`. In the end table, result, weights and the names of all files must be those of
a command that nothing happened to, files of others must be what they were, and no process and no temporary file may be
left over. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import http.server
import importlib
import json
import math
import os
import random
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna

from benchmarks.robustness import soaked
from benchmarks.robustness.outcomes import content_of
from benchmarks.robustness.processes import Process, family, fork, line_of
from stantune.cli import main as stantune
from stantune.images.data.fetching import catalog
from stantune.search.table.storages.opening import sqlite_url

PROBLEM = Path(__file__).parents[2] / "tests" / "tiny_problem.py"
SEARCH = ("search", f"{PROBLEM}:problem", "--finalists", "2", "--max-iterations", "27", "--min-iterations", "3")
# A worker that is just starting up looks for its parent when it has imported PyTorch.
LEFT_SECONDS = 60.0
# What other programs have in the directory of a search that --fresh deletes.
FOREIGN = ("notes.txt", "final-report.pt", "checkpoints/mine.pt", "trial-000001.pt.backup")
# Of the data set: so many bytes are sent at a time, with pauses.
PIECE, PAUSE_SECONDS = 4096, 0.002


class Way(NamedTuple):
    """A way to kill a command.

    Attributes:
        sign: files of these names, by their beginning, are waited for to change; then comes the kill. None: it comes at
            any time after the start.
        waits: from there, the shortest and the longest one in seconds; after a sign, short ones are as likely.
        options: of the command.
        fresh: whether it mostly has --fresh, too.
        bare: whether it is started as by a shell, its imports included; others are forked, with all imported.
    """

    sign: tuple[str, ...] | None
    waits: tuple[float, float]
    options: tuple[str, ...] = ()
    fresh: bool = False
    bare: bool = False


ANY = ("",)
WAYS = {
    "start": Way(None, (0.05, 6.0), bare=True),
    "fresh": Way(ANY, (0.0003, 1.5), fresh=True),
    "final": Way(("final", ".final", "best", ".best", "result", ".result"), (0.0003, 1.0)),
    "workers": Way(("trial", ".trial"), (0.001, 2.0), ("--workers", "2"), bare=True),
    "turns": Way(("trial", ".trial"), (0.001, 2.0), ("--workers", "2", "--together", "3"), bare=True),
    "fetch": Way(ANY, (0.0003, 0.5)),
}


class Place(NamedTuple):
    """Where a command does its work, and how it is called.

    Attributes:
        path: the directory that it writes to.
        command: its arguments.
        told: returns all that must be the same in the end.
    """

    path: Path
    command: tuple[str, ...]
    told: Callable[[Path], dict[str, Any]]


def searching(path: Path, seed: int) -> Place:
    """Return a search in a directory."""
    return Place(path, (*SEARCH, "--threads", "1", "--seed", str(seed), "--out", str(path)), told_of_search)


def told_of_search(path: Path) -> dict[str, Any]:
    """Return what a search has come to: result, table, weights, names of files."""
    study = optuna.load_study(study_name="search", storage=sqlite_url(path / "search.db"))
    rows = [
        (each.number, each.params, each.values, each.intermediate_values, each.state.name, timeless(each.user_attrs))
        for each in study.trials
    ]
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*"))
    return {
        "result": timeless(json.loads((path / "result.json").read_text())),
        "rows": rows,
        "attributes": timeless(study.user_attrs),
        "weights": {file.name: content_of(file) for file in sorted(path.glob("*.pt")) if file.name not in FOREIGN},
        "files": [name for name in names if name not in FOREIGN and not name.endswith(("-wal", "-shm"))],
    }


def timeless(value: Any) -> Any:
    """Return a value without what is another one each time: times, and digests of files that say what they took."""
    if isinstance(value, dict):
        return {
            key: timeless(each)
            for key, each in value.items()
            if not key.endswith(("seconds", "digest")) and key != "saved"
        }
    return [timeless(each) for each in value] if isinstance(value, list) else value


def told_of_fetch(path: Path) -> dict[str, Any]:
    """Return what a fetch has brought."""
    files = [file for file in path.rglob("*") if file.is_file() and file.name not in FOREIGN]
    return {
        "files": sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.name not in FOREIGN),
        "contents": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }


def fetching(path: Path) -> Place:
    """Return a fetch into a directory, of a data set that is registered here."""
    return Place(path, ("data", "fetch", "soaked", "--data", str(path)), told_of_fetch)


def register(seed: int) -> None:
    """Make a data set of noise, and a slow server for it."""
    draw = np.random.default_rng(seed)
    contents, files = {}, []
    for part, count in (("train", 100), ("test", 50)):
        for kind, shape in (("images", (count, 20, 20)), ("labels", (count,))):
            values = draw.integers(0, 10, shape, dtype=np.uint8)
            name = f"{part}-{kind}"
            content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *shape) + values.tobytes()
            files.append(catalog.DataFile(name, part, kind, shape, hashlib.sha256(content).hexdigest()))  # type: ignore[arg-type]
            contents[f"/{name}.gz"] = gzip.compress(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = contents[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for start in range(0, len(body), PIECE):
                self.wfile.write(body[start : start + PIECE])
                time.sleep(PAUSE_SECONDS)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # whoever asked has been killed
                super().handle()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    catalog.DATASETS["soaked"] = catalog.Description(
        "soaked", "soaked", 10, tuple(files), official=f"http://127.0.0.1:{server.server_port}/"
    )


def begin(command: tuple[str, ...], said: Path, bare: bool) -> int:
    """Start a command in a process group of its own; `bare` as a shell does, and forked from here otherwise."""
    if bare:
        with said.open("ab") as log:
            line = [sys.executable, "-m", "stantune", *command]
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True).pid

    def body() -> None:
        os.setsid()
        sys.argv = ["stantune", *command]
        try:
            stantune()
        except SystemExit as end:
            if end.code:
                raise

    return fork(body, said)


def ended(process: int) -> int | None:
    """Return how a process ended; None where it runs."""
    found, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def written(path: Path, sign: tuple[str, ...]) -> set[tuple[str, int]]:
    """Return the files with such names, and the times at which they were written."""
    found = set()
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                if name.startswith(sign) and name != ".lock":
                    found.add((name, os.stat(Path(folder, name)).st_mtime_ns))
    return found


class Soak:
    """Kills commands of one way, and counts.

    Attributes:
        kills: commands that were killed.
        groups: of these, with their whole group; others by themselves.
        ends: commands that got to their end, all of which are looked at.
        different: of these, those that ended otherwise than they should have.
        left: processes and temporary files that outlived a command.
    """

    def __init__(self, way: Way, mark: str, seed: int, directory: Path) -> None:
        self.kills = self.groups = self.ends = self.different = self.left = 0
        self._way = way
        self._mark = mark
        self._moments = random.Random(seed)
        self._directory = directory
        self._expected: dict[str, Any] = {}
        self._foreign: list[Path] = []
        directory.mkdir()

    def run(self, kills: int, made: Callable[[Path], Place]) -> None:
        """Kill so many commands, in directory after directory, and have the last one come to its end."""
        undisturbed = made(self._directory / "undisturbed")
        # Started as the others are: what is forked has other last bits than what a shell starts, workers included.
        if os.waitpid(begin(undisturbed.command, self._said(undisturbed), self._way.bare), 0)[1]:
            sys.exit(f"{self._said(undisturbed).read_text()}\nan undisturbed command failed")
        self._expected, number = undisturbed.told(undisturbed.path), 0
        while True:
            number += 1
            place = made(self._directory / f"{number}")
            if self._way.fresh:
                # What is deleted is a whole search to begin with.
                self._to_the_end(place)
                self._foreign = [place.path / name for name in FOREIGN]
                for file in self._foreign:
                    file.write_text(file.name)
            self._disturb(place, kills)
            if self.kills == kills:
                self._to_the_end(place)
                return

    def _disturb(self, place: Place, kills: int) -> None:
        """Kill a command until it gets to its end, or so many have been killed."""
        while self.kills < kills:
            fresh = self._way.fresh and self._moments.random() < 0.7
            command = (*place.command, *self._way.options, *(("--fresh", "--yes") if fresh else ()))
            before = None if self._way.sign is None else written(place.path, self._way.sign)
            process, code = begin(command, self._said(place), self._way.bare), None
            least, most = self._way.waits
            until = math.inf if before is not None else time.monotonic() + self._moments.uniform(least, most)
            while code is None and time.monotonic() < until:
                if until == math.inf and written(place.path, self._way.sign or ()) != before:
                    wait = math.exp(self._moments.uniform(math.log(least), math.log(most)))
                    until = time.monotonic() + wait
                time.sleep(0.0002)
                code = ended(process)
            if code is None:
                self._kill(process)
            else:
                self._look(place, code)
                if not self._way.fresh:
                    return

    def _kill(self, process: int) -> None:
        alone = self._moments.random() < 0.25
        (os.kill if alone else os.killpg)(process, signal.SIGKILL)
        os.waitpid(process, 0)
        self.kills += 1
        self.groups += not alone
        self._see_off()

    def _to_the_end(self, place: Place) -> None:
        process = begin((*place.command, *self._way.options), self._said(place), self._way.bare)
        self._look(place, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

    def _look(self, place: Place, code: int) -> None:
        """Compare what a command that has ended has come to with what it should have."""
        self.ends += 1
        self._see_off()
        if code:
            sys.exit(f"{self._said(place).read_text()}\na command failed with exit code {code}")
        found = place.told(place.path)
        differing = [name for name in self._expected if found[name] != self._expected[name]]
        lost = [file.name for file in self._foreign if not file.exists() or file.read_text() != file.name]
        self.different += bool(differing or lost)
        for name in differing:
            print(f"{place.path.name}: {name}: {found[name]}\n{self._expected[name]}", file=sys.stderr)
        for name in lost:
            print(f"{place.path.name}: {name} is not what it was", file=sys.stderr)
        for name in os.listdir(tempfile.gettempdir()):
            self.left += 1
            print(f"left over: {name}", file=sys.stderr)
            target = Path(tempfile.gettempdir(), name)
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    def _see_off(self) -> None:
        """Have what a command that has ended had running go; count what does not."""
        until = time.monotonic() + LEFT_SECONDS
        alive: dict[Process, str] = family(soaked.OFTEN, self._mark)
        while alive and time.monotonic() < until:
            time.sleep(0.01)
            alive = family(soaked.OFTEN, self._mark)
        for process in alive:
            self.left += 1
            print(f"left over: {line_of(process.number)!r}", file=sys.stderr)
            os.kill(process.number, signal.SIGKILL)

    def _said(self, place: Place) -> Path:
        return place.path.with_suffix(".said")


def main() -> None:
    """Print a line of figures for each way; the exit code tells whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=[*WAYS, "all"], default="all")
    parser.add_argument("--kills", type=int, default=50, help="of each way")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mark = os.environ[soaked.OFTEN] = secrets.token_hex(8)
    # What commands import sooner or later, so that those that are forked live on their work.
    for module in (
        "cli.data",
        "cli.training.search",
        "images.objective",
        "objectives.choose",
        "report.live",
        "report.text",
    ):
        importlib.import_module(f"stantune.{module}")
    importlib.import_module("stantune.tuning.tune")
    importlib.import_module("torch._dynamo")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    register(arguments.seed)
    print("| way | kills | with the whole group | came to the end | left over | different | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    good = True
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.environ["TMPDIR"] = tempfile.tempdir = str(directory / "tmp")
        Path(tempfile.tempdir).mkdir()
        for each in WAYS if arguments.way == "all" else [arguments.way]:
            way, began = WAYS[each], time.monotonic()
            made = fetching if each == "fetch" else partial(searching, seed=arguments.seed)
            soak = Soak(way, mark, arguments.seed, directory / each)
            soak.run(arguments.kills, made)
            good &= not (soak.left or soak.different)
            figures = [soak.kills, soak.groups, soak.ends, soak.left, soak.different, round(time.monotonic() - began)]
            print("|", " | ".join([each, *map(str, figures)]), "|", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
