"""The options of `stantune search` that are about a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stantune.errors import UsageError

if TYPE_CHECKING:
    from stantune.search.ray.cluster import Cluster
    from stantune.search.table.directory import SearchDirectory
    from stantune.stan.config import Stan


@contextmanager
def cluster_of(engine: str, address: str | None, checkpoints: str | None) -> Iterator[Cluster | None]:
    """Connect to the cluster that the options name; give None where the search trains on this machine.

    Raises:
        UsageError: the options do not go together.
        StantuneError: Ray is not installed, or no cluster can be reached.
    """
    if engine == "ray":
        from stantune.search.ray.cluster import connected

        with connected(address or "auto") as cluster:
            yield cluster
        return
    if engine != "local":
        raise UsageError(f"--executor {engine} is unknown; give local or ray")
    for option, value in (("--address", address), ("--checkpoints", checkpoints)):
        if value is not None:
            raise UsageError(f"{option} {value} is for a Ray cluster; add --executor ray, or leave it away")
    yield None


def directory_of(path: Path, storage: str | None, checkpoints: str | None) -> SearchDirectory:
    """Return the search's directory, with checkpoints where --checkpoints says; raises UsageError."""
    if checkpoints is None:
        from stantune.search.table.directory import SearchDirectory

        return SearchDirectory(path, storage)
    from stantune.search.ray.checkpoints import RemoteDirectory

    return RemoteDirectory(path, storage, checkpoints)


def device_on(cluster: Cluster, asked: str, stan: Stan | None) -> str:
    """Return where a cluster's trainings run; raises UsageError where they cannot, or nothing can be planned for it."""
    import torch

    device = cluster.device(asked)
    if device == "cuda" and stan is not None and stan.rate == "auto" and not torch.cuda.is_available():
        raise UsageError(
            "--rate auto times the layers on this machine, which has no CUDA device; give a rate such as 0.5, or run "
            "the command on a node that has one"
        )
    return device
