"""The search's loop with trainings that take no time: order, progress, checkpoints, and ends in good order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numbers_objective import Numbers

import stantune as st
from stantune.errors import UsageError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment, best_point
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.plan.hyperband import trained_iterations
from stantune.search.plan.values import Ending, Final, FinalResult, Job, Training, training_of
from stantune.search.settings import SearchSettings, default_min_resource
from stantune.search.state import SearchState
from stantune.search.table.store import Store
from stantune.search.telling.progress import Progress, iterations_left
from stantune.search.telling.watching import Silent
from stantune.search.workers.executors import InProcess
from stantune.tuning.tune import tune

NUMBERS = Numbers()
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3)
DIVERGING = (4, 11)


class Instant:
    """Trains nothing: a trial's error grows with its number, some diverge; each job leaves a checkpoint."""

    def __init__(self, directory: SearchDirectory, diverging: tuple[int, ...] = DIVERGING) -> None:
        self.jobs: list[Training] = []
        self._directory = directory
        self._diverging = diverging

    def train(self, segment: Segment, stop_early: Callable[[], bool], watch: Callable[[int], None]) -> Outcome:
        job = training_of(segment)
        self.jobs.append(job)
        assert segment.checkpoint == self._directory.checkpoint_of(job)
        if isinstance(job, Final):
            # The better a finalist in the search, the worse in the end; the third one diverges.
            metrics = {"error": 9.0 - job.rank, "other": 2.0 + job.rank}
            return self._train(0, 27, metrics, 5 if job.rank == 2 else None, stop_early, watch)
        if job.start:
            assert segment.checkpoint.exists(), "a promoted trial's checkpoint is kept for it"
        segment.checkpoint.parent.mkdir(exist_ok=True)
        segment.checkpoint.write_text("")
        diverged_at = job.start + 1 if job.number in self._diverging else None
        error = 50.0 + job.number - job.stop
        return self._train(job.start, job.stop, {"error": error}, diverged_at, stop_early, watch)

    def _train(
        self,
        start: int,
        stop: int,
        metrics: Mapping[str, float],
        diverged_at: int | None,
        stop_early: Callable[[], bool],
        watch: Callable[[int], None],
    ) -> Outcome:
        for done in range(start + 1, stop + 1):
            if done - 1 == diverged_at:
                return Outcome(diverged_at, {}, diverged_at, False, Cost())
            watch(done)
            if done < stop and stop_early():
                return Outcome(done, {}, None, True, Cost())
        return Outcome(stop, metrics, None, False, Cost())


class Recorder(Silent):
    """Keeps what a watcher is told."""

    def __init__(self) -> None:
        self.jobs: list[Training] = []
        self.left: list[int] = []
        self.progress: Progress | None = None

    def job(self, job: Training, progress: Progress) -> None:
        self.jobs.append(job)
        self.left.append(progress.iterations_left)
        self.progress = progress

    def iteration(self, progress: Progress) -> None:
        self.left.append(progress.iterations_left)


def run(place: Path, **options: Any) -> tuple[SearchState, Instant]:
    """Run the search of nothing."""
    directory = SearchDirectory(place)
    trainer = Instant(directory, options.pop("diverging", DIVERGING))
    settings = replace(SETTINGS, finalists=options.pop("finalists", 1))
    with directory.locked():
        state = search(NUMBERS, settings, directory, InProcess(trainer), **options)
    return state, trainer


def costless(final: FinalResult) -> FinalResult:
    """The same without its cost, which is another each time."""
    return replace(final, cost=Cost())


