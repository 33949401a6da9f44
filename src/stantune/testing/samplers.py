"""Whether a sampler does all that a search asks of one: `check_sampler(MySampler)`, or one of `CHECKS` at a time."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from stantune.errors import UsageError
from stantune.parameters import Categorical, Float, Integer
from stantune.search.plan.values import PastTrial
from stantune.search.propose.sampler import Asked, Sampler, Seen, sampler_of
from stantune.search.propose.sampling import sample
from stantune.space import Space
from stantune.testing.asserting import require_assertions

MakeSampler: TypeAlias = Callable[[], Sampler]

# A proposal that looks at so many results may take so long; a search waits for each.
RESULTS, SECONDS = 1000, 30.0
RESOURCES = (1, 3, 9)

SPACES: Mapping[str, Space] = {
    "real numbers": Space(
        {
            "linear": Float(-1, 2),
            "logarithmic": Float(1e-4, 1, log=True),
            "stepped": Float(0, 1, step=0.1),
            "tiny": Float(1e-9, 3e-9),
        }
    ),
    "whole numbers": Space(
        {"linear": Integer(-3, 64), "logarithmic": Integer(1, 1024, log=True), "stepped": Integer(0, 96, step=32)}
    ),
    "choices": Space(
        {
            "optimizer": Categorical(("adam", "sgd", None)),
            "mixed": Categorical((True, 2, 0.5, "2")),
            "kernel": Categorical(((3, 3), (5, 5), ((1, 1), None))),
        }
    ),
    "conditional": Space(
        {
            "dropout": Float(0, 1),
            "layers": Integer(1, 4),
            "kind": Categorical(("plain", "deep", (2, 2))),
            "lr": Float(1e-4, 1, log=True),
        },
        when={"dropout": {"layers": range(2, 5)}, "layers": {"kind": ("deep", (2, 2))}},
    ),
    "single values": Space(
        {
            "linear": Float(0.1, 0.1),
            "logarithmic": Float(0.1, 0.1, log=True),
            "whole": Integer(3, 3),
            "whole_logarithmic": Integer(7, 7, log=True),
            "choice": Categorical(("only",)),
            "free": Float(0, 1),
        }
    ),
    "nothing to choose": Space({}),
}


def example(
    space: Space,
    number: int = 0,
    results: int = 0,
    seed: int = 0,
    loss: Callable[[int], float | None] = lambda trial: None if trial % 5 == 4 else trial * 7919 % 101 / 7,
    earlier: int = 0,
) -> Asked:
    """Return what a search may ask.

    Args:
        space: its space.
        number: of the trial.
        results: that it sees; of trials that were drawn at random.
        seed: the search's.
        loss: of a trial at the first of three resources, None where it diverged; at later ones it is a tenth lower.
        earlier: trials of an earlier search that this one starts from.
    """
    history: list[Seen] = []
    trial = 0
    while len(history) < results:
        # One of three trials is promoted, and one of three of these, as it would be on paper by one worker.
        for rung, resource in enumerate(RESOURCES):
            reached = loss(trial)
            if trial % 3**rung == 0 and (rung == 0 or reached is not None):
                lower = None if reached is None else reached - abs(reached) * rung / 10
                history.append(Seen(trial, sample(space, 77, trial), resource, lower))
        trial += 1
    del history[results:]
    there = {resource: {seen.number for seen in history if seen.resource == resource} for resource in RESOURCES}
    overtaken = {
        resource: tuple(sorted(there[RESOURCES[0]] - numbers)) if numbers else () for resource, numbers in there.items()
    }
    # Its rungs need not be where ours are.
    start = [PastTrial(past, sample(space, 78, past), {2: loss(past), 20: loss(past)}) for past in range(earlier)]
    return Asked(space, seed, number, tuple(history), RESOURCES, overtaken, tuple(start))


def check_sampler(make_sampler: MakeSampler) -> None:
    """Check a sampler in all that is asked of one.

    Args:
        make_sampler: returns a new sampler each time, equal to the others; a class that takes no arguments does.

    Raises:
        AssertionError: says in a sentence what it does that it should not.
        UsageError: Python was told to leave assertions out.
    """
    require_assertions()
    for check in CHECKS:
        check(make_sampler)


def check_attributes(make_sampler: MakeSampler) -> None:
    """Check that it has a name, an identity in plain values, and says whether it waits."""
    one, other = make_sampler(), make_sampler()
    for sampler in (one, other):
        try:
            sampler_of(sampler)
        except UsageError as error:
            raise AssertionError(str(error)) from None
    assert one.name == other.name, f"two samplers of the same make are named {one.name!r} and {other.name!r}"
    assert dict(one.identity) == dict(other.identity), (
        f"two samplers of the same make have the identities {dict(one.identity)} and {dict(other.identity)}, so a "
        "search would not be known again"
    )


def check_settings(make_sampler: MakeSampler) -> None:
    """Check that proposals lie in spaces of all kinds, and have a value for each parameter that exists."""
    sampler = make_sampler()
    for where, space in SPACES.items():
        for results in (0, 1, 40):
            for number in (0, 1, 5):
                _valid(sampler, example(space, number, results), where)
        _valid(sampler, example(space, 1, 1, earlier=30), f"{where}, starting from an earlier search")


def check_plain_values(make_sampler: MakeSampler) -> None:
    """Check that values are Python's own, which JSON takes: no NumPy numbers, no NaN."""
    sampler = make_sampler()
    for where, space in SPACES.items():
        for number, results in ((0, 0), (1, 0), (2, 0), (3, 0), (41, 40), (42, 40), (43, 40)):
            for name, value in _proposed(sampler, example(space, number, results), where).items():
                for part in _parts(value):
                    assert part is None or type(part) in (bool, int, float, str), (
                        f"the sampler {sampler.name!r} gives {name} the value {value!r}, a "
                        f"{type(part).__name__}, which is no plain value: give Python's own numbers, as `.item()` does"
                    )
                    assert not isinstance(part, float) or math.isfinite(part), (
                        f"the sampler {sampler.name!r} gives {name} the value {value!r}, which JSON does not take"
                    )


