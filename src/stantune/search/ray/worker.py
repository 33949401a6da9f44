"""What runs on a node of a Ray cluster: an actor that has a worker process train what the search sends."""

from __future__ import annotations

import pickle
import platform
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from stantune.errors import StantuneError
from stantune.protocols import Segment, Trainer
from stantune.search.ray.places import Sign
from stantune.search.workers.executors import cause_of
from stantune.search.workers.worker import Broken, Moved, Over
from stantune.search.workers.workers import Limits, Workers
from stantune.user_code.module_paths import Folders, import_from_all

# A result depends on their versions.
_PACKAGES = ("stantune", "torch")


class Begun(NamedTuple):
    """From an actor: it has the segment, which from now on is lost with it."""


class Hello(NamedTuple):
    """What an actor says of itself when it is there.

    Attributes:
        node: the id of its node.
        host: the node's name.
        versions: of what a result depends on, as sentences have it.
    """

    node: str
    host: str
    versions: str


@dataclass(frozen=True)
class NodeOrder:
    """Makes a trainer in the worker process of a node.

    Attributes:
        order: pickled; makes the trainer. The actor does not unpickle it: that would load PyTorch once more.
        sign: what the node has to see.
        folders: from which the user's own modules are imported, too, as where the search was begun.
    """

    order: bytes
    sign: Sign
    folders: Folders

    def __call__(self, place: int) -> Trainer:
        """See workers.Order; raises StantuneError where the node does not see the search's checkpoints."""
        self.sign.check()
        import_from_all(self.folders)
        trainer: Trainer = pickle.loads(self.order)(place)
        return trainer


class RayWorker:
    """Trains one segment at a time, in a process of its own: which may be killed, hang or take too much memory.

    A Ray actor has one for each training that runs at the same time. What it may use is what Ray gives to it.
    """

    def __init__(self, order: NodeOrder, limits: Limits) -> None:
        self._workers = Workers(order, 1, limits)
        # The system ends a worker process together with the thread that started it, so that this one must last.
        self._thread = ThreadPoolExecutor(1)
        self._stopping = threading.Event()

    def hello(self) -> Hello:
        """Say who is there."""
        # Not at the top: worker processes import this module, too.
        from ray import get_runtime_context

        return Hello(get_runtime_context().get_node_id(), platform.node(), versions())

    def train(self, segment: Segment) -> Iterator[Begun | Moved | Over | Broken]:
        """Train, and say how it goes; the last thing said is that it is over, or that no training can go on."""
        said: queue.SimpleQueue[Moved | Over | Broken] = queue.SimpleQueue()
        self._thread.submit(self._train, segment, said)
        yield Begun()
        last = False
        while not last:
            message = said.get()
            last = not isinstance(message, Moved)
            yield message

    def stop(self) -> None:
        """End the present segment in good order, and any that comes."""
        self._stopping.set()

    def _train(self, segment: Segment, said: queue.SimpleQueue[Moved | Over | Broken]) -> None:
        try:
            self._workers.submit(segment)
            [ended] = self._workers.finished(self._stopping.is_set, lambda _, done: said.put(Moved(done)))
            said.put(Over(ended.how))
        except StantuneError as error:
            said.put(Broken(error))
        except Exception as error:
            said.put(Broken(StantuneError(f"a worker process cannot be looked after ({cause_of(error)})")))


def versions() -> str:
    """Return the versions of what a result depends on; builds of PyTorch for several devices count as one."""

    def of(package: str) -> str:
        try:
            return version(package).partition("+")[0]
        except PackageNotFoundError:
            return "none"

    return ", ".join(f"{package} {of(package)}" for package in _PACKAGES)
