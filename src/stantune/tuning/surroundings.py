"""What a search runs in: directory, device, cluster, what watches it and what ends it; or why that cannot be had."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stantune.arguments import shown
from stantune.errors import StantuneError, UsageError
from stantune.protocols import Objective
from stantune.search.directory.directory import SearchDirectory
from stantune.search.results.result import SearchResult
from stantune.search.settings import SearchSettings
from stantune.search.state import SearchState
from stantune.search.stopping import Sooner, Stop, enclosing, stoppable, stoppable_beside
from stantune.search.table import studies
from stantune.search.table.looking.look import look
from stantune.search.table.storages.masking import without_password
from stantune.search.telling.watching import Watcher
from stantune.search.workers.workers import Limits

if TYPE_CHECKING:
    from stantune.search.ray.cluster import Cluster


def check_turns(what: Objective, together: int, local: bool, limits: Limits) -> None:
    """Raise UsageError where trainings cannot take turns in a process."""
    if not getattr(what, "takes_turns", False):
        raise UsageError(
            f"`together`={together} is for Problems, whose trainings can take turns in one process, and {what.name} is "
            "none; give `workers`, processes of their own"
        )
    if not local:
        raise UsageError(
            f"`together`={together} trainings take turns in processes of this machine; leave it away, or leave "
            "`executor`"
        )
    if limits.bytes is not None:
        raise UsageError(
            f"`together`={together} trainings share the memory of a process, and `trial_memory` is for one training in "
            "a process of its own; leave one of them away"
        )


def refuse_limits(**limits: object) -> None:
    """Raise UsageError where trainings would have limits, and an executor of the user's own has their processes."""
    for parameter, value in limits.items():
        if value is not None:
            raise UsageError(
                f"`{parameter}`={shown(value)} ends trainings in processes that the search has started, and with an "
                "`executor` of your own that has them; leave it away, and have the executor end them"
            )


def check_memory(what: Objective, begun: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Raise UsageError where what STAN remembers would depend on what else the machine does; of one begun, say it."""
    stan = getattr(what, "stan", None)
    if stan is None or stan.memo is None or stan.memo.budget is not None:
        return
    would = f"each training of {what.name} would remember what fits into half of the memory that is free as it begins"
    if not begun():
        raise UsageError(
            f"{would}, and a search would come to another result each time; give each a budget: Memo(budget=BYTES)"
        )
    say(f"note: {would}, more or less by chance; a search that begins anew wants a budget: Memo(budget=BYTES)")


def say_of_kernels(what: Objective, say: Callable[[str], None]) -> None:
    """Say it where STAN trains without its native kernels, which takes several times as long."""
    if getattr(what, "stan", None) is None:
        return
    # It loads PyTorch, which a search without STAN may do without.
    from stantune.kernels.library import lack

    if lack():
        say(f"note: {lack()}")


def directory_for(path: Path, storage: str | None, checkpoints: str | None) -> SearchDirectory:
    if checkpoints is None:
        return SearchDirectory(path, storage)
    from stantune.search.ray.checkpoints import RemoteDirectory

    return RemoteDirectory(path, storage, checkpoints)


def begun_in(directory: SearchDirectory) -> Mapping[str, Any] | None:
    """Return the identity of the directory's search, None where there is none."""
    return studies.identity_of(directory.url, directory.study) if directory.may_hold_search() else None


def as_it_was(what: Objective, settings: SearchSettings, directory: SearchDirectory, fresh: bool) -> SearchResult:
    """Return what a search had come to before it was called, and was to end before it was prepared."""
    state = SearchState(settings.plan(), [], {}, what.metric, complete=False)
    if not fresh and begun_in(directory) is not None:
        seen = look(directory.path, directory.url)
        # Another objective's is another search, as the next call will say.
        if (seen.problem or what.name, seen.metric.name) == (what.name, what.metric.name):
            done, how = seen.state == "done", seen.final_training
            state = SearchState(seen.plan, seen.rows, seen.finals, seen.metric, done, final_training=how)
    unwritten = "the search was to end before its turn came to be prepared, and nothing was trained"
    if not state.complete:
        unwritten += "; it goes on later"
    return SearchResult(what, settings, state, directory.path, interrupted=not state.complete, unwritten=unwritten)


def device_for(asked: str) -> str:
    """Return the device to train on; raises UsageError where there is none such."""
    if asked == "cpu":
        return asked
    from stantune.process.runtime import device_named

    return device_named(asked)


@contextmanager
def stopping(stop: Stop | None, seconds: float | None) -> Iterator[Stop]:
    """Give what tells whether to end: the budget, and beside it the caller's, or signals.

    Signals reach the main thread alone: others hear of one where that searches, too, and may train for it. A search
    within a training hears from that.
    """
    if stop is not None:
        yield stop if seconds is None else Sooner(stop, seconds)
    elif (training := enclosing()) is not None:
        own = Stop(seconds, training.stop_early)
        try:
            yield own
        finally:
            # The KeyboardInterrupt that follows may be swallowed. One of a search that was to end alone may well be.
            if own.interrupted and training.stop_early():
                training.lost = True
    elif threading.current_thread() is threading.main_thread():
        with stoppable(seconds) as own:
            yield own
    else:
        with stoppable_beside(seconds) as own:
            yield own


def watched_by(
    watching: Callable[[], AbstractContextManager[Watcher | None]],
) -> AbstractContextManager[Watcher | None]:
    """Return what gives a watcher; raises UsageError where that is none."""
    made = watching()
    if not isinstance(made, AbstractContextManager):
        raise UsageError(f"`watching` returned {shown(made)}; have it return a context manager that gives a Watcher")
    return made


@contextmanager
def cluster_for(executor: object, address: str | None, checkpoints: str | None) -> Iterator[Cluster | None]:
    """Connect to the cluster that is asked for; give None where there is none.

    Raises:
        UsageError: what is asked for does not go together.
        StantuneError: Ray is not installed, or no cluster can be reached.
    """
    if executor == "ray":
        try:
            from stantune.search.ray.cluster import connected
        except ImportError as error:
            raise StantuneError("Ray is not installed; pip install 'stantune[ray]'") from error

        with connected(address or "auto") as cluster:
            yield cluster
        return
    if executor != "local" and not callable(executor):
        raise UsageError(f"`executor`={executor} is unknown; give local or ray")
    for parameter, value in (("address", address), ("checkpoints", checkpoints)):
        if value is not None:
            shown = without_password(value)
            raise UsageError(f"`{parameter}`={shown} is for a Ray cluster; say `executor`=ray, or leave it away")
    yield None
