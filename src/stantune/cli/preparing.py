"""What a command sees to before it trains: that data is there, and that people know where STAN does nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Imported for real where they are used: PyTorch and Optuna take seconds, and `--help` needs none of them.
    from rich.console import Console

    from stantune.images.problem.built_in import Problem, Splits
    from stantune.stan.config import Stan


def load_splits(problem: Problem, data: Path | None, console: Console, full: bool = False) -> Splits:
    """Return the problem's data; a built-in data set that is not there yet is fetched first."""
    fetch_data(problem, data, console)
    return problem.load(data, full=full)


def fetch_data(problem: Problem, data: Path | None, console: Console) -> None:
    """Fetch the problem's data set if it is a built-in one that is not there yet."""
    from stantune.images.data import fetch, is_present

    if isinstance(problem.data, str) and not is_present(problem.data, data):
        fetch(problem.data, data, say=lambda line: console.print(line, soft_wrap=True))


def warn_of_no_effect(problem: Problem, stan: Stan | None, console: Console) -> None:
    """Say once, before the first trial, where STAN changes nothing; the trials themselves are silent about it."""
    import warnings

    from stantune.errors import NoEffectWarning
    from stantune.images.no_effect import of_no_effect

    if stan is None:
        return
    for sentence in of_no_effect(problem, stan):
        console.print(sentence, soft_wrap=True)
    warnings.simplefilter("ignore", NoEffectWarning)


def warn_of_no_kernels(device: str, console: Console) -> None:
    """Say where STAN trains without its native kernels, which takes several times as long."""
    from stantune.kernels.library import lack

    if device == "cpu" and lack():
        console.print(f"note: {lack()}", soft_wrap=True)
