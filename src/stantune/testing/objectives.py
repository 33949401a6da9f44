"""Whether an objective does all that a search asks of one: `check_objective(yours)`, or one of `CHECKS` at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle

from stantune.errors import DamagedCheckpointError
from stantune.outcome import Outcome
from stantune.protocols import Conditions, Metric, Objective, Segment
from stantune.space import Space
from stantune.testing.asserting import require_assertions
from stantune.testing.objective_case import Case, case_of, shake, what_counts


def check_objective(
    objective: Objective,
    setting: Mapping[str, Any] | None = None,
    *,
    stop: int = 4,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Check an objective in all that is asked of one. It is trained some twenty times.

    Args:
        objective: what is checked.
        setting: one that does not diverge; by default one is drawn from the space.
        stop: how long the trainings are, in its unit, 2 or more.
        seed: of the trainings.
        threads: of each of them.
        device: where is trained.

    Raises:
        AssertionError: says in a sentence what it does that it should not.
        UsageError: Python was told to leave assertions out.
    """
    require_assertions()
    case = case_of(objective, setting, stop=stop, seed=seed, threads=threads, device=device)
    for check in CHECKS:
        check(case)


def check_attributes(case: Case) -> None:
    """Check that it says what it is, in values of the right kinds."""
    for objective in (case.given, case.objective):
        for name in ("name", "unit"):
            value = getattr(objective, name)
            named = isinstance(value, str) and value
            assert named, f"{name} of an objective is {value!r}; give a text"
        assert isinstance(objective.space, Space), f"space of {case.name} is no Space but {objective.space!r}"
        assert isinstance(objective.metric, Metric), f"metric of {case.name} is no Metric but {objective.metric!r}"
        length, rate = objective.length, objective.rate
        assert length is None or (type(length) is int and length >= 1), (
            f"length of {case.name} is {length!r}; give a whole number of {objective.unit}s, or None"
        )
        assert rate is None or rate == "auto" or (isinstance(rate, float | int) and 0 < rate <= 1), (
            f"rate of {case.name} is {rate!r}; give a share of the work, or None where all of it is done"
        )


def check_identity(case: Case) -> None:
    """Check that its identity is plain JSON, and the same after another look and another preparation."""
    identity = _identity(case.objective)
    assert _identity(case.objective) == identity, f"identity of {case.name} is another one each time that it is read"
    begun = {**json.loads(identity), "threads": case.threads}
    again = case.given.prepared(Conditions(case.stop, case.seed, None, case.device, begun=begun))
    assert _identity(again.objective) == identity, (
        f"identity of {case.name} is another one when its search is gone on with, which would be refused then: what is "
        "decided once is to be taken from `begun`"
    )
    assert again.threads == case.threads, (
        f"{case.name} has {again.threads} threads when its search is gone on with, and had {case.threads}; take the "
        "number from `begun`"
    )


def check_pickling(case: Case) -> None:
    """Check that it can be sent to other processes and is the same there."""
    try:
        copy = cloudpickle.loads(cloudpickle.dumps(case.objective))
    except Exception as error:
        raise AssertionError(
            f"{case.name} cannot be sent to other processes by cloudpickle ({type(error).__name__}: {error}); leave "
            "out what belongs to this one in __getstate__"
        ) from error
    assert _identity(copy) == _identity(case.objective), f"identity of {case.name} is another one after it was pickled"
    assert copy.space == case.objective.space, f"space of {case.name} is another one after it was pickled"
    assert copy.metric == case.objective.metric, f"metric of {case.name} is another one after it was pickled"
    with _folder() as where:
        expected = case.whole(where / "here")
        case.same(replace(case, objective=copy).whole(where / "there"), expected, "a training of a pickled copy")


