"""Files that are gone on from, damaged or others: checkpoints, records of a comparison, a search's own notes."""

from __future__ import annotations

import io
import json
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from stantune.compare.comparison import _PLANS, _TRAININGS, threads_of_records
from stantune.compare.records import Records
from stantune.errors import StantuneError
from stantune.search.directory.directory import SearchDirectory
from stantune.training import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from fuzz_formats import mutated, program  # isort: skip
from fuzz import Make  # isort: skip
from fuzz_cells import changed_json  # isort: skip
from values import value  # isort: skip

IDENTITY = {"seed": 0, "problem": {"name": "tiny"}}
STATE = {"model": {"w": torch.arange(6.0)}, "iteration": 5, "cost": {"exact": 5}, "done": [True, None, "x", 2.5]}


def archive_of(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def with_pickle(content: bytes, made: bytes) -> bytes:
    """A checkpoint's archive with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, made if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def prepare(place: Path) -> Make:
    """Have files damaged in `place`."""
    saved = {"version": checkpoint.VERSION, "identity": "mine", "state": STATE}
    archive = archive_of(saved)
    (place / "records").mkdir()
    records = Records(place / "records", IDENTITY)
    training = {
        "iterations": 5, "errors": {"validation": 1.0}, "seconds": 1.0, "diverged_at": None,
    }  # fmt: skip
    begun = place / "begun"

    def write_checkpoint(rng: random.Random) -> Callable[[], object]:
        way, path = rng.randrange(6), place / "c.pt"
        if way == 0:
            content = mutated(checkpoint.sealed(archive), rng)
        elif way == 1:
            content = checkpoint.sealed(mutated(archive, rng))
        elif way == 2:
            content = checkpoint.sealed(with_pickle(archive, program(rng)))
        elif way == 3:
            with zipfile.ZipFile(io.BytesIO(archive)) as old:
                made = old.read(next(name for name in old.namelist() if name.endswith("data.pkl")))
            content = checkpoint.sealed(with_pickle(archive, mutated(made, rng)))
        elif way == 4:
            other = {**saved, rng.choice(("version", "identity", "state")): plain_value(rng)}
            if rng.random() < 0.3:
                del other[rng.choice(list(other))]
            content = checkpoint.sealed(archive_of(other))
        else:
            content = checkpoint.sealed(archive_of(plain_value(rng)))
        path.write_bytes(content)
        return lambda: checkpoint.load(path, "mine")

    def write_record(rng: random.Random) -> Callable[[], object]:
        kind: TypeAdapter[Any] = rng.choice((_TRAININGS, _PLANS))
        name = "plans" if kind is _PLANS else "seed"
        record: Any = {"version": 1, "identity": IDENTITY, "content": {"exact": training}}
        content = json.dumps(changed_json(record, rng)).encode()
        if rng.random() < 0.6:
            content = mutated(content, rng)
        write(place / "records" / f"{name}.json", content, rng)

        def read() -> None:
            threads_of_records(place / "records")
            with records.locked():
                records.load(name, kind)

        return read

    def write_note(rng: random.Random) -> Callable[[], object]:
        begun.mkdir(exist_ok=True)
        note = json.dumps(changed_json({"storage": "search.db", "begun": True}, rng)).encode()
        write(begun / "search.json", mutated(note, rng) if rng.random() < 0.6 else note, rng)
        write(begun / "result.json", rng.randbytes(9), rng)
        url = rng.choice((None, None, "sqlite:///x.db", "a://b"))

        def read() -> None:
            SearchDirectory.begun(begun, url).may_hold_search()
            directory = SearchDirectory(begun, url)
            directory.was_begun()
            with directory.locked():
                directory.note_storage()
                directory.write_result("{}")

        return read

    def make(rng: random.Random) -> tuple[str, Callable[[], str]]:
        kind = rng.choice((write_checkpoint, write_checkpoint, write_record, write_note))
        read = kind(rng)

        def tries() -> str:
            try:
                read()
            except StantuneError as error:
                said = str(error)
                return "refused" if said.isprintable() and len(said) < 3000 else f"words: {said!r}"
            return "works"

        return kind.__name__, tries

    return make


def write(path: Path, content: bytes, rng: random.Random) -> None:
    """Write a file, or now and then have a folder, a link to nowhere or nothing in its place."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    way = rng.randrange(30)
    if way == 0:
        path.mkdir()
    elif way == 1:
        path.symlink_to("nowhere")
    elif way == 2:
        path.symlink_to(path.name)
    elif way == 3:
        path.write_bytes(b"[" * 100_000)
    elif way == 4:
        path.write_bytes(b'{"storage": ' + b"9" * 5000 + b"}")
    elif way > 5:
        path.write_bytes(content)


def plain_value(rng: random.Random) -> Any:
    """A value that can be pickled."""
    while True:
        made = value(rng)
        try:
            archive_of(made)
        except Exception:
            continue
        return made