def check_purity(make_sampler: MakeSampler) -> None:
    """Check that a proposal depends on nothing but what is asked, whatever was asked before and in whichever process.

    That it is the same in another process is passed over where the sampler cannot be pickled.
    """
    wide = Space({f"parameter_{i}": Float(0, 1) for i in range(8)})
    asked = [
        example(space, number, results, seed)
        for space in (wide, SPACES["conditional"])
        for number, results, seed in ((3, 0, 0), (12, 10, 0), (41, 40, 0), (42, 40, 0), (41, 40, 1))
    ]
    name = make_sampler().name
    expected = [_plain(make_sampler().propose(one)) for one in asked]
    again = [_plain(make_sampler().propose(one)) for one in asked]
    assert again == expected, (
        f"the sampler {name!r} answers the same question with {_first_other(expected, again)}, each time by a new "
        "object: draw from a generator that is seeded with the seed and the number that it is asked for"
    )
    sampler = make_sampler()
    for order in (asked, asked[::-1]):
        found = [_plain(sampler.propose(one)) for one in order]
        before = expected if order is asked else expected[::-1]
        assert found == before, (
            f"the sampler {name!r} answers the same question with {_first_other(before, found)}, as it was asked "
            "others before: let a proposal depend on nothing but what is asked"
        )
    try:
        pickled = pickle.dumps((sampler, make_sampler(), asked))
    except Exception:
        return
    used, fresh, _ = pickle.loads(pickled)
    for copy in (used, fresh):
        found = [_plain(copy.propose(one)) for one in asked]
        assert found == expected, (
            f"the sampler {name!r} answers the same question with {_first_other(expected, found)} after it was pickled"
        )
    # The order of a set of texts, say, is another one in each process.
    for elsewhere in (_in_another_process(pickled, hash_seed) for hash_seed in (1, 2)):
        assert elsewhere is None or elsewhere == expected, (
            f"the sampler {name!r} answers the same question with {_first_other(expected, elsewhere or [])} in another "
            "process: does it go through a set, or call hash()?"
        )


def check_what_is_asked_stays(make_sampler: MakeSampler) -> None:
    """Check that a proposal does not change what was asked: the settings in the history belong to the trial table."""
    sampler = make_sampler()
    for where in ("real numbers", "conditional"):
        asked = example(SPACES[where], 41, 40)
        before = repr((asked.history, asked.resources, asked.overtaken, asked.start))
        sampler.propose(asked)
        after = repr((asked.history, asked.resources, asked.overtaken, asked.start))
        assert after == before, f"the sampler {sampler.name!r} changes the history that it is asked with"


def check_trials_differ(make_sampler: MakeSampler) -> None:
    """Check that trials that see the same results are given different settings: many of them begin at once."""
    sampler = make_sampler()
    space = Space({"a": Float(0, 1), "b": Float(1e-4, 1, log=True), "c": Integer(1, 10**6)})
    for results in (0, 40):
        first: dict[str, int] = {}
        for number in range(20):
            setting = _plain(sampler.propose(example(space, number, results)))
            other = first.setdefault(setting, number)
            # A few may be equal: a search takes over the results of an equal trial.
            assert other == number or len(first) > number / 2, (
                f"the sampler {sampler.name!r} gives trials {other} and {number} the same setting {setting}: let it "
                "depend on the number that is asked for"
            )


