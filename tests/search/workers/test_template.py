"""Workers that are copies of one process: really copies, and nothing else is another for it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import MethodType

import cloudpickle
import pytest
from numbers_objective import LEFT_SECONDS, Numbers

from stantune.images.objective import ProblemObjective
from stantune.images.problem.built_in import find
from stantune.protocols import Place, Segment
from stantune.search.directory.directory import SearchDirectory
from stantune.search.loop import search
from stantune.search.settings import SearchSettings
from stantune.search.workers import workers as workers_module
from stantune.search.workers.executors import Failure, InProcess
from stantune.search.workers.order import Order
from stantune.search.workers.template import Template, TemplateCopy
from stantune.search.workers.workers import Limits, Workers
from stantune.stan.config import Stan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are copies on Linux alone")
SETTINGS = SearchSettings(seed=0, max_resource=27, min_resource=3)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBERS_MODULES", "stantune.errors")


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.usefixtures("copied")
def test_workers_are_copies_of_one_process_and_it_may_be_killed(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    directory = SearchDirectory(plain)
    with directory.locked():
        undisturbed = search(Numbers(plain), SETTINGS, directory, InProcess(Numbers(plain).order(0)))
    place = tmp_path / "copies"
    place.mkdir()
    templates: list[int] = []
    numbers = Numbers(place, pause=0.005)
    directory = SearchDirectory(place)
    with directory.locked(), Workers(numbers.order, 2) as workers:

        def kill_template() -> bool:
            living = [worker.process for worker in workers._living() if worker.ready]
            if len(living) == 2 and not templates:
                assert all(isinstance(process, TemplateCopy) for process in living)
                [template] = {parent(process.pid) for process in living if process.pid}
                assert parent(template) == os.getpid()
                templates.append(template)
                os.kill(template, signal.SIGKILL)
            return False

        state = search(numbers, SETTINGS, directory, workers, stop_early=kill_template)
    assert templates
    assert state.complete
    assert [row.errors for row in state.rows] == [row.errors for row in undisturbed.rows]
    causes = {failure.cause for row in state.rows for failure in row.failures}
    assert causes == {"its worker process was killed by SIGKILL"}


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize(
    ("fault", "cause"),
    [("kill and leave", "its worker process was killed by SIGKILL"), ("hang and leave", "its time-out")],
)
def test_a_copy_that_leaves_a_process_behind_is_seen_to_end(tmp_path: Path, fault: str, cause: str) -> None:
    segments = [Segment(number, {"lr": 0.5}, 0, 3, 0, tmp_path / "kept" / f"{number}", bracket=0) for number in (0, 1)]
    began = time.monotonic()
    try:
        with Workers(Numbers(tmp_path, {1: fault}).order, 2, Limits(seconds=3)) as workers:
            for segment in segments:
                workers.submit(segment)
            hows: dict[int, object] = {}
            while len(hows) < 2:
                ended = workers.finished(lambda: False, lambda segment, done: None)
                hows.update({each.segment.trial: each.how for each in ended})
    finally:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert time.monotonic() - began < LEFT_SECONDS - 5
    assert isinstance(hows[1], Failure)
    assert hows[1].cause.endswith(cause)


@pytest.fixture
def template() -> Iterator[Callable[[list[str]], Template]]:
    made: list[Template] = []

    def make(modules: list[str]) -> Template:
        made.append(Template(cloudpickle.dumps(Order(Numbers(), Place())), modules, shares=False))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("modules", "copied"),
    [
        ([], True),
        (["no_such_module"], True),
        (["begins_a_thread"], False),
        (["begins_a_thread_that_ends"], True),
        # On more than one core it begins some.
        (["numpy"], True),
    ],
)
def test_only_what_has_one_thread_is_copied(
    template: Callable[[list[str]], Template], modules: list[str], copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = get_context("spawn").Pipe()
    copy = template(modules).start(theirs, 0)
    theirs.close()
    wait_for(lambda: copy.pid is not None or not copy.is_alive())
    assert (copy.pid is not None) == copied
    assert (copy.refused is None) == copied
    # It leaves as the other side does, once it has said that it is there.
    if copied:
        assert ours.poll(60)
        ours.recv()
    ours.close()
    copy.join(20)
    assert copy.exitcode == 1


def leave_alone(workers: Workers) -> None:
    pass


def begin_a_thread(workers: Workers) -> None:
    workers._modules = ("begins_a_thread",)


def kill_the_template(workers: Workers) -> None:
    workers._template = Template(workers._order, (), shares=False)
    workers._template._process.kill()
    workers._template._process.join()


def kill_the_template_later(workers: Workers) -> None:
    """It dies when it has been asked for copies, of which there are none yet."""
    kept, begun = Template.start, list[TemplateCopy]()

    def start(self: Template, connection: Connection, place: int) -> TemplateCopy:
        if not begun:
            os.kill(self._process.pid or 0, signal.SIGSTOP)
        begun.append(kept(self, connection, place))
        if len(begun) == workers.capacity:
            self._process.kill()
        return begun[-1]

    workers._template = Template(workers._order, (), shares=False)
    workers._template.start = MethodType(start, workers._template)  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("trouble", "copies", "said"),
    [
        (leave_alone, True, []),
        (begin_a_thread, False, ["since it has 2 threads"]),
        (kill_the_template, True, []),
        (kill_the_template_later, False, ["since it has ended"]),
    ],
)
@pytest.mark.usefixtures("copied")
def test_what_cannot_be_copied_is_started_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Workers], None],
    copies: bool,
    said: list[str],
) -> None:
    # All are refused before any other is started; that is none that ends as it starts.
    monkeypatch.setattr(workers_module, "MOST_STILLBORN", 1)
    notes: list[str] = []
    with Workers(Numbers().order, 3, note=notes.append) as workers:
        trouble(workers)
        for number in range(3):
            workers.submit(Segment(number, {"lr": 0.5}, 0, 1, 0, tmp_path / f"{number}", bracket=0))
        ended = 0
        while ended < 3:
            ended += len(workers.finished(lambda: False, lambda segment, done: None))
        assert {isinstance(worker.process, TemplateCopy) for worker in workers._living()} == {copies}
        assert (workers._template is None) == (not copies)
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))


def test_killed_before_it_is_there(template: Callable[[list[str]], Template]) -> None:
    _, theirs = get_context("spawn").Pipe()
    copy = template([]).start(theirs, 0)
    copy.kill()
    copy.join(0)
    assert not copy.is_alive()


def test_what_is_copied_of_what() -> None:
    built_in = ProblemObjective(find("lenet"), source="lenet")
    order = Order(built_in, Place(threads=1))
    assert (order.copies, order.shares) == (True, True)
    # Others might begin threads, or draw numbers otherwise than one thread does.
    assert not Order(ProblemObjective(find("lenet")), Place(threads=1)).shares
    assert not Order(built_in, Place(threads=2)).shares
    assert not Order(built_in, Place(threads=1, device="cuda")).copies
    assert not Order(Numbers(), Place()).copies


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("copies", [True, False])
def test_bits_do_not_depend_on_how_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: bool, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    objective = ProblemObjective(find("lenet"), Stan(rate=0.5), source="lenet")
    segments = [
        Segment(number, {"lr": 0.05}, 0, 3, 7 + number, tmp_path / f"{number}.pt", bracket=0) for number in range(2)
    ]
    with Workers(Order(objective, Place(threads=threads)), 2) as workers:
        workers._copies = copies
        for segment in segments:
            workers.submit(segment)
        ended = [*workers.finished(lambda: False, lambda segment, done: None)]
        while len(ended) < 2:
            ended += workers.finished(lambda: False, lambda segment, done: None)
        assert {isinstance(worker.process, TemplateCopy) for worker in workers._living()} == {copies}
    alone = objective.trainer(Place(threads=threads))
    for segment, how in sorted(ended, key=lambda each: each.segment.trial):
        other = Segment(**{**vars(segment), "checkpoint": tmp_path / f"alone-{segment.trial}.pt"})
        assert alone.train(other, lambda: False, lambda done: None) == how
