"""A logger for TensorBoard: a run for each training, with curves of its losses and metrics, and its setting."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stantune.arguments import path
from stantune.errors import StantuneError
from stantune.files import write_whole
from stantune.search.telling.loggers import LoggedSearch, LoggedSegment, LoggedTraining

FOLDER = "tensorboard"
# Values that it knows; all others are written as texts.
_NUMBERS = (int, float)


class TensorBoardLogger:
    """Writes event files below `tensorboard` in the search's directory, or the folder that it is given.

    Each segment is a file of its own, written whole, and the same file where it is told again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Write below a folder; raises StantuneError where TensorBoard is not installed."""
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.hparams import plugin_data_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise StantuneError("TensorBoard is not installed; pip install 'stantune[tensorboard]'") from error
        self._events, self._summaries, self._plugin, self._writer = (
            event_pb2,
            summary_pb2,
            plugin_data_pb2,
            RecordWriter,
        )
        self._given = None if folder is None else path("folder", folder).absolute()
        self.name = "tensorboard" if self._given is None else f"tensorboard={self._given}"
        self._folder = Path()

    def begin(self, search: LoggedSearch) -> None:
        """See Logger."""
        self._folder = (self._given or search.directory / FOLDER) / search.key

    def training(self, training: LoggedTraining) -> None:
        """See Logger."""
        information = self._plugin.SessionStartInfo(start_time_secs=time.time())
        for name, value in training.params.items():
            if isinstance(value, bool):
                information.hparams[name].bool_value = value
            elif isinstance(value, _NUMBERS):
                information.hparams[name].number_value = value
            else:
                information.hparams[name].string_value = str(value)
        content = self._plugin.HParamsPluginData(session_start_info=information, version=0).SerializeToString()
        metadata = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="hparams", content=content)
        )
        value = self._summaries.Summary.Value(tag="_hparams_/session_start_info", metadata=metadata)
        self._write(training, 0, [(0, value)])

    def segment(self, training: LoggedTraining, segment: LoggedSegment) -> None:
        """See Logger."""
        points = [("loss", count, mean) for count, mean in segment.losses]
        for iterations, metrics in segment.measured.items():
            points += [(f"metrics/{name}", iterations, value) for name, value in metrics.items()]
        values = [
            (step, self._summaries.Summary.Value(tag=tag, simple_value=_single(value))) for tag, step, value in points
        ]
        # One that diverged may have done so in the first iteration behind a rung, which has that rung's number.
        self._write(training, segment.iterations + (segment.diverged_at is not None), values)

    def ended(self, training: LoggedTraining, how: str) -> None:
        """See Logger: TensorBoard has no place for it."""

    def close(self) -> None:
        """See Logger."""

    def _write(self, training: LoggedTraining, number: int, values: list[tuple[int, Any]]) -> None:
        """Write an event file; files of a folder are read in the order of their names."""
        now = time.time()
        content = io.BytesIO()
        writer = self._writer(content)
        events: list[Mapping[str, Any]] = [{"file_version": "brain.Event:2"}]
        events += [{"step": step, "summary": self._summaries.Summary(value=[value])} for step, value in values]
        for event in events:
            writer.write(self._events.Event(wall_time=now, **event).SerializeToString())
        folder = self._folder / training.name
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"events.out.tfevents.{number:012d}.stantune", content.getvalue())


def _single(value: float) -> float:
    """Return a number that there is in single precision."""
    return value if abs(value) < 3.4e38 else math.copysign(math.inf, value)
