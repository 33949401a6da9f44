"""For commands that show what STAN does: refuses problems in which it does nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stantune.errors import NoEffectWarning, UsageError

if TYPE_CHECKING:
    from stantune.images.problem.built_in import Problem
    from stantune.stan.config import Stan


def check_effect(problem: Problem, setting: Mapping[str, Any], stan: Stan) -> None:
    """Raise UsageError, before any data are loaded, where STAN changes nothing in the network of this setting.

    What the planner would leave of a rate of "auto" shows only later.
    """
    from stantune.stan.surgery import accelerate_

    with effective(problem):
        accelerate_(problem.tried(setting), replace(stan, rate=0.5) if stan.rate == "auto" else stan)


@contextmanager
def effective(problem: Problem) -> Iterator[None]:
    """Turn the warning that STAN changes nothing into UsageError; native kernels, which are exact, are no change."""
    from stantune.kernels.library import plain_pytorch

    with plain_pytorch(), warnings.catch_warnings():
        warnings.simplefilter("error", NoEffectWarning)
        try:
            yield
        except NoEffectWarning as warning:
            raise UsageError(f"problem {problem.name!r} has nothing to look at: {warning}") from warning
