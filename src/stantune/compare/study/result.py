"""What a study has come to, for those who called it from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stantune.arguments import path as checked_path
from stantune.compare.study.contract import Interval, StudySummary


@dataclass(frozen=True)
class StudyResult:
    """What a study has come to; `print` it for the most important.

    Attributes:
        path: its folder, with a folder for each search.
        summary: everything in numbers, as study.json in the folder has it.
        interrupted: somebody asked for its end, or its budget was spent; the same call goes on from here.
    """

    path: Path
    summary: StudySummary
    interrupted: bool = False

    @property
    def complete(self) -> bool:
        """Whether all searches are done."""
        return self.summary.complete

    def report(self, path: Path | str | None = None) -> Path:
        """Write a page for a browser about the study and all its searches, and return the file.

        Args:
            path: the file; report.html in the study's folder by default.

        Raises:
            UsageError: something else is in the file.
            StantuneError: Plotly is not installed, or the file cannot be written.
        """
        from stantune.report.page.writing import write_report

        return write_report([self.path], None if path is None else checked_path("path", path))

    def __str__(self) -> str:
        """Say in a line for each problem and way how fast it was and what it found."""
        done = sum(search.state == "done" for search in self.summary.searches)
        lines = [f"{done} of {len(self.summary.searches)} searches are done"]
        for result in self.summary.results:
            faster, test = _text(result.faster_than_stock), _text(result.test)
            lines.append(f"{result.problem}, {result.way}: {faster} times as fast as stock, test {test}")
        return "\n".join(lines)


def _text(value: Interval) -> str:
    return "–" if value.mean is None else f"{value.mean:.4g}"
