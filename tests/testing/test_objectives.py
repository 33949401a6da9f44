"""check_objective passes what does all that is asked, and says of anything else what is wrong with it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stantune.errors import DamagedCheckpointError
from stantune.files import write_whole
from stantune.outcome import Cost, Outcome
from stantune.parameters import Float
from stantune.protocols import Metric, Prepared
from stantune.space import Space
from stantune.testing import check_objective
from stantune.testing.executors import Counting
from stantune.testing.objective_case import case_of
from stantune.testing.objectives import CHECKS, check_turns


@dataclass(frozen=True)
class Sums:
    """An objective that sums random numbers, without torch; `wrong` is what is wrong with it."""

    wrong: str = ""
    name: str = "sums"
    unit: str = "step"
    length: int | None = None
    space: Space = field(default_factory=lambda: Space({"x": Float(0, 1)}))
    metric: Metric = field(default_factory=lambda: Metric("loss"))
    rate: Any = None

    @property
    def identity(self):
        wrong = {
            "identity is no JSON": {1, 2},
            "identity has tuples": (1, 2),
            "identity is another one": random.random(),
            "identity is NaN": float("nan"),
        }
        return {"problem": self.name, "more": wrong.get(self.wrong)}

    def prepared(self, conditions):
        if self.wrong == "prepares nothing":
            return self
        if self.wrong == "prepares anew":
            return Prepared(replace(self, name=f"{self.name}+"), 1) if conditions.begun else Prepared(self, 1)
        if self.wrong == "other threads":
            return Prepared(self, 2 if conditions.begun else 1)
        return Prepared(self, 0 if self.wrong == "no threads" else 1)

    def trainer(self, place):
        return SumsTrainer(self.wrong)

    def __reduce__(self):
        if self.wrong == "not pickled":
            raise TypeError("this belongs to this process")
        if self.wrong == "pickled as another":
            return Sums, ("", "other")
        return Sums, (self.wrong, self.name)


class SumsTrainer:
    def __init__(self, wrong):
        self.wrong = wrong
        self.before = 0.0

    def train(self, segment, stop_early, watch):
        done, total = 0, 0.0
        path: Path = segment.checkpoint
        if self.wrong == "needs its checkpoint" and segment.start:
            path.read_bytes()
        if path.exists() and self.wrong != "forgets":
            try:
                done, total = json.loads(path.read_text())
            except ValueError as error:
                if self.wrong == "damaged is a failure":
                    raise
                raise DamagedCheckpointError("damaged") from error
            if self.wrong == "trains again":
                done = segment.start
        elif self.wrong == "forgets":
            done = segment.start
        while done < segment.stop:
            if self.wrong == "another's random state":
                number = random.random()
            else:
                number = random.Random(f"{segment.seed} {done}").random()
            # A schedule, which is to be that of the longest training in all segments.
            whole = segment.stop if self.wrong == "anneals by segment" else segment.length
            total += segment.params["x"] * number * (1 - done / whole)
            done += 1
            watch(
                {"tells texts": str(done), "tells too much": done + 1, "tells backwards": -done}.get(self.wrong, done)
            )
            if self.wrong == "keeps late" and stop_early():
                return Outcome(done, {}, None, True, Cost())
            if self.wrong != "interrupted drift" or done == segment.stop:
                write_whole(path, json.dumps((done, total)).encode())
            if done < segment.stop and stop_early():
                if self.wrong == "interrupted drift":
                    write_whole(path, json.dumps((done, total + 1)).encode())
                metrics = {"loss": total} if self.wrong == "interrupted with metrics" else {}
                return Outcome(done, metrics, None, True, Cost())
            if self.wrong == "a final training fails" and segment.final:
                return Outcome(done, {}, None, True, Cost())
        if self.wrong == "turns":
            total, self.before = total + self.before, total
        value = {"no number": "0.5", "not finite": float("nan"), "NumPy's": __import__("numpy").float64(total)}
        metrics = {"other" if self.wrong == "another metric" else "loss": value.get(self.wrong, total)}
        if self.wrong == "diverges":
            return Outcome(done, {}, done, False, Cost())
        if self.wrong == "too short":
            done -= 1
        return metrics if self.wrong == "no outcome" else Outcome(done, metrics, None, False, Cost(exact=done))


def test_what_does_all_that_is_asked_passes():
    check_objective(Sums())
    check_objective(Sums(), {"x": 0.5}, stop=7, seed=3)
    check_objective(Counting(), {"x": 3, "deed": "count"})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("identity is no JSON", "identity of sums holds what JSON does not take .*; give plain values"),
        ("identity is NaN", "identity of sums holds what JSON does not take"),
        ("identity has tuples", "another one once it was JSON; give lists in place of tuples"),
        ("identity is another one", "identity of sums is another one each time that it is read"),
        ("prepares nothing", r"prepared\(\) of sums returns .*, and no Prepared"),
        ("no threads", r"prepared\(\) of sums says 0 threads; a number of 1 or more is needed"),
        ("prepares anew", "identity of sums is another one when its search is gone on with"),
        ("other threads", "sums has 2 threads when its search is gone on with, and had 1"),
        ("not pickled", r"cannot be sent to other processes by cloudpickle \(.*this belongs to this process"),
        ("pickled as another", "identity of sums is another one after it was pickled"),
        ("no outcome", "sums ends a segment in a dict, not an Outcome"),
        ("too short", "a training in one go of sums ends at 3 steps, and was to end at 4"),
        ("another metric", r"has the metrics \['other'\], and not 'loss', which is compared"),
        ("no number", "has the metric 'loss' of '0.5', a str; give Python's own numbers"),
        ("NumPy's", "a float64; give Python's own numbers, as `.item... does"),
        ("not finite", "has the metric 'loss' of nan; leave it out, or, where it is what is compared, say that"),
        ("diverges", "sums diverges with the setting .*, so that nothing can be checked; give another"),
        ("tells texts", "and no whole numbers, to `watch`"),
        ("tells too much", r"sums tells \[2, 3, 4, 5\] to `watch`, and not how far from 0 to 4 it is"),
        ("tells backwards", "to `watch`, and not how far"),
        ("another's random state", "the same training, done anew, of sums comes to"),
        ("forgets", "a training in two segments of sums comes to"),
        ("anneals by segment", "a training in two segments of sums comes to"),
        ("trains again", "a segment of sums that is done twice comes to"),
        ("interrupted drift", "a training that went on although it was asked to end of sums comes to"),
        ("interrupted with metrics", "sums is interrupted and has the metrics .*; one that is interrupted has none"),
        ("keeps late", "is said to be interrupted at 4 steps, where the segment ends"),
        ("turns", "a trial that took turns with another of sums comes to"),
        (
            "needs its checkpoint",
            r"sums raises FileNotFoundError \(.*\) in a segment from 2 to 4 that has no checkpoint",
        ),
        (
            "damaged is a failure",
            r"sums raises JSONDecodeError \(.*\) in a segment from 2 to 4 whose checkpoint is cut short; raise Damaged",
        ),
        ("a final training fails", "a final training of sums is said to be interrupted, and nobody asked for that"),
    ],
)
def test_what_does_not_is_told_so(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_objective(Sums(wrong))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": ""}, "name of an objective is ''; give a text"),
        ({"unit": None}, "unit of an objective is None; give a text"),
        ({"space": {"x": Float(0, 1)}}, "space of sums is no Space"),
        ({"metric": "loss"}, "metric of sums is no Metric but 'loss'"),
        ({"length": 2.5}, "length of sums is 2.5; give a whole number of steps, or None"),
        ({"rate": 2}, "rate of sums is 2; give a share of the work, or None where all of it is done"),
    ],
)
def test_attributes_of_the_wrong_kinds_are_told(given, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_objective(replace(Sums(), **given), {"x": 0.5})


def test_what_is_no_objective_is_told_so():
    with pytest.raises(AssertionError, match="int lacks name, space, metric, unit, length, rate, identity, prepared"):
        check_objective(3)
    with pytest.raises(AssertionError, match="stop=1 cannot be cut in two; give 2 or more"):
        check_objective(Sums(), stop=1)


def test_checks_can_be_done_one_at_a_time():
    case = case_of(Sums("forgets"))
    failed = []
    for check in CHECKS:
        try:
            check(case)
        except AssertionError:
            failed.append(check.__name__)
    assert failed == [
        "check_two_segments",
        "check_turns",
        "check_lost_checkpoint",
    ]


@pytest.mark.parametrize("wrong", ["", "no turns", "one for all"])
def test_those_that_take_turns_are_interleaved(wrong):
    class Turning(SumsTrainer):
        def turns(self, segment, stop_early, watch):
            total = 0.0
            drawn = random.Random(segment.seed)
            for _ in range(segment.stop):
                total += (random if wrong else drawn).random()
                yield
            return Outcome(segment.stop, {"loss": total}, None, False, Cost())

        def train(self, segment, stop_early, watch):
            total, drawn = 0.0, random.Random(segment.seed)
            for _ in range(segment.stop):
                total += drawn.random()
            return Outcome(segment.stop, {"loss": total}, None, False, Cost())

    class Taking(Sums):
        takes_turns = True

        def trainer(self, place):
            return SumsTrainer("") if wrong == "no turns" else Turning("")

    case = case_of(Taking())
    if not wrong:
        check_turns(case)
        return
    sentence = "its trainer has no turns" if wrong == "no turns" else "turns with another in the middle of their train"
    with pytest.raises(AssertionError, match=sentence):
        check_turns(case)
