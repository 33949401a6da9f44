"""Workers that a Ray cluster loses before they begin: a lost node costs no search, workers that never begin do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stantune.errors import StantuneError
from stantune.outcome import Cost, Outcome
from stantune.protocols import Segment, Trainer
from stantune.search.workers.worker import Over
from stantune.search.workers.workers import MOST_STILLBORN

pytest.importorskip("ray", reason="Ray is not installed: pip install 'stantune[ray]'")

import ray
from ray.exceptions import ActorDiedError

from stantune.search.ray import executor as ray_executor
from stantune.search.ray.cluster import Cluster, Room, Share
from stantune.search.ray.executor import RayExecutor
from stantune.search.ray.places import Sign
from stantune.search.ray.worker import Begun, Hello, versions

ROOM = 16
# When an actor dies.
STARTING, GIVEN = "before it is there", "as it is given a segment"


class Call:
    """A method of an actor, as Ray's are called."""

    def __init__(self, do: Callable[..., Any]) -> None:
        self._do = do

    def options(self, **named: Any) -> Call:
        return self

    def remote(self, *given: Any) -> Any:
        return self._do(*given)


class Saying:
    """What an actor says, one message after the other, and nothing once it is dead: Ray's reference and its stream."""

    def __init__(self, actor: Actor, messages: Sequence[Any]) -> None:
        self.heard = 0
        self._actor, self._messages = actor, list(messages)

    def __next__(self) -> Saying:
        return self

    def get(self) -> Any:
        self.heard += 1
        if self._actor.dead:
            raise ActorDiedError
        return self._messages.pop(0)


class Actor:
    """An actor that trains at once, unless it is dead."""

    def __init__(self, dies: str) -> None:
        self.dead = dies == STARTING
        self._dies = dies
        self.hello = Call(lambda: Saying(self, [Hello("node", "host", versions())]))
        self.stop = Call(lambda: None)
        self.train = Call(self._train)

    def _train(self, segment: Segment) -> Saying:
        self.dead = self.dead or self._dies == GIVEN
        return Saying(self, [Begun(), Over(Outcome(segment.stop, {"loss": 0.5}, None, False, Cost()))])


class MadeUp(Cluster):
    """A cluster of one node with room for ROOM trainings; `dies` says of the number of an actor when that one does."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.dies: Callable[[int], str] = lambda number: ""
        self.started: list[Actor] = []

    def room(self, share: Share) -> Room:
        return Room(1, ROOM)

    def has(self, node: str) -> bool:
        return False

    def actor(self, *given: Any) -> Actor:
        assert len(self.started) < 1000, "it starts workers for ever"
        self.started.append(Actor(self.dies(len(self.started))))
        return self.started[-1]

    def lose_all(self) -> None:
        """All actors that there are die."""
        for actor in self.started:
            actor.dead = True


@pytest.fixture(params=["one by one", "together"])
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """A cluster whose actors are heard as the parameter says."""
    made = MadeUp()

    def wait(sayings: list[Saying], num_returns: int, timeout: float) -> tuple[list[Saying], list[Saying]]:
        # Each in its turn.
        sayings = sorted(sayings, key=lambda saying: saying.heard)
        most = 1 if request.param == "one by one" else num_returns
        return sayings[:most], sayings[most:]

    monkeypatch.setattr(ray_executor, "_Actor", Call(made.actor))
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", Saying.get)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    return made


@pytest.fixture
def executor(cluster: MadeUp) -> Iterator[RayExecutor]:
    """It, on that cluster."""
    with RayExecutor(cluster, no_trainer, Share(1, 0), Sign("memory://folder", "sign")) as executor:
        yield executor


def no_trainer(number: int) -> Trainer:
    """Make no trainer: nothing is trained here."""
    raise AssertionError


def train(executor: RayExecutor, count: int) -> None:
    """Have so many segments trained; each comes to its outcome, once."""
    for number in range(count):
        executor.submit(Segment(number, {}, 0, 3, 0, Path(f"trial-{number}.pt"), bracket=0))
    over: list[int] = []
    while len(over) < count:
        for segment, how in executor.finished(lambda: False, lambda segment, done: None):
            assert isinstance(how, Outcome)
            over.append(segment.trial)
    assert sorted(over) == list(range(count))


@pytest.mark.parametrize("count", [1, ROOM])
def test_a_node_may_be_lost_whose_workers_had_nothing_to_do(cluster: MadeUp, executor: RayExecutor, count: int) -> None:
    train(executor, ROOM)
    assert len(cluster.started) == ROOM
    for _ in range(3):
        cluster.lose_all()
        train(executor, count)


def test_a_node_may_be_lost_on_which_workers_were_starting(cluster: MadeUp, executor: RayExecutor) -> None:
    cluster.dies = lambda number: STARTING if number < ROOM else ""
    train(executor, ROOM)


@pytest.mark.parametrize("dies", [STARTING, GIVEN])
@pytest.mark.parametrize("count", [1, ROOM])
def test_workers_that_never_begin_end_the_search(cluster: MadeUp, executor: RayExecutor, dies: str, count: int) -> None:
    cluster.dies = lambda number: dies
    said = rf"^{MOST_STILLBORN} workers in a row ended on the Ray cluster before they had begun \(.*The actor died"
    with pytest.raises(StantuneError, match=said):
        train(executor, count)


@pytest.mark.parametrize("dies", [STARTING, GIVEN])
def test_one_that_begins_ends_the_row(cluster: MadeUp, executor: RayExecutor, dies: str) -> None:
    # With the one before, which is lost while it has nothing to do, one less than would end the search.
    row = MOST_STILLBORN - 1
    cluster.dies = lambda number: "" if number % row == row - 1 else dies
    for _ in range(3):
        train(executor, 1)
        cluster.lose_all()
    assert len(cluster.started) == 3 * row
