"""What a killed search has come to, as far as it must be that of one that nothing happened to."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import stantune as st
from benchmarks.robustness.soaked import FINALISTS
from stantune.search.plan.values import FinalResult


class Result(NamedTuple):
    """All that must be the same in the end, and how many failures there were on the way."""

    rows: list[Any]
    finals: list[FinalResult]
    weights: list[str]
    files: list[str]
    failures: int

    def differs(self, other: Result) -> list[str]:
        """Return the names of what is not the same."""
        return [name for name in self._fields[:-1] if getattr(self, name) != getattr(other, name)]


def result_of(found: st.SearchResult) -> Result:
    """Return what a search has come to, without what it cost and what went wrong on the way."""
    state = found.state
    assert state.complete
    assert len(state.finals) == FINALISTS
    rows = [
        [row.number, row.bracket, row.params, dict(row.errors), dict(row.metrics), row.diverged_at, row.failed]
        for row in state.rows
    ]
    # Digests of files are others each time, since these say what the training took.
    finals = [
        replace(final, cost=st.Cost(), digest=None, best_digest=None) for _, final in sorted(state.finals.items())
    ]
    weights = [content_of(final.weights) if final.weights else "" for final in found.finalists]
    # What SQLite keeps beside its database comes and goes.
    files = [
        str(file.relative_to(found.path)) for file in found.path.rglob("*") if file.suffix not in (".db-wal", ".db-shm")
    ]
    return Result(rows, finals, weights, sorted(files), sum(len(row.failures) for row in state.rows))


def content_of(checkpoint: Path) -> str:
    """Return a digest of what is kept in a checkpoint: all but times."""
    if tarfile.is_tarfile(checkpoint):
        with tarfile.open(checkpoint) as archive:
            members = [member for member in archive if member.isreg() and member.name != "stantune.json"]
            kept: Any = {member.name: _read(archive, member) for member in members}
    elif checkpoint.read_bytes()[:2] == b"PK":
        import torch

        kept = torch.load(checkpoint, weights_only=True)
        if "pytorch-lightning_version" in kept:
            # Its loops count how often they were begun, which is what kills change.
            names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
            kept = {name: kept[name] for name in names}
    else:
        kept = checkpoint.read_bytes()
    digest = hashlib.sha256()
    _feed(digest.update, kept)
    return digest.hexdigest()


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member)
    assert content is not None
    return content.read()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    update(type(value).__name__.encode())
    if isinstance(value, Mapping):
        for key, each in value.items():
            # What a training took is another number each time.
            if key != "cost" and not str(key).endswith("seconds"):
                _feed(update, key)
                _feed(update, each)
    elif isinstance(value, list | tuple):
        for each in value:
            _feed(update, each)
    elif hasattr(value, "numpy"):
        update(f"{value.dtype} {tuple(value.shape)}".encode() + value.cpu().numpy().tobytes())
    else:
        update(value if isinstance(value, bytes) else repr(value).encode())
