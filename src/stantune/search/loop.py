"""The search itself: has an executor train what the session gives, and tells the session what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stantune.errors import StantuneError
from stantune.protocols import Objective
from stantune.search.directory.directory import SearchDirectory
from stantune.search.opening import open_session
from stantune.search.session import RETRIES, Session
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.telling.loggers import Logger
from stantune.search.telling.watching import Watcher
from stantune.search.workers.executors import Executor, Failure


def search(
    objective: Objective,
    settings: SearchSettings,
    directory: SearchDirectory,
    executor: Executor,
    *,
    watcher: Watcher | None = None,
    stop_early: Callable[[], bool] = lambda: False,
    retries: int = RETRIES,
    accept_changes: bool = False,
    loggers: Sequence[Logger] = (),
    say: Callable[[str], None] = lambda line: None,
) -> SearchState:
    """Run a search, or go on with the one that the directory holds, until it is done or told to stop.

    Call it under `directory.locked()`. It may be killed at any moment: what was recorded stays, and the same call goes
    on from there to the same result.

    Args:
        objective: what is searched.
        settings: what the result depends on.
        directory: where it is kept.
        executor: who trains.
        watcher: is told what happens.
        stop_early: asked often; when true the search ends in good order.
        retries: see `open_session`.
        accept_changes: see `open_session`.
        loggers: see `open_session`.
        say: see `open_session`.

    Returns:
        What it has come to.

    Raises:
        UsageError: the directory holds a search with other settings.
        StoreError: the trial table cannot be used.
        CheckpointError: a checkpoint cannot be read or is another trial's.
        StantuneError: no training can go on (a full disk), or none ever could: all of the first trials failed. Where
            nothing but the final trainings is left, the state tells it instead (`final_failure`).
    """
    with open_session(
        objective,
        settings,
        directory,
        places=executor.capacity,
        watcher=watcher,
        retries=retries,
        accept_changes=accept_changes,
        heeds=True,
        loggers=loggers,
        say=say,
    ) as session:

        def asked() -> bool:
            # Trainers ask often, also between iterations that take long.
            session.beat()
            return stop_early()

        stopped = _run(session, executor, asked)
        state = session.state
        return state._replace(complete=state.complete and not stopped)


def _run(session: Session, executor: Executor, stop_early: Callable[[], bool]) -> bool:
    """Run all that is left to do; return whether it was told to stop before."""
    try:
        return _run_all(session, executor, stop_early)
    except StantuneError as error:
        if not session.give_up(str(error)):
            raise
        return False


def _run_all(session: Session, executor: Executor, stop_early: Callable[[], bool]) -> bool:
    stopped = False
    while True:
        while not stopped and session.running < executor.capacity and session.may_begin():
            if stop_early():
                stopped = True
                break
            segment = session.ask()
            if segment is None:
                break
            executor.submit(segment)
        if not session.running:
            return stopped
        for ended in executor.finished(stop_early, session.moved):
            stopping = isinstance(ended.how, Failure) and stop_early()
            session.tell(ended.segment, ended.how, ended.elsewhere, stopping)
