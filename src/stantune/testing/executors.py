"""Whether an executor does all that a search asks of one: `check_executor(make)`, or one of `CHECKS` at a time."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from stantune.errors import DamagedCheckpointError, StantuneError
from stantune.files import write_whole
from stantune.loss_curve import LossCurve
from stantune.outcome import Cost, Outcome
from stantune.parameters import Categorical, Integer
from stantune.protocols import Conditions, Metric, Place, Prepared, Segment, StopEarly
from stantune.search.workers.executors import Ended, Executor, Failure, Watch
from stantune.search.workers.order import Order
from stantune.space import Space
from stantune.testing.asserting import require_assertions
from stantune.training.together.turns import drained

MakeExecutor: TypeAlias = "Callable[[Order], Executor | AbstractContextManager[Executor]]"

# For all segments of a check together; a search would wait for ever.
SECONDS = 120.0


@dataclass(frozen=True)
class Counting:
    """An objective that needs nothing and takes no time: it counts to `stop`, and does what a setting's `deed` says.

    Attributes:
        pause: seconds of a step.
    """

    pause: float = 0.0
    name: str = "counting"
    unit: str = "step"
    length: int | None = None
    takes_turns: bool = True

    @property
    def space(self) -> Space:
        """A number, and what happens."""
        return Space({"x": Integer(0, 10**6), "deed": Categorical(("count", "raise", "hopeless", "damaged", "broken"))})

    @property
    def metric(self) -> Metric:
        """A hash of the number."""
        return Metric("loss")

    @property
    def rate(self) -> float | Literal["auto"] | None:
        """Nothing is approximate."""
        return None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"problem": self.name}

    def prepared(self, conditions: Conditions) -> Prepared:
        """See Objective."""
        return Prepared(self, 1)

    def trainer(self, place: Place) -> CountingTrainer:
        """See Objective."""
        return CountingTrainer(self.pause)


class _HopelessError(RuntimeError):
    """The same mistake would be made once more."""

    again = False


class CountingTrainer:
    """Counts; see protocols.Trainer. Its checkpoint holds how far it is."""

    def __init__(self, pause: float) -> None:
        self._pause = pause

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer."""
        return drained(self.turns(segment, stop_early, watch))

    def turns(
        self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]
    ) -> Generator[None, None, Outcome]:
        """See protocols.TakesTurns."""
        done = 0
        if segment.checkpoint.exists():
            try:
                done = int(segment.checkpoint.read_text())
            except ValueError as error:
                raise DamagedCheckpointError(f"{segment.checkpoint} is damaged; delete it") from error
        while done < segment.stop:
            time.sleep(self._pause)
            deed = segment.params["deed"]
            if deed == "raise":
                raise RuntimeError("these shapes do not fit")
            if deed == "hopeless":
                raise _HopelessError("there is no such layer")
            if deed == "damaged":
                raise DamagedCheckpointError("the checkpoint is damaged; delete it")
            if deed == "broken":
                raise StantuneError("the disk is full; make room")
            done += 1
            write_whole(segment.checkpoint, str(done).encode())
            watch(done)
            if done < segment.stop and stop_early():
                return Outcome(done, {}, None, True, Cost(exact=done))
            yield
        return _whole(segment)


def check_executor(make: MakeExecutor) -> None:
    """Check an executor in all that is asked of one.

    Args:
        make: returns a new executor of what an Order trains, or a context manager that gives one, as
            `tune(executor=make)` takes it; it is called several times. Of an executor's workers the files of this one's
            temporary folder must be seen.

    Raises:
        AssertionError: says in a sentence what it does that it should not.
        UsageError: Python was told to leave assertions out.
    """
    require_assertions()
    for check in CHECKS:
        check(make)


def check_all_come_back(make: MakeExecutor) -> None:
    """Check that each submitted segment comes back once, with its own outcome, however many there are."""
    with _made(make, Counting()) as (executor, where):
        todo = [_segment(where, number) for number in range(12)]
        ended = _run(executor, todo)
    assert sorted(one.segment.trial for one in ended) == list(range(12)), (
        f"of 12 submitted segments those of the trials {sorted(one.segment.trial for one in ended)} came back; each is "
        "to come back once"
    )
    for one in ended:
        assert one.segment == todo[one.segment.trial], f"{one.segment} came back, and was not submitted"
        _check_whole(one)


