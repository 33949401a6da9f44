"""Checkpoints that all nodes of a cluster find behind a URL: fetched before each training, sent there after it."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stantune.errors import StantuneError, UsageError
from stantune.files import delete
from stantune.outcome import Outcome
from stantune.protocols import Segment, StopEarly, Trainer
from stantune.search.directory.directory import SearchDirectory
from stantune.search.directory.names import TRAINED
from stantune.search.plan.finals import SUBSTITUTES, ranks_in
from stantune.search.ray.places import SIGN, Place
from stantune.texts import one_line

# By which a search is known at a URL: a file there, and its name in the search's own note.
OWNER = "stantune-search.txt"
_KEY = "checkpoints"


class RemoteDirectory(SearchDirectory):
    """A search's directory whose checkpoints are elsewhere; all else is in it, the finalists' weights as well."""

    def __init__(self, path: Path, storage: str | None, url: str) -> None:
        """Keep checkpoints at `url`, and the trial table as SearchDirectory does; raises UsageError."""
        super().__init__(path, storage)
        self.elsewhere = Place(url)

    def ranks(self) -> set[int]:
        """See SearchDirectory."""
        return ranks_in(self.elsewhere.names())

    def make_room(self, checkpoint: Path) -> None:
        """Do nothing: a node makes the folder that it trains in."""

    def holds(self, checkpoint: Path) -> bool:
        """See SearchDirectory."""
        return self.elsewhere.holds(checkpoint.name)

    def digest(self, checkpoint: Path) -> str | None:
        """None: it is fetched only in the end."""
        return None

    def set_aside(self, checkpoint: Path) -> None:
        """Delete it: what lies there was sent by a search."""
        self.discard(checkpoint)

    def discard(self, checkpoint: Path) -> None:
        """See SearchDirectory; what was brought from there goes, too."""
        self.elsewhere.delete(checkpoint.name)
        super().discard(checkpoint)

    def sweep(self, checkpoint: Path) -> None:
        """See SearchDirectory."""
        self.elsewhere.sweep(f".{checkpoint.name}.*.part")

    def sweep_all(self) -> None:
        """See SearchDirectory."""
        super().sweep_all()
        for name in self.elsewhere.names():
            if self.is_half(self.path / name) or SIGN.fullmatch(name):
                self.elsewhere.delete(name)

    def clear(self) -> bool:
        """See SearchDirectory; whose place it is there stays noted."""
        there = super().clear()
        for name in self._checkpoints_there():
            self.elsewhere.delete(name)
        return there

    def _claim(self) -> None:
        """See SearchDirectory; neither another search's checkpoints are taken or deleted there, nor another program's.

        Raises UsageError where the place is not this search's.
        """
        super()._claim()
        begun, key = self.was_begun(), self._note.more().get(_KEY)
        if key is None:
            key = secrets.token_hex(8)
            self._note.write(self._where, begun, **{_KEY: key})
        owner, _, directory = self.elsewhere.read(OWNER).decode(errors="replace").strip().partition(" ")
        if owner == key:
            return
        where, found = f"`checkpoints`={self.elsewhere.where}", self._checkpoints_there()
        # What was begun in this very directory and deleted, or came to nothing, is over.
        mine = f"{self.path} on {platform.node()}"
        if owner and (found or directory != mine):
            holds = "holds the checkpoints" if found else f"is, as {OWNER} there says, the folder"
            raise UsageError(
                f"{where} {holds} of another search, which was begun in {one_line(directory)}; name another folder, or "
                "empty it if that search is over"
            )
        # Searches that were begun before noted nothing there.
        if not begun and found:
            raise UsageError(
                f"{where} holds {found[0]}, which this search did not write and would overwrite; name another folder, "
                "or empty it"
            )
        self.elsewhere.write(OWNER, f"{key} {mine}\n".encode())

    def _checkpoints_there(self) -> list[str]:
        """Return the names of the checkpoints that are there, without what only looks like one."""
        return [name for name in self.elsewhere.names() if name.endswith(".pt") and TRAINED.fullmatch(name)]

    def bring_finals(self, finalists: int) -> None:
        """Fetch the weights of so many finalists, and of who stands in for them, where there are some.

        Raises StantuneError.
        """
        for rank in range(finalists + SUBSTITUTES if finalists else 0):
            for weights in (self.final(rank), self.best(rank)):
                if self.elsewhere.holds(weights.name):
                    self.elsewhere.fetch(weights.name, weights)


@dataclass(frozen=True)
class FetchingOrder:
    """Makes a trainer that fetches each checkpoint from a URL and sends it there; see workers.Order.

    Attributes:
        order: makes the trainer itself.
        url: where checkpoints are kept.
    """

    order: Callable[[int], Trainer]
    url: str

    def __call__(self, number: int) -> Trainer:
        """See Order."""
        # The next worker process of the same actor finds what this one leaves behind when it is killed, and clears it.
        # The node's name is there for whoever is told of a log in it.
        scratch = _own_folder() / f"{platform.node()}-{os.getppid()}"
        return FetchingTrainer(self.order(number), Place(self.url), scratch)


class FetchingTrainer:
    """Trains with a checkpoint that is fetched before, into a scratch folder, and sent after; see protocols.Trainer."""

    def __init__(self, trainer: Trainer, elsewhere: Place, scratch: Path) -> None:
        """Train with `trainer`."""
        self._trainer = trainer
        self._elsewhere = elsewhere
        self._scratch = scratch
        # Of trainings that failed: what they say of it may name a log there, as a command's does.
        self._logs: set[Path] = set()
        shutil.rmtree(scratch, ignore_errors=True)

    def train(self, segment: Segment, stop_early: StopEarly, watch: Callable[[int], None]) -> Outcome:
        """See protocols.Trainer."""
        path = self._scratch / segment.checkpoint.name
        best = None if segment.best is None else self._scratch / segment.best.name
        try:
            for file in filter(None, (path, best)):
                self._elsewhere.fetch(file.name, file)
            outcome = self._trainer.train(replace(segment, checkpoint=path, best=best), stop_early, watch)
            # The best of a training that diverged later is what is left of it.
            for file in filter(None, (best, path if outcome.diverged_at is None else None)):
                if file.exists():
                    self._elsewhere.send(file, file.name)
            return outcome
        except Exception:
            self._logs.add(path.with_suffix(""))
            raise
        finally:
            self._clear()

    def _clear(self) -> None:
        """Delete the checkpoints, and the folders beside them but for those of trainings that failed."""
        for path in self._scratch.glob("*"):
            if path not in self._logs:
                delete(path)
        with contextlib.suppress(OSError):  # there are logs in it, or nothing was ever fetched
            self._scratch.rmdir()


def _own_folder() -> Path:
    """Return a folder for temporary files in which no other user can put any; raises StantuneError where it is none.

    The system's own is everybody's, and somebody could be there first.
    """
    if not hasattr(os, "geteuid"):  # Windows, where each user has one
        return Path(tempfile.gettempdir()) / "stantune"
    folder = Path(tempfile.gettempdir()) / f"stantune-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    there = folder.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & 0o077:
        raise StantuneError(
            f"{folder} on node {platform.node()} is not this user's alone, so that checkpoints could be altered there; "
            "delete it, or start the node with another folder for temporary files (TMPDIR)"
        )
    return folder
