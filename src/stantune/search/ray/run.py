"""trainings_on: what trains a search's segments on a cluster, and brings the finalists' weights here in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stantune.protocols import Trainer
from stantune.search.directory.directory import SearchDirectory
from stantune.search.ray.checkpoints import FetchingOrder, RemoteDirectory
from stantune.search.ray.cluster import Cluster, Share
from stantune.search.ray.executor import RayExecutor
from stantune.search.ray.places import signed
from stantune.search.workers.order import Order
from stantune.search.workers.workers import Limits


@contextmanager
def trainings_on(
    cluster: Cluster, order: Order, directory: SearchDirectory, limits: Limits, most: int | None, finalists: int
) -> Iterator[RayExecutor]:
    """Give what trains a search's segments on a cluster; call it under `directory.locked()`.

    Args:
        cluster: where.
        order: makes a trainer.
        directory: the search's; checkpoints are in it, and all nodes see it, unless it is a RemoteDirectory.
        limits: what a training may use.
        most: trainings at the same time, None for as many as there is room for.
        finalists: whose weights are brought here in the end.

    Raises:
        UsageError: no node has room for a training.
        StantuneError: checkpoints cannot be written.
    """
    make: Callable[[int], Trainer] = order
    url = str(directory.path)
    if isinstance(directory, RemoteDirectory):
        url = directory.elsewhere.url
        make = FetchingOrder(order, url)
    share = Share(order.place.threads or 1, int(order.place.device.startswith("cuda")))
    with signed(url) as sign, RayExecutor(cluster, make, share, sign, limits, most) as executor:
        yield executor
    if isinstance(directory, RemoteDirectory):
        directory.bring_finals(finalists)