def check_going_on(make: MakeExecutor) -> None:
    """Check that a trial's second segment goes on from the checkpoint of its first one, wherever that was trained."""
    with _made(make, Counting()) as (executor, where):
        _run(executor, [_segment(where, number, 0, 2) for number in range(4)])
        for one in _run(executor, [_segment(where, number, 2, 5) for number in range(4)]):
            _check_whole(one)


def check_all_fields(make: MakeExecutor) -> None:
    """Check that trainings are given all that a segment says, on the way to a rung and in the end."""
    with _made(make, Counting()) as (executor, where):
        rung = replace(_segment(where, 0), bracket=3, rates=((0, 0.25), (3, 0.5)), length=81, validation_share=0.25)
        final = replace(_segment(where, 1), bracket=None, finalist=2, length=5, points=(1, 3), best=where / "best-3.pt")
        for one in _run(executor, [rung, final]):
            _check_whole(one)


def check_failures(make: MakeExecutor) -> None:
    """Check that what a training raises comes back as a Failure that says so, and others are trained nevertheless."""
    deeds = ("raise", "count", "damaged", "count", "raise", "count", "hopeless")
    with _made(make, Counting()) as (executor, where):
        ended = _run(executor, [_segment(where, number, deed=deed) for number, deed in enumerate(deeds)])
    assert sorted(one.segment.trial for one in ended) == list(range(len(deeds))), (
        "where some trainings raise, not all segments come back once"
    )
    for one in ended:
        deed, how = one.segment.params["deed"], one.how
        if deed == "count":
            _check_whole(one)
            continue
        assert isinstance(how, Failure), f"a training that raised came back as {how!r}, not as a Failure"
        if deed == "raise":
            assert "these shapes do not fit" in how.cause, f"a training's exception came back as {how.cause!r} alone"
        assert how.damaged == (deed == "damaged"), (
            f"damaged={how.damaged} came back of a training whose checkpoint is {'' if deed == 'damaged' else 'not '}"
            "damaged"
        )
        assert how.again == (deed != "hopeless"), (
            f"again={how.again} came back of a training whose exception has {'' if deed == 'hopeless' else 'no '}"
            "`again = False`"
        )


def check_what_meets_all(make: MakeExecutor) -> None:
    """Check that a StantuneError of a training, which would meet all of them, is raised and not a Failure."""
    with _made(make, Counting()) as (executor, where):
        try:
            ended = _run(executor, [_segment(where, 0, deed="broken")])
        except StantuneError as error:
            said = str(error)
        else:
            raise AssertionError(f"a training raised StantuneError, and {ended[0].how!r} came back; it is to be raised")
        assert "the disk is full" in said, f"a training's StantuneError was raised as {said} alone"


def check_watching(make: MakeExecutor) -> None:
    """Check that it is told how far segments are."""
    told: list[tuple[int, int]] = []
    with _made(make, Counting(pause=0.3)) as (executor, where):
        _run(executor, [_segment(where, 7)], watch=lambda segment, done: told.append((segment.trial, done)))
    assert told, "nothing was told of a segment of 1.5 seconds on its way; pass on what trainings tell"
    assert all(trial == 7 and 0 <= done <= 5 for trial, done in told), f"of trial 7, which counts to 5, {told} was told"
    assert [done for _, done in told] == sorted(done for _, done in told), f"{told} was told, which goes back"


def check_stopping(make: MakeExecutor) -> None:
    """Check that segments end in good order when they are asked to, and can be gone on with."""
    asked = False

    def watch(segment: Segment, done: int) -> None:
        nonlocal asked
        asked = True

    with _made(make, Counting(pause=0.2)) as (executor, where):
        todo = [_segment(where, number, 0, 50) for number in range(executor.capacity)]
        ended = _run(executor, todo, watch=watch, stop_early=lambda: asked)
        for one in ended:
            in_order = isinstance(one.how, Outcome) and one.how.interrupted and not one.how.metrics
            assert in_order, f"a segment that was asked to end came back as {one.how!r}, and not as an interrupted one"
        assert {one.segment.trial for one in ended} == set(range(len(todo))), "not all segments that end came back"
        with _made(make, Counting(), where) as (another, _):
            for one in _run(another, todo):
                _check_whole(one)


