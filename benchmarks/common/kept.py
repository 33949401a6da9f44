"""Where measurements are kept, a record a line, so that one that was ended goes on where it was."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

RESULTS = Path(__file__).parents[1] / "results"
R = TypeVar("R")


class Kept(Generic[R]):
    """Records in a file of JSON lines: each is added when it is there; of one key the last one counts."""

    def __init__(self, file: Path, of: Callable[[Mapping[str, Any]], R], key: Callable[[R], object]) -> None:
        """Read the file, if it is there. A line that was cut off is left out, with a word."""
        self._file = file
        self._key = key
        self.records: dict[object, R] = {}
        for number, line in enumerate(file.read_text().splitlines() if file.exists() else (), 1):
            if line:
                try:
                    record = of(json.loads(line))
                except (ValueError, TypeError, KeyError):
                    print(f"{file}, line {number} is no record and is left out", file=sys.stderr)
                    continue
                self.records[key(record)] = record

    def add(self, record: R) -> None:
        """Keep a record, on the disk as well."""
        self.records[self._key(record)] = record
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut_off = file.read(1) != b"\n"
                file.write(b"\n" * cut_off)
            file.write(f"{json.dumps(asdict(record))}\n".encode())  # type: ignore[call-overload]
            file.flush()
            os.fsync(file.fileno())
