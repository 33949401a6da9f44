"""A search's directory: its lock, its files, and what tells it from another search's."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stantune.errors import StantuneError, StoreError, UsageError
from stantune.files import delete, write_whole
from stantune.search.directory.claiming import begun_before_notes, occupied
from stantune.search.directory.locking import is_locked, is_others
from stantune.search.directory.names import ASIDE, DATABASE, LOCK, LOG, LOGGED, LOGS, NOTE, PART, STUDY_RESULT, TRAINED
from stantune.search.directory.note import Note, unwritten
from stantune.search.plan.finals import best_weights_of, ranks_in, weights_of
from stantune.search.plan.values import Final, Job
from stantune.search.table import studies
from stantune.search.table.storages.masking import without_password
from stantune.search.table.storages.opening import holds_others, holds_search, located, same_place, sqlite_url
from stantune.texts import encodable, one_line

_STUDY = "search"
# In the note: by which its study in a shared storage is known.
_OWNER = "owner"
# A search that was killed as it started a worker leaves that one with the lock until it is a program of its own.
_LOCK_SECONDS = 1.0


def owner_of(file: Path) -> Path | None:
    """Return the directory of the search or study that needs this file, now or one day; None where none does."""
    file = file.resolve()
    for path in (file.parent, file.parent.parent):
        directory = SearchDirectory(path)
        if directory.is_marked() and directory.owns(file):
            return path
    return file.parent if file.name == STUDY_RESULT and file.is_file() else None


class SearchDirectory:
    """The files of one search. The trial table is the truth; the checkpoints beside it can be made again.

    Attributes:
        path: the directory.
        url: of the Optuna storage that holds the trial table.
        study: the study's name in it.
    """

    def __init__(self, path: Path, storage: str | None = None) -> None:
        # Absolute from the start: whoever changes the working folder later changes nothing here.
        self.path = path.absolute()
        if encodable(str(self.path)) != str(self.path):
            raise UsageError(
                f"directory {encodable(str(self.path))} has a name that is no text in UTF-8; choose another with `out`"
            )
        self.url = located(storage) if storage else sqlite_url(self.path / DATABASE)
        # A database of one's own needs no telling name; in a shared one the directory tells searches apart.
        self.study = f"stantune {self.path.resolve()}" if storage else _STUDY
        self._where = without_password(self.url) if storage else DATABASE
        self._note = Note(self.path / NOTE)

    @classmethod
    def begun(cls, path: Path, storage: str | None = None) -> SearchDirectory:
        """Return the directory of a search that was begun before, with its table where its note says.

        `storage` is used where it is the one noted: a note holds no password. Raises StantuneError where the note may
        not be read.
        """
        directory = cls(path)
        noted = directory._note.storage_to_look_at()
        if noted in (None, DATABASE):
            return directory
        return cls(path, storage if storage is not None and same_place(storage, noted) else noted)

    @property
    def result(self) -> Path:
        """The result, as the JSON contract has it."""
        return self.path / "result.json"

    @property
    def run(self) -> Path:
        """What is known of the search's last run, for those who look at it."""
        return self.path / "last-run.json"

    @property
    def options(self) -> Path:
        """The options of the command that trained here last, to look at and to give again."""
        return self.path / "search-options.toml"

    @property
    def log(self) -> Path:
        """What the search has said, with times; older lines are in files beside it."""
        return self.path / LOG

    @property
    def logged(self) -> Path:
        """What loggers were told."""
        return self.path / LOGGED

    def checkpoint(self, number: int) -> Path:
        """Return the checkpoint of a trial."""
        return self.path / "checkpoints" / f"trial-{number:06d}.pt"

    def final(self, rank: int = 0) -> Path:
        """Return the checkpoint of a finalist's training, by its rank; at its end it holds the weights."""
        return self.path / weights_of(rank)

    def best(self, rank: int = 0) -> Path:
        """Return the file for the weights of a finalist's best evaluation, by its rank."""
        return self.path / best_weights_of(rank)

    def ranks(self) -> set[int]:
        """Return the ranks of the finalists whose trainings have left a checkpoint."""
        return ranks_in(path.name for path in self.path.iterdir())

    def checkpoint_of(self, job: Job | Final) -> Path:
        """Return the checkpoint of a training."""
        return self.final(job.rank) if isinstance(job, Final) else self.checkpoint(job.number)

    def make_room(self, checkpoint: Path) -> None:
        """See to it that whoever trains has a folder to write the checkpoint to; raises StantuneError."""
        with _one_sentence(checkpoint.parent):
            checkpoint.parent.mkdir(parents=True, exist_ok=True)

    def holds(self, checkpoint: Path) -> bool:
        """Tell whether a checkpoint is there."""
        return checkpoint.exists()

    def digest(self, checkpoint: Path) -> str | None:
        """Return what tells a checkpoint from any other content; None where it is not there."""
        try:
            with checkpoint.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None

    def copy(self, checkpoint: Path, to: Path) -> None:
        """Have a checkpoint under another name, too, where there is one.

        Raises StantuneError where it cannot be written.
        """
        if checkpoint.exists():
            with _one_sentence(to):
                write_whole(to, checkpoint.read_bytes())

    def discard(self, checkpoint: Path) -> None:
        """Delete a checkpoint if there is one; whoever trains by ask and tell may have made a folder of it."""
        delete(checkpoint)

    def set_aside(self, checkpoint: Path) -> None:
        """Have a damaged file out of a checkpoint's way; it may be somebody else's, so it is kept."""
        if checkpoint.exists():
            # One that was set aside before is kept, too.
            ends = itertools.chain([""], (f".{number}" for number in itertools.count(2)))
            asides = (checkpoint.with_name(f"{checkpoint.name}{ASIDE}{end}") for end in ends)
            checkpoint.replace(next(aside for aside in asides if not os.path.lexists(aside)))

    def sweep(self, checkpoint: Path) -> None:
        """Delete what a process was writing to a checkpoint when it was killed; call it when no process writes it."""
        for part in checkpoint.parent.glob(f".{checkpoint.name}.*.part"):
            part.unlink(missing_ok=True)

    def sweep_all(self) -> None:
        """Delete what processes were writing when they were killed; whole files never have such names."""
        for part in (*self.path.glob(".*.part"), *self.path.glob("checkpoints/.*.part")):
            if self.is_half(part):
                part.unlink(missing_ok=True)

    def is_half(self, part: Path) -> bool:
        """Tell whether this is a file of ours that is not whole yet; another program may be writing one of its own."""
        written = PART.fullmatch(part.name)
        return written is not None and (written[1] is None or self.owns(part.with_name(written[1])))

    def owns(self, file: Path) -> bool:
        """Return whether a file is the search's own, or would be one day."""
        file = file.resolve()
        if file.parent == (self.path / "checkpoints").resolve():
            return True
        files = (self.result, self.run, self.options, self.logged, self._request, self._note.file)
        names = {LOCK, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", *(path.name for path in files)}
        ours = file.name in names or LOGS.fullmatch(file.name) or TRAINED.fullmatch(file.name)
        return file.parent == self.path.resolve() and bool(ours)

    def is_marked(self) -> bool:
        """Tell whether a search may have been begun here: there is a note, or a database, whoever made it."""
        return self._note.file.exists() or (self.path / DATABASE).exists()

    def may_hold_search(self) -> bool:
        """Tell whether a search was begun here; of a storage elsewhere, which may be a server's, it is supposed."""
        if self.study != _STUDY or self._note.file.exists():
            return True
        database = self.path / DATABASE
        # One that is damaged or held may be a search's of long ago, which has no note.
        return database.exists() and holds_search(database, _STUDY) is not False

    def was_begun(self) -> bool:
        """Tell whether a search was begun here whose table was there."""
        return self._note.was_begun()

    def in_use(self) -> bool:
        """Tell whether a process has the directory locked; nothing is written, so that it need not be allowed."""
        try:
            return is_locked(self.path / LOCK)
        except OSError:
            return False

    def ask_to_stop(self) -> None:
        """Ask whoever runs the search here to end in good order; raises StantuneError where that cannot be written."""
        self._write(self._request, "")

    def asked_to_stop(self) -> bool:
        """Tell whether somebody asked for that since the directory was locked."""
        return self._request.exists()

    def take_back(self) -> None:
        """Ask for nothing any more."""
        with contextlib.suppress(OSError):
            self._request.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory if need be and keep other searches out of it; a killed process holds no lock for long.

        Raises:
            StantuneError: it cannot be made or written to, or another search is running in it.
            UsageError: its search keeps its table in another storage, a study has its result there, or files lie there
                that a search would overwrite.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._note.file.exists() and is_others(self.path / LOCK):
                raise occupied(self.path, LOCK)
            # What is asked and told may be closed by another thread than opened it.
            lock = FileLock(self.path / LOCK, thread_local=False)
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise StoreError(
                f"another search is running in {self.path}; wait for it, end it, or choose another directory with `out`"
            ) from None
        except OSError as error:
            raise StantuneError(
                f"directory {self.path} cannot be written to ({error.strerror or error}); make it writable, or choose "
                "another with `out`"
            ) from error
        try:
            self._check_storage()
            self._claim()
            self.sweep_all()
            # What was asked of an earlier run is over with it.
            self.take_back()
            yield
        finally:
            lock.release()

    def new_owner(self) -> str | None:
        """Note a key, and return the mark of a study that is begun with it; None where no shared storage gets one.

        Another machine may have a directory of the same path, and so a study of the same name. Raises StantuneError.
        """
        if self.study == _STUDY or self.was_begun():
            return None
        # The key of a search that was killed as it began is its study's.
        key = self._note.more().get(_OWNER) or secrets.token_hex(8)
        self._note.write(self._where, begun=False, **{_OWNER: key})
        return f"{key} {self.path.resolve()} on {platform.node()}"

    def note_storage(self, owner: str | None = None) -> None:
        """Write down where the trial table is, so that a later run does not begin a second one elsewhere.

        Args:
            owner: the mark of its study: whoever goes on with a search that was begun elsewhere may delete it as well.

        Raises:
            StantuneError: it cannot be written.
        """
        noted = self._note.more().get(_OWNER)
        key = noted if owner is None else owner.partition(" ")[0]
        # Older notes may have a relative path, whose folder this call has shown.
        if not self.was_begun() or self._note.storage() != self._where or key != noted:
            self._note.write(self._where, begun=True, **({} if key is None else {_OWNER: key}))

    def write_result(self, text: str) -> None:
        """Keep the result; raises StantuneError where it cannot be written."""
        self._write(self.result, text)

    def write_options(self, text: str) -> None:
        """Keep what the search was asked for; raises StantuneError where it cannot be written."""
        self._write(self.options, text)

    def clear(self) -> bool:
        """Delete the search: its table, checkpoints and results, and nothing else; call it under the lock.

        The table is last, so that what a kill leaves is a search that goes on, with checkpoints to be trained again.
        Returns whether the table was there, or no search was begun. Raises UsageError where the study in a shared
        storage is that of another machine, which has a directory of the same path.
        """
        self._check_owner()
        database = self.path / DATABASE
        # Another program's studies, or what was exported there, stay, and so does the file.
        alone = self.study == _STUDY and not (database.exists() and holds_others(database, _STUDY))
        begun = self.was_begun()
        folder = self.path / "checkpoints"
        for path in (*self.path.iterdir(), *(folder.iterdir() if folder.is_dir() else ())):
            if TRAINED.fullmatch(path.name):
                delete(path)
        with contextlib.suppress(OSError):  # a link, or somebody else's files are in it
            folder.rmdir()
        logs = [path for path in self.path.glob(f"{LOG}*") if LOGS.fullmatch(path.name)]
        for path in (self.result, self.run, self.options, self.logged, self._request, *logs):
            path.unlink(missing_ok=True)
        # Before the table: it would be missed by a search that had begun.
        self._note.write(self._where, begun=False)
        if alone:
            there = database.exists()
            for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
                (self.path / name).unlink(missing_ok=True)
        else:
            there = studies.delete(self.url, self.study)
            # Others may have the key, too: they went on with that search, and not with what is begun here next.
            self._note.write(self._where, begun=False, **{_OWNER: None})
        return there or not begun

    def delete(self) -> bool:
        """Delete the search as `clear` does, and the directory, if nothing else is in it; call it under the lock."""
        there = self.clear()
        self._note.file.unlink(missing_ok=True)
        (self.path / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it, or it is a link
            self.path.rmdir()
        return there

    @property
    def _request(self) -> Path:
        return self.path / "stop.request"

    def _write(self, file: Path, text: str) -> None:
        with _one_sentence(file):
            write_whole(file, text.encode())

    def _claim(self) -> None:
        """Note that the directory is a search's, before anything else is written: what is there by then is not ours."""
        if self._note.file.exists():
            if not self.was_begun():
                self._note.write(self._where, begun=False)
            return
        files = (self.result, self.run, self.options, self.logged, self._request)
        if not begun_before_notes(self.path, self.study, self.study == _STUDY, [file.name for file in files]):
            self._note.write(self._where, begun=False)

    def _check_owner(self) -> None:
        """Raise UsageError where the study was begun on another node, and this directory has never gone on with it."""
        owner = None if self.study == _STUDY else studies.begun_by(self.url, self.study)
        key, _, begun = (owner or "").partition(" ")
        if begun and key != self._note.more().get(_OWNER) and not begun.endswith(f" on {platform.node()}"):
            raise UsageError(
                f"the study {self.study!r} in {self._where} was begun in {one_line(begun)}, and this directory does "
                "not know it: it is not deleted; if it is another search's, choose another directory with `out`, or "
                "delete the study with Optuna's `optuna delete-study` once that search is over; if this directory was "
                "lost (a new container, or another node with the same home, has another name), give the search's "
                "command once without `fresh`, which goes on with it, and then this one again"
            )

    def _check_storage(self) -> None:
        noted = self._note.storage()
        if noted is not None and not same_place(noted, self._where) and self.was_begun():
            there = one_line(without_password(noted))
            here = "`storage`=" + self._where if self.study != _STUDY else "no `storage`"
            raise UsageError(
                f"the search in {self.path} keeps its trials in {there}, and the command says {here}; give the same "
                "storage, or another directory with `out`"
            )


@contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritten(file, error) from error
