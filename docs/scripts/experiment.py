"""Prints the tables of docs/study/experiment.md, of the studies that lie beside it.

    python docs/scripts/experiment.py [--times]

Without --times what a busy machine spoils is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stantune.compare.study.folder import study_in
from stantune.report.study import StudyTable, study_tables
from stantune.search.directory.directory import STUDY_RESULT

STUDIES = Path(__file__).parents[1] / "study"
# Heads of columns that are, or are made of, times; "predicted" and "iteration ×" among them.
TIMES = ("time", "×", "predicted")


def tables(times: bool = False) -> list[StudyTable]:
    """Return a table for each problem of each study, with the ways of which a search is done."""
    found = []
    for file in sorted(STUDIES.glob(f"*/{STUDY_RESULT}")):
        for title, heads, rows in study_tables(study_in(file.parent)):
            kept = [place for place, head in enumerate(heads) if times or not any(part in head for part in TIMES)]
            found.append(
                StudyTable(
                    f"{file.parent.name}, {title}",
                    [heads[place] for place in kept],
                    [[row[place] for place in kept] for row in rows if row[heads.index("seeds")] != "0"],
                )
            )
    return found


def markdown(table: StudyTable) -> str:
    """Return a table as Markdown."""
    rows = [table.heads, ["---"] * len(table.heads), *table.rows]
    return "\n".join([f"{table.title}:", "", *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    print("\n\n".join(markdown(table) for table in tables("--times" in sys.argv[1:])))
