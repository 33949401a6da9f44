"""`--threads auto`: the number that is fastest here, or the one that what goes on here was begun with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stantune.arguments import MOST_AT_ONCE, digits
from stantune.errors import UsageError
from stantune.texts import brief

if TYPE_CHECKING:
    from rich.console import Console

    from stantune.training.threads import Measured


def threads_of(text: str | None) -> int | Literal["auto"] | None:
    """Return the value of --threads; raises UsageError where it is none."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    threads = digits(text)
    if threads is None or not 1 <= threads <= MOST_AT_ONCE:
        raise UsageError(
            f"--threads {brief(text)} is no number of threads; give 1 or more, {MOST_AT_ONCE} at most, or auto for "
            "what is fastest here"
        )
    return threads


def use_threads(console: Console, chosen: Measured | int, why: str = "it was begun with as many") -> int:
    """Set PyTorch's number of threads for `--threads auto`, and say in a line which and why; return it.

    Args:
        console: where to say it.
        chosen: what was measured, or a number that is settled.
        why: it is settled.
    """
    import torch

    if isinstance(chosen, int):
        threads, words = chosen, f"threads: {chosen} ({why})"
    else:
        threads, words = chosen.threads, chosen.words
    torch.set_num_threads(threads)
    console.print(words, soft_wrap=True)
    return threads
