"""Trains on the nodes of a Ray cluster: one actor for each training at the same time, on whatever node has room."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError

from stantune.errors import StantuneError, UsageError
from stantune.protocols import Segment, StopEarly, Trainer
from stantune.search.ray.cluster import Cluster, Share
from stantune.search.ray.places import Sign
from stantune.search.ray.worker import Begun, Hello, NodeOrder, RayWorker, versions
from stantune.search.workers.executors import Ended, Failure, Watch, not_begun
from stantune.search.workers.sending import sent
from stantune.search.workers.worker import Broken, Moved, Over
from stantune.search.workers.workers import GRACE_SECONDS, MOST_STILLBORN, POLL_SECONDS, Limits
from stantune.user_code.module_paths import own_folders

SURVEY_SECONDS = 1.0
# How long a cluster may be without any node that has room for a training.
EMPTY_SECONDS = 600.0

# While one thread of an actor trains, another hears that it is to stop.
_Actor = ray.remote(concurrency_groups={"control": 1})(RayWorker)


@dataclass
class _Place:
    """An actor, where it is once it is somewhere, and what it is at: a segment, and what it says of it.

    Of one `generation` are those that were started between two losses that count; see RayExecutor._lose.
    """

    actor: Any
    coming: Any
    generation: int
    hello: Hello | None = None
    segment: Segment | None = None
    begun: bool = False
    said: Any = None


class RayExecutor:
    """Trains on a cluster, in as many places as it has room for; nodes may come and go.

    A segment is given to an actor when that is there, so that none waits for a node that another job of the cluster
    holds.
    Use it in a `with`: at its end the actors end; in good order, their checkpoints written, unless what leaves the
    block is a KeyboardInterrupt.
    """

    def __init__(
        self,
        cluster: Cluster,
        order: Callable[[int], Trainer],
        share: Share,
        sign: Sign,
        limits: Limits | None = None,
        most: int | None = None,
    ) -> None:
        """Train on a cluster.

        Args:
            cluster: where.
            order: makes a trainer in the worker process of a node (it is pickled).
            share: what a training has of its node.
            sign: what each node has to see.
            limits: what a training may use.
            most: trainings at the same time, None for as many as there is room for.

        Raises:
            UsageError: no node has room for a training, or `order` cannot be pickled.
        """
        self._cluster = cluster
        self._share = share
        self._order = NodeOrder(sent(order), sign, own_folders())
        self._limits = limits or Limits()
        self._most = most
        self._places: list[_Place] = []
        self._waiting: collections.deque[Segment] = collections.deque()
        self._generation = self._stillborn = 0
        self._stopping = False
        self._surveyed = self._roomy = time.monotonic()
        room = cluster.room(share).trainings
        if not room:
            raise UsageError(
                f"no node of the Ray cluster at {cluster.address} has {share} for a training; give fewer `threads`, or "
                "start nodes that have"
            )
        self.capacity = self._bounded(room)

    def __enter__(self) -> RayExecutor:
        """Return the executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all actors."""
        if kind is None or issubclass(kind, Exception):
            self._finish_in_good_order()
        for place in self._places:
            _kill(place)
        self._places = []

    def submit(self, segment: Segment) -> None:
        """See Executor."""
        self._waiting.append(segment)

    def finished(self, stop_early: StopEarly, watch: Watch) -> Sequence[Ended]:
        """See Executor."""
        over: list[Ended] = []
        grown = False
        while not over and not grown:
            if stop_early() and not self._stopping:
                over += self._stop()
            grown = self._survey()
            self._hand_out()
            over += self._listen(watch)
        return over

    def _survey(self) -> bool:
        """Look now and then what there is room for; return whether that has grown."""
        now = time.monotonic()
        if now - self._surveyed < SURVEY_SECONDS:
            return False
        self._surveyed = now
        room = self._cluster.room(self._share).trainings
        if room:
            self._roomy = now
        elif now - self._roomy > EMPTY_SECONDS:
            raise StantuneError(
                f"no node of the Ray cluster at {self._cluster.address} has had {self._share} for a training for "
                f"{EMPTY_SECONDS:.0f} s; nothing is lost, the same command goes on when there is one"
            )
        before, self.capacity = self.capacity, self._bounded(room)
        return self.capacity > before

    def _bounded(self, room: int) -> int:
        # Never none: what is submitted waits for nodes to come.
        return max(room if self._most is None else min(room, self._most), 1)

    def _hand_out(self) -> None:
        """Give waiting segments to actors that have nothing to do; start more actors where those do not suffice."""
        idle = [place for place in self._places if place.hello is not None and place.segment is None]
        for place in idle[: len(self._waiting)]:
            place.segment, place.begun = self._waiting.popleft(), False
            place.said = place.actor.train.options(num_returns="streaming").remote(place.segment)
        coming = sum(place.hello is None for place in self._places)
        while coming < len(self._waiting) and len(self._places) < self.capacity:
            self._start()
            coming += 1

    def _start(self) -> None:
        # A segment that is lost with its actor is the search's to try again, and not Ray's.
        actor = _Actor.options(
            num_cpus=self._share.cpus, num_gpus=self._share.gpus, max_restarts=0, max_task_retries=0
        ).remote(self._order, self._limits)
        coming = actor.hello.options(concurrency_group="control").remote()
        self._places.append(_Place(actor, coming, self._generation))

    def _listen(self, watch: Watch) -> Iterator[Ended]:
        """Wait a moment for what actors say; yield the segments that are over."""
        heard = {place.said if place.segment else place.coming: place for place in self._places if _expected(place)}
        if not heard:
            time.sleep(POLL_SECONDS)
            return
        ray.wait(list(heard), num_returns=1, timeout=POLL_SECONDS)
        for spoken in ray.wait(list(heard), num_returns=len(heard), timeout=0)[0]:
            place = heard[spoken]
            try:
                if place.segment is None:
                    self._welcome(place)
                else:
                    yield from self._attend(place, place.segment, watch)
            except RayTaskError as error:
                # It says nothing more; the others are still to be heard.
                self._drop(place)
                raise StantuneError(f"a worker cannot begin on the Ray cluster ({_last_line(error)})") from error
            except RayError as error:
                # Where a node's memory runs low, Ray ends actors with an error of another kind than else.
                yield from self._lose(place, error)

    def _welcome(self, place: _Place) -> None:
        """An actor is there; raises StantuneError where it would train something else."""
        hello: Hello = ray.get(place.coming)
        here = versions()
        if hello.versions != here:
            raise StantuneError(
                f"node {hello.host} has {hello.versions}, and this machine {here}; the result depends on them, so "
                "install the same on both"
            )
        place.hello = hello

    def _attend(self, place: _Place, segment: Segment, watch: Watch) -> Iterator[Ended]:
        """Hear what a busy actor says; yield its segment if that is over."""
        assert place.hello is not None
        message = ray.get(next(place.said))
        if isinstance(message, Begun):
            place.begun, self._stillborn = True, 0
        elif isinstance(message, Moved):
            watch(segment, message.done)
        elif isinstance(message, Over):
            place.segment = place.said = None
            yield Ended(segment, message.how)
        elif isinstance(message, Broken):
            place.segment = place.said = None
            error = message.error
            error.args = (f"on node {place.hello.host}: {error}",)
            raise error

    def _drop(self, place: _Place) -> None:
        _kill(place)
        self._places.remove(place)

    def _lose(self, place: _Place, error: RayError) -> Iterator[Ended]:
        """An actor is gone, or its node cannot be reached; yield its segment, unless that had not begun."""
        # Where it is alive nevertheless it is not to go on with a segment that another begins again.
        self._drop(place)
        if place.segment is not None and place.begun:
            yield Ended(place.segment, Failure(self._why(place, error)))
            return
        # A node takes all of its actors with it, of which those that have nothing to do are found lost one by one, when
        # they are given something. So one of them counts, and then the next that was started after that.
        if place.generation == self._generation:
            self._generation += 1
            self._stillborn += 1
        if place.segment is not None and self._stopping:
            yield not_begun(place.segment)
        elif place.segment is not None:
            self._waiting.appendleft(place.segment)
        if self._stillborn >= MOST_STILLBORN:
            raise StantuneError(
                f"{MOST_STILLBORN} workers in a row ended on the Ray cluster before they had begun (the last one: "
                f"{_last_line(error)}); see Ray's logs on its nodes"
            )

    def _why(self, place: _Place, error: RayError) -> str:
        assert place.hello is not None
        if isinstance(error, OutOfMemoryError):
            # Of whose many lines the last one names Ray's documentation.
            return f"its Ray worker on node {place.hello.host} was ended by Ray, since the node's memory ran low"
        if isinstance(error, ActorUnavailableError) or not self._cluster.has(place.hello.node):
            return f"the connection to its node {place.hello.host} was lost"
        return f"its Ray worker on node {place.hello.host} was lost: {_last_line(error)}"

    def _stop(self) -> Iterator[Ended]:
        """Have all segments end; those that no actor has yet are over at once."""
        self._stopping = True
        for place in self._places:
            if place.segment is not None:
                place.actor.stop.options(concurrency_group="control").remote()
        while self._waiting:
            yield not_begun(self._waiting.popleft())

    def _finish_in_good_order(self) -> None:
        """Have the actors keep what they have; one that cannot, or takes too long, is none to wait for."""
        end = time.monotonic() + GRACE_SECONDS
        if not self._stopping:
            collections.deque(self._stop(), 0)
        while any(place.segment for place in self._places) and time.monotonic() < end:
            with contextlib.suppress(StantuneError):
                collections.deque(self._listen(lambda segment, done: None), 0)


def _expected(place: _Place) -> bool:
    """Tell whether an actor has something to say."""
    return place.hello is None or place.segment is not None


def _kill(place: _Place) -> None:
    with contextlib.suppress(RayError):
        ray.kill(place.actor)


def _last_line(error: RayError) -> str:
    """Return the line of Ray's many that says what happened."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
