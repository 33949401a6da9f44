"""A setting that whoever trains has changed: the table's stays as it is, and the search ends as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import stantune as st
from stantune.objectives.told import ToldObjective
from stantune.outcome import Cost, Outcome
from stantune.protocols import Metric
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search as run
from stantune.search.settings import SearchSettings
from stantune.search.workers.executors import InProcess

SPACE = st.Space({"x": st.Float(-1, 1), "width": st.Categorical((8, 16))})


def test_one_by_ask_and_tell(tmp_path: Path) -> None:
    def opened() -> Any:
        return st.open_search(SPACE, minimize="loss", max_resource=9, out=tmp_path)

    finals = 0
    with opened() as search:
        while finals < 3 and (segment := search.ask()) is not None:
            value = segment.params["x"] ** 2 + 1 / segment.stop
            segment.checkpoint.write_text(str(segment.stop))
            segment.params.clear()
            finals += segment.final
            search.tell(segment, value)
    assert (finals, search.result.complete) == (1, True)
    assert (tmp_path / "final.pt").exists()
    told = search.result.final
    with opened() as search:
        assert search.ask() is None
    assert search.result.final == told
    assert told is not None
    assert told.params.keys() == {"x", "width"}


class Popping:
    """A trainer that takes parameters out of the setting, as one does with a dict of keywords."""

    def __init__(self) -> None:
        self.finals = 0

    def train(self, segment: st.Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        self.finals += segment.final
        params: Any = segment.params
        params.pop("width")
        segment.checkpoint.write_text("")
        return Outcome(segment.stop, {"loss": params.pop("x") ** 2}, None, False, Cost())


def test_one_that_trains_in_its_own_process(tmp_path: Path) -> None:
    objective, settings = ToldObjective("popped", SPACE, Metric("loss")), SearchSettings(0, 9, 1)
    directory, trainer = SearchDirectory(tmp_path), Popping()

    def stop_early() -> bool:
        return trainer.finals > 1

    for _ in range(2):
        with directory.locked():
            state = run(objective, settings, directory, InProcess(trainer), stop_early=stop_early)
        assert (state.complete, trainer.finals) == (True, 1)
        assert (tmp_path / "final.pt").exists()
        assert state.finals[0].params.keys() == {"x", "width"}