CHECKS: Sequence[Callable[[MakeExecutor], None]] = (
    check_all_come_back,
    check_going_on,
    check_all_fields,
    check_failures,
    check_what_meets_all,
    check_watching,
    check_stopping,
)


def _run(
    executor: Executor,
    todo: Sequence[Segment],
    stop_early: StopEarly = lambda: False,
    watch: Watch = lambda segment, done: None,
) -> list[Ended]:
    """Submit segments as there is room for them until all are over; return how they ended."""
    left, running, over = list(todo), 0, list[Ended]()
    end = time.monotonic() + SECONDS
    late = False

    def told_to_stop() -> bool:
        nonlocal late
        late = late or time.monotonic() > end
        return late or stop_early()

    while (left or running) and not (late and not running):
        room = isinstance(executor.capacity, int) and executor.capacity >= 1
        assert room, f"the capacity is {executor.capacity!r}; give a whole number of 1 or more"
        while left and running < executor.capacity:
            executor.submit(left.pop(0))
            running += 1
        ended = executor.finished(told_to_stop, watch)
        assert time.monotonic() < end + SECONDS, f"segments do not end within {2 * SECONDS:g} s"
        for one in ended:
            assert isinstance(one, Ended), f"finished() returned {one!r}, and no Ended"
        running -= len(ended)
        over += ended
        assert running >= 0, f"{len(over)} segments came back of {len(over) + running} that were submitted"
    assert not late, f"{len(todo)} segments that take next to no time are not over within {SECONDS:g} s"
    return over


def _check_whole(one: Ended) -> None:
    how, whole = one.how, _whole(one.segment)
    assert isinstance(how, Outcome), f"a training that raised nothing came back as {how!r}"
    assert not how.interrupted, "a training that nobody asked to end came back as interrupted"
    trial = f"trial {one.segment.trial} came back with"
    assert dict(how.metrics) == whole.metrics, (
        f"{trial} {dict(how.metrics)}, and has the loss {whole.metrics['loss']}, which depends on all that its segment "
        "says"
    )
    for field in fields(Outcome):
        came, there = getattr(how, field.name), getattr(whole, field.name)
        assert came == there, f"{trial} {field.name}={came}, and its training had {there}"


def _whole(segment: Segment) -> Outcome:
    """Return what a segment comes to that nobody asks to end: no field is as it would be where it was left out."""
    # Not of where it starts, which changes no result; its cost tells that.
    said = (
        f"{segment.trial} {sorted(segment.params.items())} {segment.stop} {segment.seed} {segment.bracket} "
        f"{segment.finalist} {[list(pair) for pair in segment.rates]} {segment.length} {list(segment.points)} "
        f"{segment.best is None} {segment.validation_share}"
    )
    loss = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=4).digest(), "big") / 2**32
    # As a trainer that approximates has it, and as one that noted nothing of the first loss.
    cost = Cost(segment.stop - segment.start - 1, 0.5, 1, 0.25, 0.125)
    losses = LossCurve(2, segment.stop, tuple(loss / (1 + place) for place in range(segment.stop // 2)), 1)
    curve = {} if segment.best is None else {at: {"loss": loss} for at in (*segment.points, segment.stop)}
    return Outcome(
        segment.stop,
        {"loss": loss},
        None,
        False,
        cost,
        curve,
        losses=losses,
        validation_share=segment.validation_share,
    )


def _segment(where: Path, number: int, start: int = 0, stop: int = 5, deed: str = "count") -> Segment:
    params = {"x": 1000 + number, "deed": deed}
    return Segment(number, params, start, stop, number + 5, where / f"trial-{number}.pt", bracket=0)


@contextmanager
def _made(make: MakeExecutor, objective: Counting, where: Path | None = None) -> Iterator[tuple[Executor, Path]]:
    """Give a new executor, and a folder for checkpoints."""
    folder = where or Path(tempfile.mkdtemp(prefix="stantune-check-"))
    made = make(Order(objective, Place(threads=1)))
    try:
        if isinstance(made, AbstractContextManager):
            with made as executor:
                yield executor, folder
        else:
            yield made, folder
    finally:
        if where is None:
            shutil.rmtree(folder, ignore_errors=True)
