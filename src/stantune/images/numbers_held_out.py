"""What a search notes of whole numbers that are held out, where only a function's data tell if these are classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stantune.errors import StantuneError
from stantune.images.problem.problem import Problem, Splits

NOTE = "numbers-held-out"


def noted_of(splits: Splits) -> dict[str, Any]:
    """Return what a training notes of the data that it is given; nothing of most."""
    return {NOTE: "at random"} if splits.drawn else {}


def numbers_held_out(problem: Problem, root: Path | None, begun: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is added to a search's identity: that whole numbers which are no classes are drawn at random.

    Searches from before held these out by their size, and noted nothing. One that is gone on with is known again where
    its data hold no such numbers, and is another one where they do. No other needs its data for that.

    Args:
        problem: what is searched.
        root: where data sets are kept, None for the default.
        begun: the identity of the search that is gone on with; None where it begins.
    """
    if not problem.may_draw_numbers:
        return {}
    if begun is not None and NOTE not in begun:
        try:
            if not problem.draws_numbers(root):
                return {}
        except StantuneError:
            # Nobody can tell here. Where the data are elsewhere, as on a cluster's nodes, it goes on unseen.
            return {}
    return {NOTE: "at random"}