def test_rung_after_rung_bracket_after_bracket(tmp_path: Path) -> None:
    recorder = Recorder()
    state, executor = run(tmp_path, watcher=recorder)
    assert state.complete
    assert executor.jobs == recorder.jobs
    done = [(job.bracket, job.stop, job.number) for job in executor.jobs if isinstance(job, Job)]
    assert done == [
        *((2, 3, number) for number in range(9)),
        *((2, 9, number) for number in (0, 1, 2)),
        (2, 27, 0),
        *((1, 9, number) for number in range(9, 14)),
        (1, 27, 9),
        *((0, 27, number) for number in (14, 15, 16)),
    ]
    assert executor.jobs[-1] == Final(0, 0, 27)
    assert state.final is not None
    assert state.final.params == state.rows[0].params
    assert state.final.metrics == {"error": 9.0, "other": 2.0}
    assert {row.number for row in state.rows if row.diverged_at is not None} == set(DIVERGING)
    # Only the trials that were trained to the end keep their weights.
    kept = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"trial-{number:06d}.pt" for number in (0, 9, 14, 15, 16)}


def test_no_checkpoint_is_deleted_before_its_trial_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is closed survives a power cut, after which a trial would begin anew without its checkpoint."""
    directory, close, there = SearchDirectory(tmp_path), Store.close, dict[int, bool]()

    def watched(store: Store, endings: Mapping[int, Ending]) -> None:
        for number in endings.keys() - there.keys():
            there[number] = directory.checkpoint(number).exists()
        close(store, endings)

    monkeypatch.setattr(Store, "close", watched)
    run(tmp_path)
    assert there == dict.fromkeys(range(17), True)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 5, "afterwards they are"


def test_iterations_left_count_down_to_nothing(tmp_path: Path) -> None:
    recorder = Recorder()
    run(tmp_path, watcher=recorder, diverging=())
    total = trained_iterations(SETTINGS.plan()).continued + 27
    counted = list(dict.fromkeys(recorder.left))
    assert counted == list(range(total, -1, -1)), "one less with each iteration, the final training's among them"


def test_divergence_shortens_what_is_left(tmp_path: Path) -> None:
    recorder = Recorder()
    run(tmp_path, watcher=recorder)
    assert recorder.left == sorted(recorder.left, reverse=True)
    assert recorder.left[-1] == 0
    progress = recorder.progress
    assert progress is not None
    assert (progress.trials, progress.planned, progress.running) == (17, 17, {})
    assert progress.seconds_left == 0
    assert progress.best == 23.0
    assert (progress.status.promoted, progress.status.diverged, progress.status.running) == (4, 2, 0)


def test_iterations_left_of_an_empty_table() -> None:
    assert iterations_left(SETTINGS.plan(), []) == trained_iterations(SETTINGS.plan()).continued


def test_the_best_finalist_wins(tmp_path: Path) -> None:
    recorder = Recorder()
    state, executor = run(tmp_path, finalists=3, watcher=recorder)
    best = [0, 9, 14]
    assert executor.jobs[-3:] == [Final(rank, number, 27) for rank, number in enumerate(best)]
    assert state.complete
    assert [state.finals[rank].params for rank in range(3)] == [state.rows[number].params for number in best]
    assert [state.finals[rank].diverged_at for rank in range(3)] == [None, None, 5]
    assert state.winner == 1, "the second one, though the first was better in the search"
    assert state.final == state.finals[1]
    assert recorder.left == sorted(recorder.left, reverse=True)
    assert recorder.left[-1] == 27 - 5, "told before the last one diverged"


def test_finalists_may_be_added_and_left_out_later(tmp_path: Path) -> None:
    one, _ = run(tmp_path)
    three, executor = run(tmp_path, finalists=3)
    assert executor.jobs == [Final(1, 9, 27), Final(2, 14, 27)], "the first is not trained again, nor is any trial"
    assert (one.winner, three.winner, len(three.finals)) == (0, 1, 3)
    again, executor = run(tmp_path)
    assert executor.jobs == []
    assert (again.finals, again.final) == (one.finals, one.final)
    with pytest.raises(UsageError, match="`finalists`=0 leaves no setting"):
        run(tmp_path, finalists=0)


def test_as_many_finalists_as_there_are(tmp_path: Path) -> None:
    state, executor = run(tmp_path, finalists=100)
    found = sum(isinstance(job, Final) for job in executor.jobs)
    assert found == len(state.finals) == sum(row.diverged_at is None and bool(row.errors) for row in state.rows)
    assert state.complete


def test_stopped_among_the_finalists(tmp_path: Path) -> None:
    undisturbed, _ = run(tmp_path / "undisturbed", finalists=2)
    trained = trained_iterations(SETTINGS.plan()).continued
    for patience in range(trained - 20, trained + 2 * 27 + 40, 9):
        left = patience

        def stop_early() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        place = tmp_path / f"{patience}"
        stopped, _ = run(place, finalists=2, stop_early=stop_early)
        if not stopped.complete:
            assert (stopped.winner, stopped.final) == (None, None)
        ended, _ = run(place, finalists=2)
        assert ended.complete
        assert list(map(costless, ended.finals.values())) == list(map(costless, undisturbed.finals.values()))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("patience", [0, 1, 5, 30, 100, 200, 215])
def test_stopped_and_continued(tmp_path: Path, patience: int) -> None:
    undisturbed, _ = run(tmp_path / "undisturbed")
    left = patience

    def stop_early() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    stopped, _ = run(tmp_path / "stopped", stop_early=stop_early)
    assert not stopped.complete
    assert stopped.final is None
    ended, _ = run(tmp_path / "stopped")
    again, executor = run(tmp_path / "stopped")
    assert executor.jobs == [], "nothing is left to do"
    for state in (ended, again):
        assert state.complete
        assert [(row.params, row.errors, row.diverged_at) for row in state.rows] == [
            (row.params, row.errors, row.diverged_at) for row in undisturbed.rows
        ]


def test_nothing_found(tmp_path: Path) -> None:
    state, executor = run(tmp_path, diverging=tuple(range(17)))
    assert (state.complete, state.final) == (True, None)
    assert None not in executor.jobs
    assert not list((tmp_path / "checkpoints").iterdir())


def test_default_min_resource() -> None:
    assert default_min_resource(10_000, 3) == 123
    assert len(SearchSettings(0, 10_000, default_min_resource(10_000, 3)).plan()) == 5
    assert default_min_resource(300, 3) == 25
    assert [default_min_resource(whole, 3) for whole in (75, 74, 60, 10, 3)] == [25, 24, 20, 3, 1]
    assert [default_min_resource(whole, 3) for whole in (2, 1)] == [1, 1], "there is no room for two rungs"
    assert default_min_resource(10, 3, "epoch") == 1, "an epoch may be the shortest rung there is"
    assert default_min_resource(243, 3, "epoch") == 3


def test_settings_that_cannot_be_had() -> None:
    with pytest.raises(
        UsageError, match="`max_resource`=28 is out of reach: a training of numbers is 27 iterations long"
    ):
        SearchSettings(0, 28, 3).check(NUMBERS)
    with pytest.raises(UsageError, match="`sampler`='grid' is unknown; give random"):
        SearchSettings(0, 27, 3, sampler="grid").check(NUMBERS)


@pytest.mark.parametrize("held", [{1, 2}, Path("x"), b"x"], ids=["set", "path", "bytes"])
def test_an_identity_that_is_no_json_is_refused(tmp_path: Path, held: object) -> None:
    """It says what is wrong, and not that the table is damaged."""
    with pytest.raises(
        UsageError, match=r"the identity of numbers holds what JSON does not take \(TypeError: .*\); give plain values"
    ):
        tune(Numbers(other={"held": held}), max_resource=27, out=tmp_path / "search")
    # Mended, it begins there.
    assert tune(Numbers(), max_resource=27, brackets=1, out=tmp_path / "search").complete


def in_percent(run: st.Run) -> dict[str, float]:
    run.report({"accuracy": 0.5})
    return {"accuracy": 57.0 if run.params["x"] > 0.3 else run.params["x"]}


def test_a_value_beyond_the_bounds_fails_its_trial_alone(tmp_path: Path) -> None:
    metric = st.Metric("accuracy", "maximize", bounds=(0, 1))
    objective = st.FunctionObjective(in_percent, st.Space({"x": st.Float(0, 1)}), metric)
    for _ in range(2):
        # Twice: what is in the table is believed.
        found = tune(objective, max_resource=9, out=tmp_path)
        assert found.complete
        assert found.best is not None
        assert found.best.value is not None
        assert found.best.value <= 0.3
        for trial in found.trials():
            assert (trial.status == "failed") == (trial.params["x"] > 0.3)
    [cause] = {trial.cause for trial in found.trials() if trial.status == "failed"}
    assert cause == (
        "accuracy came to 57, and the accuracy is from 0 to 1; return one of these, or give the metric other `bounds`"
    )


def nearly(run: st.Run) -> dict[str, float]:
    for _ in run.steps():
        run.report({"accuracy": 1.0000001})
    return {"accuracy": 1.0000001 if run.params["x"] > 0.3 else -1e-7}


def test_a_value_that_is_rounded_to_beyond_a_bound_is_the_bound(tmp_path: Path) -> None:
    space = st.Space({"x": st.Float(0, 1)})
    for bounds in ((0.0, 1.0), (-1.0, float("inf"))):
        # What was written before there were bounds is believed, too.
        objective = st.FunctionObjective(nearly, space, st.Metric("accuracy", "maximize", bounds=bounds))
        found = tune(objective, max_resource=9, out=tmp_path / str(bounds[1]))
        assert found.final is not None
        assert {trial.status for trial in found.trials()} <= {"dropped", "finished"}
        values = {found.final.value, *(trial.value for trial in found.trials())}
        assert values == ({0.0, 1.0} if bounds[1] == 1 else {-1e-7, 1.0000001})
    objective = st.FunctionObjective(nearly, space, st.Metric("accuracy", "maximize", bounds=(0, 1)))
    assert tune(objective, max_resource=9, out=tmp_path / "inf").complete


@pytest.mark.parametrize(
    ("bounds", "value", "within"),
    [
        ((0, 1), -1e-7, 0),
        ((0, 1), 1 + 2e-6, 1 + 2e-6),
        ((-math.inf, 1), 1.0000001, 1),
        ((-math.inf, 1), -1e300, -1e300),
        ((0, math.inf), -1e-7, 0),
        ((0, math.inf), -1e-5, -1e-5),
        ((100, math.inf), 99.99999, 100),
        ((-math.inf, math.inf), math.inf, math.inf),
    ],
)
def test_what_is_rounded_is_a_millionth(bounds: tuple[float, float], value: float, within: float) -> None:
    assert st.Metric("a", bounds=bounds).within(value) == within


def test_what_is_rounded_is_as_good_as_the_bound_for_those_who_train_and_for_the_table() -> None:
    metric = st.Metric("accuracy", "maximize", bounds=(0, 1))
    curve = {3: {"accuracy": 1.0000001}, 4: {"accuracy": 1.0}, 5: {"accuracy": 0.99}}
    within = {at: {"accuracy": metric.within(measured["accuracy"])} for at, measured in curve.items()}
    assert best_point(metric, curve) == best_point(metric, within) == 4


def test_what_is_beyond_the_bounds_on_the_way_of_a_final_training(tmp_path: Path) -> None:
    metric = st.Metric("accuracy", "maximize", bounds=(0, 1))

    def train(run: st.Run) -> float:
        for step in run.steps():
            run.report({"accuracy": 57.0 if run.final and step == 1 else 0.5})
        return 0.5

    objective = st.FunctionObjective(train, st.Space({"x": st.Float(0, 1)}), metric)
    for _ in range(2):
        found = tune(objective, max_resource=9, out=tmp_path)
        assert found.best is not None
        assert found.final is None
