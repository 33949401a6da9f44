"""The way to a Ray cluster and back: reaching it in bounded time, and what it has room for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from stantune.errors import StantuneError, UsageError

try:
    import ray
    from ray._private import services
    from ray._private import worker as ray_internals
    from ray.job_config import JobConfig
except ImportError as error:
    raise StantuneError("Ray is not installed; pip install 'stantune[ray]'") from error

CONNECT_SECONDS = 10.0
# What opens a conversation in HTTP/2, which Ray's server speaks, and the kind of the first frame of its answer.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


class Share(NamedTuple):
    """What a training has of its node.

    Attributes:
        cpus: as many as it has threads.
        gpus: 1 where it trains on one, else 0.
    """

    cpus: int
    gpus: int

    def __str__(self) -> str:
        """Return it as sentences have it."""
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}" + (" and a GPU" if self.gpus else "")


class Room(NamedTuple):
    """What a cluster has room for.

    Attributes:
        nodes: those with room for a training.
        trainings: side by side on all of them.
    """

    nodes: int
    trainings: int


class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        address: its, host and port.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def device(self, asked: str) -> str:
        """Return where trainings run, of the values of `device`; raises UsageError where the cluster has none such."""
        gpus = sum(node["Resources"].get("GPU", 0) for node in _nodes())
        if asked == "auto":
            return "cuda" if gpus else "cpu"
        if asked not in ("cpu", "cuda"):
            raise UsageError(f"`device`={asked}: Ray says which GPU a training has; give auto, cpu or cuda")
        if asked == "cuda" and not gpus:
            raise UsageError(f"`device`=cuda: no node of the Ray cluster at {self.address} has a GPU; give auto or cpu")
        return asked

    def room(self, share: Share) -> Room:
        """Return what there is room for, whatever of it is taken at the moment."""
        fits = [_fits(node["Resources"], share) for node in _nodes()]
        return Room(sum(fit > 0 for fit in fits), sum(fits))

    def has(self, node: str) -> bool:
        """Tell whether the node with this id is alive."""
        return any(each["NodeID"] == node for each in _nodes())


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect this process to the cluster at an address ("auto": the one that this machine belongs to).

    Raises:
        UsageError: the address is none that a search can use.
        StantuneError: no cluster can be reached there.
    """
    if "://" in address:
        raise UsageError(
            f"`address`={address} is Ray's client; run the command on a machine of the cluster, with `address` auto, "
            "or HOST:PORT of its head node"
        )
    found = _resolve(address)
    _knock(found)
    # A connection of the program's own, or of another search, is refused another one, and stays.
    others = ray.is_initialized()
    say = ray_internals.print_to_stdstream
    try:
        _enter(found)
        # Ray writes messages about nodes to standard output, which is the result's.
        ray_internals.print_to_stdstream = lambda *message, **how: None
        yield Cluster(found)
    finally:
        ray_internals.print_to_stdstream = say
        if not others:
            ray.shutdown()


def _resolve(address: str) -> str:
    if address != "auto":
        if not address.rpartition(":")[2].isdigit():
            raise UsageError(f"`address`={address} is no address of a Ray cluster; give its head's HOST:PORT, or auto")
        return address
    try:
        return str(services.canonicalize_bootstrap_address(address))
    except (ConnectionError, ValueError) as error:
        raise StantuneError(
            "this machine belongs to no running Ray cluster; start one ('ray start'), or give its head node with "
            "`address` HOST:PORT"
        ) from error


def _knock(address: str) -> None:
    """Raise StantuneError where no server answers as Ray's does; Ray itself would try for minutes, and then exit."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except (OSError, ValueError, OverflowError) as error:
        what = "timed out" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or error
        raise StantuneError(
            f"no Ray cluster can be reached at {address} ({what}); see that its head node runs and that `address` is "
            "its HOST:PORT"
        ) from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise StantuneError(
            f"what answers at {address} is not Ray; give the port that 'ray start --head' says (6379 unless chosen)"
        )


class _Job(JobConfig):  # type: ignore[misc]
    """A job whose nodes import nothing from the driver's working folder, which Ray would have put first.

    A trainer's process is told of the folders that modules are imported from here (NodeOrder); an actor needs none.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path: list[str] = []
        return super()._serialize()


def _enter(address: str) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", job_config=_Job())
    except (RuntimeError, ConnectionError, OSError, ValueError) as error:
        raise StantuneError(
            f"the Ray cluster at {address} cannot be joined ({' '.join(str(error).split())}); run the command on one "
            "of its machines, with the same versions of Python and Ray"
        ) from error
    finally:
        # Ray puts its own in place; nobody may in another thread, nor can what is None, not being Python's.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)


def _nodes() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]


def _fits(resources: dict[str, float], share: Share) -> int:
    fits = resources.get("CPU", 0) // share.cpus
    if share.gpus:
        fits = min(fits, resources.get("GPU", 0) // share.gpus)
    return int(fits)