def check_training(case: Case) -> None:
    """Check that a segment in one go has its metric, tells how far it is, and says what it took."""
    with _folder() as where:
        outcome, told = case.trained(case.trainer(), case.segment(where / "whole", 0, case.stop))
        case.finished(outcome, "a training in one go")
        assert outcome.diverged_at is None, (
            f"{case.name} diverges with the setting {dict(case.setting)}, so that nothing can be checked; give another"
        )
        assert all(type(done) is int for done in told), f"{case.name} tells {told}, and no whole numbers, to `watch`"
        ascends = told == sorted(told) and all(0 <= done <= case.stop for done in told)
        assert ascends, f"{case.name} tells {told} to `watch`, and not how far from 0 to {case.stop} it is"
        cost = outcome.cost
        assert min(cost.iterations, cost.training_seconds, cost.evaluation_seconds) >= 0, f"{case.name} costs {cost}"
        again = case.whole(where / "again")
        case.same(again, outcome, "the same training, done anew,")


def check_two_segments(case: Case) -> None:
    """Check that two segments, in trainers that know nothing of each other, come to what one does."""
    middle = case.stop // 2
    with _folder() as where:
        expected = case.whole(where / "whole")
        case.trained(case.trainer(), case.segment(where / "cut", 0, middle))
        outcome, _ = case.trained(case.trainer(), case.segment(where / "cut", middle, case.stop))
        case.finished(outcome, "a training in two segments")
        case.same(outcome, expected, "a training in two segments")


def check_done_twice(case: Case) -> None:
    """Check that a segment that is done again, as after a kill, has the same outcome; the first one and the last."""
    middle = case.stop // 2
    with _folder() as where:
        for start, stop in ((0, middle), (middle, case.stop)):
            segment = case.segment(where / "trial", start, stop)
            first, _ = case.trained(case.trainer(), segment)
            second, _ = case.trained(case.trainer(), segment)
            once, twice = what_counts(first), what_counts(second)
            assert once == twice, f"a segment of {case.name} that is done twice comes to {once} and then to {twice}"


def check_interruptions(case: Case) -> None:
    """Check that a training that is asked to end does so in good order, and is gone on with to the same outcome."""
    with _folder() as where:
        expected = case.whole(where / "whole")
        segment = case.segment(where / "cut", 0, case.stop)
        begin, end = _From(1), _From(case.stop)
        for stop_early in (begin, begin, end):
            outcome, _ = case.trained(case.trainer(), segment, stop_early)
            if outcome.interrupted:
                empty = not outcome.metrics and outcome.diverged_at is None
                assert empty, (
                    f"{case.name} is interrupted and has the metrics {dict(outcome.metrics)}; one that is interrupted "
                    "has none"
                )
                assert outcome.iterations < case.stop, (
                    f"{case.name} is said to be interrupted at {outcome.iterations} {case.objective.unit}s, where the "
                    "segment ends"
                )
            else:
                case.same(outcome, expected, "a training that went on although it was asked to end")
        outcome, _ = case.trained(case.trainer(), segment)
        case.finished(outcome, "a training that was interrupted")
        case.same(outcome, expected, "a training that was interrupted and gone on with")


def check_turns(case: Case) -> None:
    """Check that trials that take turns in one trainer do not touch each other."""
    middle = case.stop // 2
    with _folder() as where:
        expected = [case.whole(where / "alone", seed, trial) for trial, seed in enumerate((case.seed, case.seed + 1))]
        trainer = case.trainer()
        found = []
        for start, stop in ((0, middle), (middle, case.stop)):
            found = [
                case.trained(trainer, case.segment(where / "turns", start, stop, seed, trial))[0]
                for trial, seed in enumerate((case.seed, case.seed + 1))
            ]
        for one, other in zip(found, expected, strict=True):
            case.same(one, other, "a trial that took turns with another")
        if getattr(case.objective, "takes_turns", False):
            assert hasattr(trainer, "turns"), f"{case.name} says `takes_turns`, and its trainer has no turns()"
            segments = [case.segment(where / "both", 0, case.stop, case.seed + trial, trial) for trial in (0, 1)]
            for one, other in zip(_in_turns(trainer, segments), expected, strict=True):
                case.same(one, other, "a trial that took turns with another in the middle of their trainings")


