"""A whole search in memory and time that cost nothing, whose table is damaged and used again."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import stantune as st
from stantune.errors import StantuneError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Metric, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.results.result import SearchResult
from stantune.search.workers.executors import InProcess
from stantune.tuning.compose import compose

SPACE = st.Space({"x": st.Float(0, 1), "n": st.Integer(1, 3), "k": st.Categorical(("a", "b", (1, 2)))})


class Trainer:
    """Errors in percent that follow from the setting; some trials diverge, and one fails for good."""

    def train(self, segment: Segment, stop_early: Any, watch: Any) -> Outcome:
        x, n = segment.params["x"], segment.params["n"]
        if 0.85 < x < 0.9:
            raise RuntimeError("it broke")
        cost = Cost(exact=segment.stop - segment.start, exact_seconds=0.5)
        if x > 0.8:
            return Outcome(segment.start + 1, {}, segment.start + 1, False, cost)
        error = round(100 * abs(x - 0.3) ** 0.5 / n ** (segment.stop / 27), 3)
        return Outcome(segment.stop, {"error": error, "loss": error / 7}, None, False, cost)


class Objective:
    """See protocols.Objective."""

    name, space, unit, length, rate = "fuzzed", SPACE, "iteration", 9, None
    metric = Metric("error", unit="%", bounds=(0, 100))

    @property
    def identity(self) -> dict[str, Any]:
        return {"problem": self.name, "code": {"f": "0"}}

    def prepared(self, conditions: Any) -> Any:
        raise NotImplementedError

    def trainer(self, place: Any) -> Trainer:
        return Trainer()


class FinishedSearch:
    """The search, its file, and what becomes of it when it goes on from that file.

    Attributes:
        sound: a copy of its file.
        file: what is damaged, and used.
    """

    def __init__(self, place: Path, url: str) -> None:
        logging.getLogger("optuna").setLevel(logging.CRITICAL)
        self.file, self._folder, self._place, self._url = place / "table-0", place, place / "search", url
        self._tried = 0
        self._objective, self._settings = compose(Objective(), max_resource=9, min_resource=1, finalists=2)
        self._result = self._run()
        self.sound = place / "sound"
        if url.startswith("sqlite"):
            with closing(sqlite3.connect(self.file)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode=DELETE")
        self.sound.write_bytes(self.file.read_bytes())
        self.fresh()
        assert self.use(legal=False) == "works"

    def _run(self) -> dict[str, Any]:
        directory = SearchDirectory(self._place, self._url.format(file=self.file))
        with directory.locked():
            state = search(self._objective, self._settings, directory, InProcess(Trainer()), retries=0)
        summary = SearchResult(self._objective, self._settings, state, directory.path, False).summary
        return json.loads(summary.model_dump_json())

    def fresh(self) -> Path:
        """Return a new copy of the file, which is what is used next; the one before may be locked for good."""
        for old in self._folder.glob(f"{self.file.name}*"):
            old.unlink()
        self._tried += 1
        self.file = self._folder / f"table-{self._tried}"
        self.file.write_bytes(self.sound.read_bytes())
        note = self._place / "search.json"
        note.write_text(json.dumps({"storage": self._url.format(file=self.file)}))
        return self.file

    def use(self, legal: bool) -> str:
        """Go on with the search; say what became of it."""
        try:
            result = self._run()
        except StantuneError as error:
            said = str(error)
            sound = said.isprintable() and len(said) < 900 and "address is right" not in said
            return "refused" if sound else f"words: {said!r}"
        if legal or told(result) == told(self._result):
            return "works"
        return f"another result without a word: {told(result)} and not {told(self._result)}"


def told(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a result names as best."""
    return {name: result[name] and (result[name]["params"], result[name]["value"]) for name in ("best", "final")}