def check_waiting(make_sampler: MakeSampler) -> None:
    """Check that a sampler with `waits = False` does not look at results, since a search shows it none."""
    sampler = make_sampler()
    if sampler.waits:
        return
    for space in SPACES.values():
        without = [_plain(sampler.propose(example(space, number))) for number in range(5)]
        seeing = [_plain(sampler.propose(example(space, number, 40))) for number in range(5)]
        assert seeing == without, (
            f"the sampler {sampler.name!r} says that it does not wait for results, but looks at them: it proposes "
            f"{_first_other(without, seeing)} without and with some; set `waits = True`"
        )


def check_losses(make_sampler: MakeSampler) -> None:
    """Check that it copes with whatever results there are: none but lost trials, equal, huge and negative losses."""
    sampler = make_sampler()
    kinds: Mapping[str, Callable[[int], float | None]] = {
        "trials that all diverged": lambda trial: None,
        "one trial that did not diverge": lambda trial: 0.5 if trial == 7 else None,
        "equal losses": lambda trial: 0.0,
        "huge losses": lambda trial: 1e30 * trial,
        "negative losses": lambda trial: -float(trial),
    }
    for kind, loss in kinds.items():
        for where in ("real numbers", "conditional"):
            for results in (1, 40):
                _valid(sampler, example(SPACES[where], results, results, loss=loss), f"{where}, of {kind}")


def check_many_results(make_sampler: MakeSampler, seconds: float = SECONDS) -> None:
    """Check that a proposal that looks at many results takes no more than so many seconds."""
    sampler = make_sampler()
    taken = []
    for number in (RESULTS, RESULTS + 1):
        asked = example(SPACES["real numbers"], number, RESULTS)
        before = time.perf_counter()
        sampler.propose(asked)
        taken.append(time.perf_counter() - before)
        if taken[-1] <= seconds:
            return
    raise AssertionError(
        f"the sampler {sampler.name!r} takes {min(taken):.1f} s for a proposal that sees {RESULTS} results, more than "
        f"{seconds:g} s: look at fewer of them, or keep what can be kept"
    )


CHECKS: Sequence[Callable[[MakeSampler], None]] = (
    check_attributes,
    check_settings,
    check_plain_values,
    check_purity,
    check_what_is_asked_stays,
    check_trials_differ,
    check_waiting,
    check_losses,
    check_many_results,
)


def _proposed(sampler: Sampler, asked: Asked, where: str) -> Mapping[str, Any]:
    """Return a proposal; AssertionError where there is none."""
    try:
        proposed = sampler.propose(asked)
    except Exception as error:
        raise AssertionError(
            f"the sampler {sampler.name!r} raises {type(error).__name__} ({error}) where it sees {len(asked.history)} "
            f"results in a space of {where}"
        ) from error
    assert isinstance(proposed, Mapping), (
        f"the sampler {sampler.name!r} proposes {proposed!r}, which is no dict of parameters and their values"
    )
    return proposed


def _valid(sampler: Sampler, asked: Asked, where: str) -> None:
    proposed = _proposed(sampler, asked, where)
    try:
        asked.space.check(proposed, complete=True)
    except UsageError as error:
        raise AssertionError(
            f"what the sampler {sampler.name!r} proposes in a space of {where} is no setting: {error}"
        ) from None


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _plain(proposed: Mapping[str, Any]) -> str:
    """Return a setting as a text; a number of NumPy's that equals one of Python's counts as equal."""
    return json.dumps(proposed, sort_keys=True, default=repr)


def _first_other(expected: Sequence[str], found: Sequence[str]) -> str:
    """Name the first two answers that differ."""
    return next((f"{a} and {b}" for a, b in zip(expected, found, strict=False) if a != b), "nothing")


def _in_another_process(pickled: bytes, hash_seed: int) -> list[str] | None:
    """Return what the pickled sampler proposes elsewhere; None where it cannot be had there."""
    code = (
        "import pickle, sys\n"
        "_, sampler, asked = pickle.load(sys.stdin.buffer)\n"
        "from stantune.testing.samplers import _plain\n"
        "pickle.dump([_plain(sampler.propose(one)) for one in asked], sys.stdout.buffer)\n"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run([sys.executable, "-P", "-c", code], input=pickled, capture_output=True, env=environment)
    if done.returncode:
        return None
    found: list[str] = pickle.loads(done.stdout)
    return found
