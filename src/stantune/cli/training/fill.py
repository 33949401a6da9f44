"""--fill: what skipped entries receive, for the commands that train one setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stantune.errors import UsageError
from stantune.texts import brief

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem, Splits
    from stantune.stan.config import Stan

Fill = Annotated[str, typer.Option("--fill", metavar="neighbour|memo", help="What STAN's skipped entries receive.")]


def check_fill(fill: str) -> None:
    """Raise UsageError for a fill that does not exist."""
    if fill not in ("neighbour", "memo"):
        raise UsageError(f"--fill {brief(fill)} is unknown; give neighbour or memo")


def filled(stan: Stan, fill: str, problem: Problem, splits: Splits, setting: Mapping[str, Any]) -> Stan:
    """Return the settings with that fill; a memory is of all training images, and its cycles are their epochs."""
    if fill == "neighbour":
        return stan
    from stantune.stan.config import Memo

    images = len(splits.train)
    # Samples are known by their ids, which have gaps where others were held out.
    samples = int(splits.train.ids.max()) + 1
    return replace(stan, memo=Memo(samples=samples, epoch=max(images // problem.batch_size_of(setting), 1)))
