"""What a search is known again by, in one way of saying it where there are several."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stantune.errors import UsageError
from stantune.search.plan.hyperband import plan


def kind_of(device: str) -> str:
    """Return what a device is without which one: under "cuda" trainings may be on any, so "cuda:1" is no other."""
    return device.partition(":")[0]


def said_alike(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity as it is compared and kept: a device by its kind, and as many brackets as there are as "all".

    Tables of earlier versions have them as they were given.
    """
    said = dict(identity)
    if isinstance(device := said.get("device"), str):
        said["device"] = kind_of(device)
    # Of a measured plan there is no such number: it has as many as are asked for.
    if isinstance(said.get("brackets"), int) and "search-plan" not in said:
        # Where there is no such plan, it is another search in any case.
        with suppress(KeyError, TypeError, UsageError):
            every = plan(*(said[name] for name in ("max-iterations", "min-iterations", "eta", "variant")))
            said["brackets"] = "all" if said["brackets"] == len(every) else said["brackets"]
    return said
