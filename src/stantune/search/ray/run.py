"""A search's trainings on a Ray cluster: what nodes need to know, by names that mean the same on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stantune.images.trainer import TrainerOrder
from stantune.search.ray.checkpoints import FetchingOrder, RemoteDirectory
from stantune.search.ray.cluster import Cluster, Share
from stantune.search.ray.executor import RayExecutor
from stantune.search.ray.places import signed
from stantune.search.table.directory import SearchDirectory
from stantune.search.workers.executors import Trainer
from stantune.search.workers.workers import Limits


@contextmanager
def trainings_on(
    cluster: Cluster, order: TrainerOrder, directory: SearchDirectory, limits: Limits, most: int | None
) -> Iterator[RayExecutor]:
    """Give what trains a search's tasks on a cluster; call it under `directory.locked()`.

    Args:
        cluster: where.
        order: makes a trainer on this machine.
        directory: the search's; checkpoints are in it, and all nodes see it, unless it is a RemoteDirectory.
        limits: what a training may use.
        most: trainings at the same time, None for as many as there is room for.

    Raises:
        UsageError: no node has room for a training.
        StantuneError: checkpoints cannot be written.
    """
    settings = order.settings
    path = directory.path.resolve()
    there = replace(
        order,
        problem=_absolute(order.problem),
        data=order.data and order.data.resolve(),
        # Without the trial table, which nodes do not touch and whose URL may hold a password.
        directory=SearchDirectory(path),
    )
    make: Callable[[int], Trainer] = there
    url = str(path)
    if isinstance(directory, RemoteDirectory):
        url = directory.elsewhere.url
        make = FetchingOrder(there, url)
    share = Share(settings.threads, int(settings.device.startswith("cuda")))
    with signed(url) as sign, RayExecutor(cluster, make, share, sign, limits, most) as executor:
        yield executor
    if isinstance(directory, RemoteDirectory):
        directory.bring_finals(settings.finalists)


def _absolute(problem: str) -> str:
    """Return a problem's name as it is, and FILE.py:NAME with the file's whole path."""
    file, colon, name = problem.rpartition(":")
    return f"{Path(file).resolve()}:{name}" if colon else problem