def check_lost_checkpoint(case: Case) -> None:
    """Check that a segment whose checkpoint is gone is trained from the beginning, and a damaged one is refused."""
    middle = case.stop // 2
    with _folder() as where:
        expected = case.whole(where / "whole")
        outcome, _ = case.trained(case.trainer(), case.segment(where / "lost", middle, case.stop))
        case.same(outcome, expected, "a segment whose checkpoint was lost")
        case.trained(case.trainer(), case.segment(where / "damaged", 0, middle))
        segment = case.segment(where / "damaged", middle, case.stop)
        if not segment.checkpoint.is_file():
            return
        content = segment.checkpoint.read_bytes()
        segment.checkpoint.write_bytes(content[: len(content) // 2])
        try:
            outcome, _ = case.trained(case.trainer(), segment)
        except DamagedCheckpointError:
            return
        except AssertionError as error:
            raise AssertionError(
                f"{error} whose checkpoint is cut short; raise DamagedCheckpointError, so that it is trained again"
            ) from error
        case.same(outcome, expected, "a segment whose checkpoint was cut short")


def check_final(case: Case) -> None:
    """Check that a final training works, and comes to the same when it is interrupted."""
    with _folder() as where:
        final = replace(case.segment(where, 0, case.stop), bracket=None, finalist=0, checkpoint=where / "final.pt")
        first, _ = case.trained(case.trainer(), final)
        case.finished(first, "a final training")
        second, _ = case.trained(case.trainer(), final)
        case.same(second, first, "a final training that is done twice")
        final.checkpoint.unlink(missing_ok=True)
        case.trained(case.trainer(), final, _From(1))
        third, _ = case.trained(case.trainer(), final)
        case.same(third, first, "a final training that was interrupted")


def _in_turns(trainer: Any, segments: Sequence[Segment]) -> list[Outcome]:
    """Return what segments come to that are trained turn and turn about; other random states before each turn."""
    outcomes: dict[int, Outcome] = {}
    courses = [trainer.turns(segment, lambda: False, lambda done: None) for segment in segments]
    while len(outcomes) < len(courses):
        for number, course in enumerate(courses):
            if number not in outcomes:
                shake()
                try:
                    next(course)
                except StopIteration as end:
                    outcomes[number] = end.value
    return [outcomes[number] for number in range(len(courses))]


CHECKS: Sequence[Callable[[Case], None]] = (
    check_attributes,
    check_identity,
    check_training,
    check_pickling,
    check_two_segments,
    check_done_twice,
    check_interruptions,
    check_turns,
    check_lost_checkpoint,
    check_final,
)


@dataclass(frozen=True)
class _From:
    """Asks a training to end from where it has told that it is so far."""

    done: int

    def __call__(self, told: list[int]) -> bool:
        return bool(told) and told[-1] >= self.done


@contextmanager
def _folder() -> Iterator[Path]:
    where = tempfile.mkdtemp(prefix="stantune-check-")
    try:
        yield Path(where)
    finally:
        shutil.rmtree(where, ignore_errors=True)


def _identity(objective: Objective) -> str:
    """Return an objective's identity as text; AssertionError where JSON does not take it."""
    identity = objective.identity
    assert isinstance(identity, Mapping), f"identity of {objective.name} is no mapping but {identity!r}"
    try:
        text = json.dumps(dict(identity), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"identity of {objective.name} holds what JSON does not take ({error}); give plain values"
        ) from None
    assert json.loads(text) == identity, (
        f"identity of {objective.name} is {dict(identity)}, and another one once it was JSON; give lists in place of "
        "tuples, and texts as keys"
    )
    return text
