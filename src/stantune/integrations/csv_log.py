"""A logger that writes a CSV file: a row for each thing, to be read by whatever reads tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from stantune.arguments import path
from stantune.errors import StantuneError
from stantune.search.results.columns import metric_columns
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining

FILE = "log.csv"
COLUMNS = ("search", "training", "trial", "name", "step", "value")
# What may be there already was written last: a segment, and no more than so many bytes.
_TAIL = 1 << 20
_HEAD = ",".join(COLUMNS).encode() + b"\r\n"


class CsvLogger:
    """Writes `log.csv` into the search's directory, or the file that it is given.

    `name` is `loss`, a metric's, `params_NAME` or `ended`; `step` counts losses for `loss`, and else iterations. A
    metric that has another's name, such as `loss`, is `metric_loss`. Several searches may write to one file, one after
    the other.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Write to a file; into the search's directory by default."""
        self._given = None if file is None else path("file", file).absolute()
        self.name = "csv" if self._given is None else f"csv={self._given}"
        self._file = Path()
        self._search = ""
        self._tail: set[tuple[str, ...]] = set()

    def begin(self, search: LoggedSearch) -> None:
        """See Logger; raises StantuneError where the file is another's."""
        self._file, self._search = self._given or search.directory / FILE, search.key
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            size = file.tell()
            file.seek(0)
            if size and file.read(len(_HEAD)) != _HEAD[:size]:
                raise StantuneError(f"{self._file} is no log of ours; move it away, or name another file")
            file.seek(max(size - _TAIL, 0))
            tail = file.read()
            whole = tail.rfind(b"\n") + 1
            if whole < len(tail):
                # Cut by a kill: it is told again.
                file.truncate(size - len(tail) + whole)
            if not whole:
                file.write(_HEAD)
        rows = csv.reader(io.StringIO(tail[:whole].decode("utf-8", "replace"), newline=""))
        self._tail = {tuple(row[:5]) for row in rows if len(row) == len(COLUMNS) and row[0] == search.key}

    def training(self, training: LoggedTraining) -> None:
        """See Logger."""
        self._write(training, ((f"params_{name}", "", value) for name, value in training.params.items()))

    def segment(self, training: LoggedTraining, segment: LoggedSegment) -> None:
        """See Logger."""
        rows: list[tuple[str, object, object]] = [("loss", count, mean) for count, mean in segment.losses]
        for iterations, metrics in segment.measured.items():
            names = metric_columns(metrics, ["loss", "ended", *(f"params_{name}" for name in training.params)])
            rows += [(names[name], iterations, value) for name, value in metrics.items()]
        self._write(training, rows)

    def ended(self, training: LoggedTraining, how: str) -> None:
        """See Logger."""
        self._write(training, [("ended", "", how)])

    def close(self) -> None:
        """See Logger."""

    def _write(
        self,
        training: LoggedTraining,
        rows: Sequence[tuple[str, object, object]] | Iterator[tuple[str, object, object]],
    ) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        for name, step, value in rows:
            row = [self._search, training.name, str(training.trial), name, str(step)]
            if tuple(row) not in self._tail:
                writer.writerow([*row, value])
        with self._file.open("ab") as file:
            file.write(text.getvalue().encode())
